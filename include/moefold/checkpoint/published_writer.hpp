#pragma once
// Writes a published model from the pieces that ranks own: every rank knows the same plan and so the same files, one of them makes the files, then each
// writes its elements where they belong. Nothing is gathered, and no rank holds more than its own.
//
//   every rank  published_writer out(disk, folder, plan)        the plan decides names, files and bytes
//   one rank    out.create()             | barrier |            headers, sizes, index
//   every rank  out.write(piece, ..) ... out.finish() | barrier, then one rank renames the folder to its last name
#include <moefold/checkpoint/published.hpp>

namespace moefold {

/// One per rank; not thread-safe. Writing an element twice, or not at all, is not noticed: compare the sum of written() over ranks with elements().
class published_writer {
 public:
  static constexpr std::uint64_t default_file_bytes = 5'000'000'000;

  /// `path`: a folder, or the name of one .safetensors file that takes all. Tensors go into files in the order given; a new one begins where `file_bytes` of data
  /// would be exceeded. Local; touches no disk. Throws config_error for tensors that no file can hold.
  published_writer(storage& disk, const std::string& path, std::vector<tensor_to_store> plan, std::uint64_t file_bytes = default_file_bytes,
                   std::map<std::string, std::string> metadata = {{"format", "pt"}})
      : disk_(disk), plan_(std::move(plan)) {
    const bool single = is_safetensors_path(path);
    std::vector<std::size_t> first{0};  // tensor of each file
    std::uint64_t used = 0;
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      const std::uint64_t bytes = plan_[i].bytes();
      if (!single && used > 0 && bytes > file_bytes - std::min(used, file_bytes)) first.push_back(i), used = 0;
      used += bytes;
      total_ += bytes;
    }
    first.push_back(plan_.size());
    const std::size_t files = first.size() - 1;
    if (!single) folder_ = path.ends_with('/') ? path : path + "/";
    for (std::size_t f = 0; f < files; ++f) {
      const std::string name = single ? path : files == 1 ? single_file_name : numbered(f + 1, files);
      const auto tensors = std::span(plan_).subspan(first[f], first[f + 1] - first[f]);
      files_.push_back({name, lay_out(tensors, metadata), nullptr});
      for (std::size_t i = first[f]; i < first[f + 1]; ++i) {
        const bool added = places_.try_emplace(plan_[i].name, place{i, f, files_[f].layout.begin[i - first[f]]}).second;
        require<config_error>(added, "moefold: two tensors to be written are called '", plan_[i].name, "'; give each its own name");
      }
    }
  }

  /// What transformers looks for beside the tensors, such as model.safetensors; relative to the folder.
  std::vector<std::string> file_names() const {
    std::vector<std::string> names;
    for (const file& f : files_) names.push_back(f.name);
    return names;
  }
  std::uint64_t bytes() const {  // of all files, without the index
    std::uint64_t all = 0;
    for (const file& f : files_) all += f.layout.file_size;
    return all;
  }
  std::uint64_t elements() const {
    std::uint64_t all = 0;
    for (const tensor_to_store& t : plan_) all += t.bytes() / bytes_of(t.type);
    return all;
  }
  std::uint64_t written() const { return written_; }  // elements, by this writer

  /// Makes the folder, the files with their headers and full sizes, and the index. Local: one rank calls it, before any writes. Throws storage_error, also where
  /// a file of such a name exists.
  void create() {
    if (!folder_.empty()) disk_.make_folder(folder_);
    for (file& f : files_) {
      f.opened = disk_.create(folder_ + f.name);
      f.opened->write(0, std::as_bytes(std::span(f.layout.header)));
      const std::byte zero{0};
      if (f.layout.file_size > f.layout.header.size()) f.opened->write(f.layout.file_size - 1, std::span(&zero, 1));
    }
    if (files_.size() == 1) return;
    const auto index = disk_.create(folder_ + index_file_name);
    const std::string text = index_text();
    index->write(0, std::as_bytes(std::span(text)));
    index->sync();
  }

