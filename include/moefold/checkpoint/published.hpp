#pragma once
// A published model: a folder of safetensors files with tensors under its family's names. Each rank reads from it what it owns and nothing more, in the
// type it computes with; which of our elements are which of theirs is a list of segments (model/names.hpp makes it).
//
//   ours   moe.gate [E, F, H]   | expert 0 | expert 1 | ...         a piece of it (mesh/slice.hpp) -> runs -> blocks of one file, read once
//   theirs  segments             experts.0.gate_proj  experts.1.gate_proj  ...
#include <moefold/checkpoint/convert.hpp>
#include <moefold/checkpoint/published_segment.hpp>
#include <moefold/checkpoint/shard_index.hpp>
#include <moefold/mesh/slice.hpp>

#include <deque>
#include <mutex>

namespace moefold {

/// Calls f(segment, first element in its tensor, first in the piece, count) for the runs of a piece, in order. The segments are those of the whole tensor, in
/// order and without gaps; throws error where they are not.
template <class F>
void for_each_published_run(const tensor_piece& piece, std::span<const published_segment> segments, F&& f) {
  extent_t end = 0;
  for (const published_segment& s : segments) {
    require(s.first == end && s.count > 0 && s.first_in_tensor >= 0, "moefold: the segment of '", s.tensor, "' begins at ", s.first,
            " with ", s.count, " elements; the next one needed begins at ", end);
    end += s.count;
  }
  require(end == piece.real, "moefold: published tensors give ", end, " elements of a tensor that has ", piece.real);
  piece.for_each_run([&](extent_t global, extent_t local, extent_t count) {
    auto s = std::prev(
        std::upper_bound(segments.begin(), segments.end(), global, [](extent_t g, const published_segment& p) { return g < p.first; }));
    for (; count > 0; ++s) {
      const extent_t inside = global - s->first, n = std::min(count, s->count - inside);
      f(*s, s->first_in_tensor + inside, local, n);
      global += n, local += n, count -= n;
    }
  });
}

inline constexpr const char* single_file_name = "model.safetensors";
inline constexpr const char* index_file_name = "model.safetensors.index.json";
inline bool is_safetensors_path(std::string_view path) { return path.ends_with(".safetensors"); }

/// Thread-safe; ranks of one process may share one. Opening reads the index and every header, checks them all and that each tensor is where the index says.
class published_reader {
 public:
  /// `path`: a folder with model.safetensors or model.safetensors.index.json and its files, or one .safetensors file. Throws config_error where there is
  /// neither, format_error for a file that is malformed, what reading throws. The disk outlives the reader.
  published_reader(storage& disk, const std::string& path) : disk_(disk), path_(path) {
    const std::string folder = path.ends_with('/') ? path : path + "/";
    if (is_safetensors_path(path)) {
      add_file(path);
    } else if (disk.exists(folder + index_file_name)) {
      read_index(folder);
    } else {
      require<config_error>(disk.exists(folder + single_file_name), "moefold: '", path, "' holds neither ", single_file_name, " nor ",
                            index_file_name, "; name the folder of a model in safetensors files, or one such file");
      add_file(folder + single_file_name);
    }
  }

  std::size_t size() const { return index_ ? index_->size() : headers_[0].size(); }
  /// Tensor i by name.
  stored_tensor operator[](std::size_t i) const { return index_ ? *headers_[index_->file_of(i)].find(index_->name(i)) : headers_[0][i]; }
  std::optional<stored_tensor> find(std::string_view name) const {
    const std::optional<place> at = place_of(name);
    return at ? std::optional(at->tensor) : std::nullopt;
  }
  /// Their bytes in the files.
  std::uint64_t bytes() const {
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < size(); ++i) total += (*this)[i].end - (*this)[i].begin;
    return total;
  }

