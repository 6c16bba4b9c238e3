#pragma once
// Reads a checkpoint back, under whatever mapping this run has: every rank reads the parts of the saved pieces that its own pieces need, whole chunks of 1 MiB,
// each compared with its hash before an element of it is used.
//
//   rank 0 finds the save and reads its manifest -> all ranks have the same bytes -> each checks a share of the files -> each reads its tensors, calls set
//   saved fp32, wanted fp64 or bf16: converted on the way; integers only to themselves
// A load that throws throws on all ranks and leaves what it was loading into as it happens to be: some tensors set, others not. Do not use it any further.
#include <moefold/checkpoint/agreement.hpp>
#include <moefold/checkpoint/content.hpp>
#include <moefold/checkpoint/folder.hpp>

#include <map>

namespace moefold {

/// What a load gives besides the tensors.
struct loaded_checkpoint {
  std::string folder;  // of the save: DIR/step-00000200
  std::int64_t step = 0;
  int world = 0;                         // ranks that wrote it
  std::vector<checkpoint_array> arrays;  // by name
  std::map<std::string, std::string> notes;

  /// Throws format_error where there is none.
  const checkpoint_array& array(std::string_view name) const {
    for (const checkpoint_array& a : arrays)
      if (a.name == name) return a;
    require_file(false, path_in(folder, manifest_file), 0, "it holds no array '", name,
                 "', which this run needs; it is another program's, or an older one's");
    return arrays.front();
  }
  const std::string& note(const std::string& name) const {
    const auto at = notes.find(name);
    require_file(at != notes.end(), path_in(folder, manifest_file), 0, "it holds no note '", name,
                 "', which this run needs; it is another program's, or an older one's");
    return at->second;
  }
};

namespace detail {

/// The files of one save, opened when they are needed, and read chunk by chunk.
class save_reader {
 public:
  save_reader(storage& from, std::string folder, const checkpoint_manifest& manifest)
      : from_(from), folder_(std::move(folder)), manifest_(manifest) {}

  /// That file `index` is there, has its size, and begins with the header it was written with.
  void check(std::size_t index) {
    const saved_file& f = manifest_.files[index];
    storage_file& file = open(index);
    const std::uint64_t size = file.size();
    require_file<incomplete_checkpoint>(size == f.bytes, file.path(), std::min(size, f.bytes), "it has ", size, " bytes, was written with ",
                                        f.bytes, "; it is cut short or another save's, take an older save");
    std::vector<std::byte> header(std::size_t(f.header));
    file.read(0, header);
    require_file<checksum_mismatch>(part_hash(manifest_.id, manifest_.step, f.name, "")(0, header) == f.hash, file.path(), 0,
                                    "its header is not what was written; it is damaged or another save's, take an older save");
  }

  /// Elements of a saved piece into `to`, in runs with rising places in the piece.
  void read(const saved_tensor& t, const saved_piece& piece, std::span<const shared_run> runs, dtype type, std::span<std::byte> to) {
    const std::uint64_t size = element_bytes(t.type), wanted = element_bytes(type), per_chunk = checkpoint_chunk / size;
    const std::uint64_t length = std::uint64_t(piece.piece.range.size()) * size;
    const part_hash hash(manifest_.id, manifest_.step, manifest_.files[piece.file].name, t.name);
    std::uint64_t held = piece.hashes.size();  // none
    std::span<const std::byte> chunk;
    for (const shared_run& run : runs)
      for (std::uint64_t done = 0, count = std::uint64_t(run.count); done < count;) {
        const std::uint64_t at = std::uint64_t(run.first_in_saved) + done, index = at / per_chunk, inside = at % per_chunk;
        if (index != held) {
          const std::uint64_t first = index * checkpoint_chunk, bytes = std::min(checkpoint_chunk, length - first);
          chunk_.resize(std::size_t(checkpoint_chunk));
          const std::span<std::byte> room = span_at(std::span(chunk_), 0, bytes);
          storage_file& file = open(piece.file);
          file.read(piece.offset + first, room);
          require_file<checksum_mismatch>(
              hash(index, room) == piece.hashes[std::size_t(index)], file.path(), piece.offset + first, "the ", bytes,
              " bytes from here, of '", shown_text(t.name),
              "', are not what was written; the disk has changed them, or the file is another save's: take an older save");
          chunk = room;
          held = index;
        }
        const std::uint64_t now = std::min(count - done, per_chunk - inside);
        convert(span_at(chunk, inside * size, now * size), file_dtype_of(t.type),
                span_at(to, (std::uint64_t(run.first_in_wanted) + done) * wanted, now * wanted), file_dtype_of(type));
        done += now;
      }
  }