  /// Writes a piece of a tensor of ours, in its order: `from` holds piece.range.size() numbers of type `type`. The elements become the type of the plan.
  /// Local. Throws error where the plan has no such tensor or place, storage_error.
  void write(const tensor_piece& piece, std::span<const published_segment> segments, dtype type, std::span<const std::byte> from) {
    const file_dtype held = file_dtype_of(type);
    require(from.size() == std::uint64_t(piece.range.size()) * bytes_of(held), "moefold: a piece of ", piece.range.size(), " elements of ",
            name_of(type), " is not ", from.size(), " bytes");
    const published_segment* last = nullptr;
    place to{};
    for_each_published_run(piece, segments, [&](const published_segment& s, extent_t first, extent_t local, extent_t count) {
      if (last != &s) to = checked_place(s), last = &s;
      const file_dtype wanted = plan_[to.tensor].type;
      const std::uint64_t width = bytes_of(wanted);
      for (std::uint64_t done = 0, all = std::uint64_t(count); done < all;) {
        const std::uint64_t n = std::min(all - done, most / width), at = to.begin + (std::uint64_t(first) + done) * width;
        if (pending_.file != to.file || at != pending_.begin + pending_.bytes.size() || pending_.bytes.size() + n * width > most) {
          flush();
          pending_.file = to.file, pending_.begin = at;
        }
        const std::size_t filled = pending_.bytes.size();
        pending_.bytes.resize(filled + std::size_t(n * width));
        const std::uint64_t begin = (std::uint64_t(local) + done) * bytes_of(held);
        convert(span_at(from, begin, n * bytes_of(held)), held, std::span(pending_.bytes).subspan(filled), wanted);
        done += n;
      }
      written_ += std::uint64_t(count);
    });
    flush();
  }

  /// Returns when all that this rank wrote would survive a power failure. Local.
  void finish() {
    for (file& f : files_)
      if (f.opened) f.opened->sync();
    if (!folder_.empty()) disk_.sync_folder(folder_);
  }

  std::string index_text() const {
    json_writer json(2);
    json.begin('{').key("metadata").begin('{').key("total_size").value(total_).end().key("weight_map").begin('{');
    for (const auto& [name, at] : places_) json.key(name).value(files_[at.file].name);
    return json.end().end().text() + "\n";
  }

 private:
  static constexpr std::uint64_t most = 1 << 20;  // bytes that are written at once
  struct file {
    std::string name;
    safetensors_layout layout;
    std::unique_ptr<storage_file> opened;
  };
  struct place {
    std::size_t tensor, file;
    std::uint64_t begin;  // byte of the file
  };
  struct {
    std::size_t file = 0;
    std::uint64_t begin = 0;
    std::vector<std::byte> bytes;
  } pending_;

  static std::string numbered(std::size_t file, std::size_t files) {  // from 1
    const auto five = [](std::size_t n) {
      const std::string digits = std::to_string(n);
      return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    return "model-" + five(file) + "-of-" + five(files) + ".safetensors";
  }
  place checked_place(const published_segment& s) const {
    const auto at = places_.find(s.tensor);
    require(at != places_.end(), "moefold: the plan of what is written has no tensor '", s.tensor, "'");
    const tensor_to_store& t = plan_[at->second.tensor];
    const std::uint64_t elements = t.bytes() / bytes_of(t.type);
    require(std::uint64_t(s.first_in_tensor) <= elements && std::uint64_t(s.count) <= elements - std::uint64_t(s.first_in_tensor),
            "moefold: tensor '", s.tensor, "' has ", elements, " elements in the plan; ", s.count, " from ", s.first_in_tensor,
            " are to be written");
    return at->second;
  }
  void flush() {
    if (pending_.bytes.empty()) return;
    file& f = files_[pending_.file];
    if (!f.opened) f.opened = disk_.open_for_writing(folder_ + f.name);
    f.opened->write(pending_.begin, pending_.bytes);
    pending_.bytes.clear();
  }

  storage& disk_;
  std::vector<tensor_to_store> plan_;
  std::string folder_;  // with its '/'; empty: one file
  std::vector<file> files_;
  std::map<std::string, place> places_;
  std::uint64_t total_ = 0, written_ = 0;
};

}  // namespace moefold