  /// Fills `out` with a piece, in its order, as numbers of type `to`; padding elements of the piece are left as they are. out: piece.range.size() numbers.
  /// Local. Throws format_error that names the tensor where it is missing, has another shape, or holds no floating numbers. Takes 1 MiB besides.
  void read(const tensor_piece& piece, std::span<const published_segment> segments, dtype to, std::span<std::byte> out) const {
    const file_dtype type = file_dtype_of(to);
    const std::uint64_t size = bytes_of(type);
    require(out.size() == std::uint64_t(piece.range.size()) * size, "moefold: a piece of ", piece.range.size(), " elements of ",
            name_of(to), " does not fill ", out.size(), " bytes");
    block now;
    const published_segment* last = nullptr;
    std::optional<place> from;
    for_each_published_run(piece, segments, [&](const published_segment& s, extent_t first, extent_t local, extent_t count) {
      if (last != &s) from = checked_place(s, type), last = &s;
      const std::uint64_t width = bytes_of(from->tensor.type), begin = from->tensor.begin + std::uint64_t(first) * width;
      const std::uint64_t length = std::uint64_t(count) * width;
      if (from->tensor.type == type && length >= direct) {
        flush(now, type, out);
        open(from->file)->read(begin, span_at(out, std::uint64_t(local) * size, length));
        return;
      }
      for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t n = std::min(length - done, most);
        const std::uint64_t at = begin + done;
        if (now.file != from->file || at < now.end || at - now.end > gap || at + n - now.begin > most || now.type != from->tensor.type) {
          flush(now, type, out);
          now.file = from->file, now.type = from->tensor.type, now.begin = at;
        }
        now.end = at + n;
        now.parts.push_back({at - now.begin, n, (std::uint64_t(local) + done / width) * size});
        done += n;
      }
    });
    flush(now, type, out);
  }

 private:
  static constexpr std::uint64_t most = 1 << 20;  // bytes of a block that is read at once to pick parts of it
  static constexpr std::uint64_t gap = 16 << 10;  // bytes that are read and dropped rather than begin another read: about what a call costs
  static constexpr std::uint64_t direct = 128 << 10;  // bytes from which a run goes straight to where it belongs
  static constexpr std::size_t most_open = 8;         // files at a time
  struct place {
    std::size_t file;
    stored_tensor tensor;
  };
  struct part {
    std::uint64_t first, bytes, out;  // in the block, in bytes; byte of the output
  };
  struct block {
    std::size_t file = ~std::size_t{0};
    file_dtype type{};
    std::uint64_t begin = 0, end = 0;
    std::vector<part> parts;
    std::vector<std::byte> bytes;
  };

  void add_file(const std::string& path) {
    headers_.push_back(read_safetensors_header(*disk_.open(path)));
    paths_.push_back(path);
  }
  void read_index(const std::string& folder) {
    const std::string name = folder + index_file_name;
    const auto file = disk_.open(name);
    const std::uint64_t size = file->size();
    require_file(size <= shard_index::most_bytes, name, 0, "it has ", size, " bytes, an index at most ", shard_index::most_bytes);
    std::vector<std::byte> json(std::size_t(size), std::byte{0});
    file->read(0, json);
    index_ = shard_index::parse(text_of(json), name);
    for (const std::string& shard : index_->files()) {
      require_file(disk_.exists(folder + shard), name, 0, "the file '", shard, "' that it names is missing; copy it here");
      add_file(folder + shard);
    }
    for (std::size_t i = 0; i < index_->size(); ++i)
      require_file(headers_[index_->file_of(i)].find(index_->name(i)).has_value(), name, 0, "tensor '", shown_text(index_->name(i)),
                   "' is not in '", index_->files()[index_->file_of(i)], "', which it names");
  }
  std::optional<place> place_of(std::string_view name) const {
    std::size_t file = 0;
    if (index_) {
      const std::size_t i = index_->lower_bound(name);
      if (i == index_->size() || index_->name(i) != name) return std::nullopt;
      file = index_->file_of(i);
    }
    const std::optional<stored_tensor> tensor = headers_[file].find(name);
    return tensor ? std::optional(place{file, *tensor}) : std::nullopt;
  }
  /// Where a segment's tensor lies; it is as the segment needs it, and becomes numbers of `type`.
  place checked_place(const published_segment& s, file_dtype type) const {
    const std::optional<place> at = place_of(s.tensor);
    require_file(at.has_value(), path_, 0, "there is no tensor '", s.tensor, "' among ", size(), at ? "" : some_names(s.tensor));
    const stored_tensor& t = at->tensor;
    const std::string& file = paths_[at->file];
    require_file(converts(t.type, type), file, t.begin, "tensor '", s.tensor, "' is of ", name_of(t.type),
                 ", needed are numbers that become ", name_of(type), ": F64, F32, F16 or BF16");
    std::vector<std::uint64_t> needed;
    for (int i = 0; i < s.needed.rank; ++i) needed.push_back(std::uint64_t(s.needed[i]));
    require_file(needed.empty() || std::equal(needed.begin(), needed.end(), t.shape.begin(), t.shape.end()), file, t.begin, "tensor '",
                 s.tensor, "' has shape ", text_of_shape(t.shape), ", the model needs ", text_of_shape(needed));
    const std::uint64_t elements = (t.end - t.begin) / bytes_of(t.type);
    require_file(std::uint64_t(s.first_in_tensor) <= elements && std::uint64_t(s.count) <= elements - std::uint64_t(s.first_in_tensor),
                 file, t.begin, "tensor '", s.tensor, "' ", text_of_shape(t.shape), " has ", elements, " elements, the model needs ",
                 s.count, " from ", s.first_in_tensor);
    return *at;
  }
  std::string some_names(std::string_view near) const {
    std::size_t first = 0;
    while (first < size() && (*this)[first].name < near) ++first;
    first = first > 1 ? first - 2 : 0;
    std::string out = ", for example ";
    for (std::size_t i = first; i < std::min(size(), first + 4); ++i)
      out += sentence(i > first ? ", '" : "'", shown_text((*this)[i].name), "'");
    return size() == 0 ? std::string() : out;
  }
  std::shared_ptr<storage_file> open(std::size_t file) const {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, opened] : open_)
      if (number == file) return opened;
    if (open_.size() >= most_open) open_.pop_front();
    open_.emplace_back(file, disk_.open(paths_[file]));
    return open_.back().second;
  }
  void flush(block& now, file_dtype type, std::span<std::byte> out) const {
    if (now.parts.empty()) return;
    now.bytes.resize(std::size_t(now.end - now.begin));
    open(now.file)->read(now.begin, now.bytes);
    const std::span<const std::byte> bytes(now.bytes);
    for (const part& p : now.parts)
      convert(span_at(bytes, p.first, p.bytes), now.type, span_at(out, p.out, p.bytes / bytes_of(now.type) * bytes_of(type)), type);
    now.parts.clear();
    now.file = ~std::size_t{0};
  }

  storage& disk_;
  std::string path_;
  std::vector<std::string> paths_;
  std::vector<safetensors_header> headers_;
  std::optional<shard_index> index_;
  mutable std::mutex mutex_;
  mutable std::deque<std::pair<std::size_t, std::shared_ptr<storage_file>>> open_;
};

}  // namespace moefold