  /// All that a piece wants of a tensor.
  void read(const saved_tensor& t, const tensor_piece& wanted, dtype type, std::span<std::byte> to) {
    std::vector<tensor_piece> saved;
    saved.reserve(t.pieces.size());
    for (const saved_piece& p : t.pieces) saved.push_back(p.piece);
    const std::vector<shared_run> runs = reshard(saved, wanted);
    extent_t found = 0;
    for (std::size_t first = 0; first < runs.size();) {
      std::size_t last = first;
      while (last < runs.size() && runs[last].saved == runs[first].saved) found += runs[last++].count;
      read(t, t.pieces[runs[first].saved], std::span(runs).subspan(first, last - first), type, to);
      first = last;
    }
    require(found == wanted.range.size(), "moefold: only ", found, " of ", wanted.range.size(), " elements of '", t.name, "' were found");
  }

 private:
  storage_file& open(std::size_t index) {
    if (const auto at = files_.find(index); at != files_.end()) return *at->second;
    if (files_.size() >= 64) files_.clear();
    const std::string path = path_in(folder_, manifest_.files[index].name);
    require_file<incomplete_checkpoint>(from_.exists(path), path, 0, "it is not there; the save was written by ", manifest_.files.size(),
                                        " ranks and has lost this one's file, take an older save");
    return *files_.emplace(index, from_.open(path)).first->second;
  }

  storage& from_;
  std::string folder_;
  const checkpoint_manifest& manifest_;
  std::map<std::size_t, std::unique_ptr<storage_file>> files_;
  std::vector<std::byte> chunk_;
};

inline const saved_tensor* tensor_of(const std::vector<saved_tensor>& all, const std::string& name) {
  const auto at = std::lower_bound(all.begin(), all.end(), name, [](const saved_tensor& t, const std::string& n) { return t.name < n; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

}  // namespace detail

/// Sets this rank's tensors from the save that find_checkpoint(from, path) gives. Collective; the ranks may be others, and cut in another way, than those that
/// saved. Throws on all ranks: config_error where there is no save, incomplete_checkpoint where files or tensors are missing, checksum_mismatch where bytes are
/// not those written, format_error where it is another model's. Memory: the largest piece of this rank, a chunk, and the manifest.
template <class Comm>
loaded_checkpoint load_checkpoint(host_exec e, Comm& comm, storage& from, const std::string& path,
                                  const std::vector<checkpoint_tensor>& tensors) {
  failure_note note;
  std::vector<std::byte> folder, text;  // rank 0 looks, so that all load the same save
  if (comm.rank() == 0)
    note.attempt([&] {
      const std::string save = find_checkpoint(from, path);
      const auto file = from.open(path_in(save, manifest_file));
      text.resize(std::size_t(file->size()));
      file->read(0, text);
      const auto name = bytes_of(save);
      folder.assign(name.begin(), name.end());
    });
  agree(e, comm, note);
  broadcast_bytes(e, comm, folder, 0);
  broadcast_bytes(e, comm, text, 0);

  loaded_checkpoint loaded;
  checkpoint_manifest manifest;
  std::vector<std::int32_t> known;  // of the manifest's tensors: 1 where a rank has one
  const std::string at(text_of(folder)), manifest_path = path_in(at, manifest_file);
  note.attempt([&] {
    manifest = parse_manifest(text_of(text), manifest_path);
    known.resize(manifest.tensors.size());
    for (const checkpoint_tensor& wanted : tensors) {
      const tensor_piece piece = unpadded(wanted.piece);
      if (piece.where.global.size() == 0) continue;
      const saved_tensor* const saved = detail::tensor_of(manifest.tensors, wanted.name);
      require_file<incomplete_checkpoint>(saved != nullptr, manifest_path, 0, "it holds no tensor '", wanted.name,
                                          "', which this run has; resume with the model and the optimizer that saved it");
      require_file(saved->extent == piece.where.global, manifest_path, 0, "'", wanted.name, "' was saved as ", saved->extent.text(),
                   ", this run needs ", piece.where.global.text(), "; resume with the model that saved it");
      require_file(converts(file_dtype_of(saved->type), file_dtype_of(wanted.type)), manifest_path, 0, "'", wanted.name, "' was saved as ",
                   name_of(saved->type), ", which does not become the ", name_of(wanted.type), " this run needs");
      known[std::size_t(saved - manifest.tensors.data())] = 1;
    }
  });
  agree(e, comm, note);
  comm.all_reduce(e, std::span<const std::int32_t>(known), std::span<std::int32_t>(known), max{}).wait(e);

  detail::save_reader reader(from, at, manifest);
  note.attempt([&] {
    const auto unknown = std::find(known.begin(), known.end(), 0);
    require_file(unknown == known.end(), manifest_path, 0, "it holds '",
                 unknown == known.end() ? "" : shown_text(manifest.tensors[std::size_t(unknown - known.begin())].name),
                 "', which this run does not have; resume with the model and the optimizer that saved it");
    for (std::size_t i = std::size_t(comm.rank()); i < manifest.files.size(); i += std::size_t(comm.size())) reader.check(i);
    if (comm.rank() == 0) {
      for (const std::string& name : from.list(at)) {
        const bool listed = std::any_of(manifest.files.begin(), manifest.files.end(), [&](const saved_file& f) { return f.name == name; });
        require_file(listed || !name.starts_with("rank-"), path_in(at, name), 0, "it belongs to no rank of this save, which ",
                     manifest.files.size(), " ranks wrote; move it away, or take an older save");
      }
    }
  });
  agree(e, comm, note);  // from here on files have the sizes that the manifest says
  if (comm.rank() == 0)
    note.attempt([&] {
      for (const saved_tensor& a : manifest.arrays) {
        checkpoint_array array{a.name, a.type, std::vector<std::byte>(std::size_t(a.extent.size()) * std::size_t(element_bytes(a.type)))};
        const box all{a.extent, {}, a.extent};
        reader.read(a, {all, {0, all.size()}, all.size()}, a.type, array.bytes);
        loaded.arrays.push_back(std::move(array));
      }
    });
  agree(e, comm, note);
  if (comm.rank() != 0)
    for (const saved_tensor& a : manifest.arrays) loaded.arrays.push_back({a.name, a.type, {}});
  for (checkpoint_array& a : loaded.arrays) broadcast_bytes(e, comm, a.bytes, 0);
  note.attempt([&] {
    std::vector<std::byte> bytes;
    for (const checkpoint_tensor& wanted : tensors) {
      require<config_error>(bool(wanted.set), "moefold: '", wanted.name, "' has no set; what is loaded needs one");
      const tensor_piece piece = unpadded(wanted.piece);
      bytes.resize(wanted.bytes());
      if (!bytes.empty()) reader.read(*detail::tensor_of(manifest.tensors, wanted.name), piece, wanted.type, bytes);
      wanted.set(bytes);
    }
  });
  agree(e, comm, note);
  loaded.folder = at;
  loaded.step = manifest.step;
  loaded.world = int(manifest.files.size());
  loaded.notes = std::move(manifest.notes);
  return loaded;
}

}  // namespace moefold
