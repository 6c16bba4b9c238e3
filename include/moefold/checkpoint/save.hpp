#pragma once
// Writes a checkpoint: each rank its own file, all at once, then rank 0 the manifest, and only then has the save a name. Begun and finished apart, the files are
// written by a thread of each rank, from a copy, while training goes on.
//
//   checkpoint_writer saves(disk(), "run/checkpoints");
//   saves.begin(e, world, content);     copies what is to be saved: the time of a memcpy, and the memory
//   ... steps ...                       saves.ready() says, without waiting, whether this rank's file is written
//   saves.finish(e, world);             waits, and makes the save the latest; or saves.save(e, world, content): both at once, without the copy
// A save that fails on one rank throws on all of them, and the one before stays the latest. Files lie on one file system that all ranks see.
#include <moefold/checkpoint/agreement.hpp>
#include <moefold/checkpoint/content.hpp>
#include <moefold/checkpoint/folder.hpp>

#include <atomic>
#include <numeric>
#include <random>
#include <thread>

namespace moefold {

namespace detail {

/// One tensor or array in a rank's file.
struct part_to_save {
  std::string name;
  dtype type{};
  tensor_piece piece;  // without padding
  std::size_t bytes = 0;
  bool array = false;
  std::size_t index = 0;  // in the content's tensors or arrays
};

inline std::vector<part_to_save> parts_of(const checkpoint_content& content, bool with_arrays) {
  std::vector<part_to_save> parts;
  for (std::size_t i = 0; i < content.tensors.size(); ++i) {
    const checkpoint_tensor& t = content.tensors[i];
    const tensor_piece piece = unpadded(t.piece);
    if (!piece.range.empty()) parts.push_back({t.name, t.type, piece, t.bytes(), false, i});
  }
  for (std::size_t i = 0; with_arrays && i < content.arrays.size(); ++i) {
    const checkpoint_array& a = content.arrays[i];
    const auto count = extent_t(a.bytes.size() / element_bytes(a.type));
    const box all{{count}, {}, {count}};
    parts.push_back({a.name, a.type, {all, {0, count}, count}, a.bytes.size(), true, i});
  }
  return parts;
}

/// Bytes that are not set to zero first, and stay from one save to the next.
class byte_block {
 public:
  std::span<std::byte> take(std::size_t bytes) {
    if (bytes > size_) {
      block_.reset();
      block_ = std::unique_ptr<std::byte[]>(new std::byte[bytes]);
      size_ = bytes;
    }
    return {block_.get(), bytes};
  }

 private:
  std::unique_ptr<std::byte[]> block_;
  std::size_t size_ = 0;
};

}  // namespace detail

class checkpoint_writer {
 public:
  /// Saves go into `folder`, made where it is not there. keep: so many saves stay, 0: all (checkpoint/folder.hpp). The same on all ranks.
  checkpoint_writer(storage& to, std::string folder, int keep = 2) : to_(to), folder_(std::move(folder)), keep_(keep) {
    require<config_error>(!folder_.empty() && keep >= 0,
                          "moefold: checkpoints need the name of a folder, and keep 0 saves (all of them) or more (given ", keep, ")");
  }
  checkpoint_writer(const checkpoint_writer&) = delete;
  checkpoint_writer& operator=(const checkpoint_writer&) = delete;
  /// Waits for the thread. A save that was not finished leaves a .partial folder.
  ~checkpoint_writer() { join(); }

  const std::string& folder() const { return folder_; }
  bool running() const { return running_; }

  /// Collective: agrees on the save, then copies this rank's share of `content` and starts to write it. Throws on all ranks where the disk has too little room
  /// or the folder cannot be made. What fails later is thrown by finish.
  template <class Comm>
  void begin(host_exec e, Comm& comm, const checkpoint_content& content) {
    prepare(e, comm, content);
    running_ = true;
    note_.attempt([&] {
      const std::span<std::byte> copy = snapshot_.take(bytes_);
      std::size_t at = 0;
      for (const part& p : parts_) {
        get(content, p, copy.subspan(at, p.bytes));
        at += p.bytes;
      }
      written_ = false;
      thread_ = std::thread([this, copy] {
        note_.attempt([&] {
          std::size_t next = 0;
          write_file([&](const part& p) { return std::span<const std::byte>(copy.subspan(std::exchange(next, next + p.bytes), p.bytes)); });
        });
        written_ = true;
      });
    });
    if (!thread_.joinable()) written_ = true;  // it could not start: finish says why
  }

  /// Local, does not wait: whether finish would wait for this rank's file.
  bool ready() const { return written_; }

  /// Collective: returns when the save is complete, survives a power failure and is the latest. Else throws on all ranks what went wrong on the first of them;
  /// the latest save is then the one before, or (what failed came after) this one, and complete in either case.
  template <class Comm>
  void finish(host_exec e, Comm& comm) {
    require(running_, "moefold: finish without begin; a save begins first");
    await_all(e, comm, [this] { return written_.load(); });
    join();
    running_ = false;
    try {
      agree(e, comm, note_);
    } catch (...) {
      drop_partial(comm.rank());
      throw;
    }
    commit(e, comm);
  }

  /// The folder of the save that begin named, the same on all ranks; and on rank 0 what went wrong after it was complete, empty: nothing. Local.
  std::string last() const { return path_in(folder_, name_.text()); }
  const std::string& warning() const { return warning_; }

  /// Collective: begin and finish at once; needs memory for the largest tensor of this rank only.
  template <class Comm>
  void save(host_exec e, Comm& comm, const checkpoint_content& content) {
    prepare(e, comm, content);
    note_.attempt([&] {
      write_file([&](const part& p) {
        const std::span<std::byte> bytes = snapshot_.take(p.bytes);
        get(content, p, bytes);
        return std::span<const std::byte>(bytes);
      });
    });
    running_ = true;
    finish(e, comm);
  }

 private:
  using part = detail::part_to_save;

  void join() {
    if (thread_.joinable()) thread_.join();
  }
  std::string partial() const { return path_in(folder_, name_.text() + partial_suffix); }
  void drop_partial(int rank) {
    if (rank != 0) return;
    failure_note ignored;  // what cannot be removed now is removed by the next save
    ignored.attempt([&] { detail::remove_folder(to_, partial()); });
  }

  static void get(const checkpoint_content& content, const part& p, std::span<std::byte> to) {
    if (!p.array) {
      require<config_error>(bool(content.tensors[p.index].get), "moefold: '", p.name, "' has no get; what is saved needs one");
      content.tensors[p.index].get(to);
    } else {
      load_all(content.arrays[p.index].bytes, to);
    }
  }

  template <class Comm>
  void prepare(host_exec e, Comm& comm, const checkpoint_content& content) {
    require(!running_, "moefold: a save is under way; finish it before the next begins");
    note_ = {};
    warning_.clear();
    manifest_ = {};
    manifest_.step = content.step;
    if (comm.rank() == 0) manifest_.notes = content.notes;
    rank_ = comm.rank(), world_ = comm.size();
    note_.attempt([&] {
      require<config_error>(content.step >= 0, "moefold: a checkpoint's step is at least 0 (given ", content.step, ")");
      parts_ = detail::parts_of(content, rank_ == 0);
      bytes_ = 0;
      for (const part& p : parts_) bytes_ += p.bytes;
    });
    agree(e, comm, note_);

    std::int64_t need = std::int64_t(bytes_ + 256 * parts_.size());  // with names and places, here and in the manifest
    comm.all_reduce(e, std::span<const std::int64_t>(&need, 1), std::span<std::int64_t>(&need, 1), sum{}).wait(e);
    std::array<std::int64_t, 2> agreed{};  // attempt, id
    patiently(e, comm, note_, [&] {
      if (rank_ != 0) return;
      detail::make_lasting_folder(to_, folder_);
      remove_leftovers(to_, folder_);
      const std::uint64_t have = to_.free_bytes(folder_), needed = std::uint64_t(need) + (1 << 16);
      if (have < needed)
        throw storage_error(sentence("moefold: the checkpoint of step ", content.step, " needs ", needed, " bytes in '", folder_,
                                     "', which has ", have, " left; free some space, or keep fewer saves"),
                            folder_, ENOSPC);
      name_ = next_save(to_, folder_, content.step);
      to_.make_folder(partial());
      std::random_device any;
      agreed = {name_.attempt, std::int64_t(std::uint64_t(any()) << 32 | any())};
    });
    agree(e, comm, note_);
    comm.broadcast(e, std::span<std::int64_t>(agreed), 0).wait(e);
    name_ = {content.step, agreed[0]};
    manifest_.id = hash_text(std::uint64_t(agreed[1]));
  }

  /// This rank's file; bytes_of_part(part): its bytes, in the order of parts_. Fills this rank's part of the manifest.
  template <class Bytes>
  void write_file(Bytes&& bytes_of_part) {
    saved_file own{rank_file_name(std::size_t(rank_)), 0, 0, 0};
    std::vector<tensor_to_store> tensors;
    for (const part& p : parts_) tensors.push_back({p.name, file_dtype_of(p.type), {std::uint64_t(p.piece.range.size())}});
    const safetensors_layout layout = lay_out(tensors, {{"format", "moefold"},
                                                        {"id", manifest_.id},
                                                        {"step", std::to_string(manifest_.step)},
                                                        {"rank", std::to_string(rank_)},
                                                        {"world", std::to_string(world_)}});
    own.bytes = layout.file_size, own.header = layout.header.size();
    own.hash = part_hash(manifest_.id, manifest_.step, own.name, "")(0, bytes_of(layout.header));
    const auto file = to_.create(path_in(partial(), own.name));
    file->write(0, bytes_of(layout.header));
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const part& p = parts_[i];
      const std::span<const std::byte> bytes = bytes_of_part(p);
      saved_piece saved{p.piece, 0, layout.begin[i], {}};
      const part_hash hash(manifest_.id, manifest_.step, own.name, p.name);
      for (std::uint64_t c = 0; c < chunks_of(p.bytes); ++c)
        saved.hashes.push_back(
            hash(c, bytes.subspan(c * checkpoint_chunk, std::min<std::size_t>(checkpoint_chunk, p.bytes - c * checkpoint_chunk))));
      if (!bytes.empty()) file->write(saved.offset, bytes);
      (p.array ? manifest_.arrays : manifest_.tensors).push_back({p.name, p.type, p.piece.where.global, {}});
      if (!p.piece.range.empty()) (p.array ? manifest_.arrays : manifest_.tensors).back().pieces.push_back(std::move(saved));
    }
    file->sync();
    manifest_.files.push_back(std::move(own));
    for (auto* all : {&manifest_.tensors, &manifest_.arrays})
      std::sort(all->begin(), all->end(), [](const saved_tensor& a, const saved_tensor& b) { return a.name < b.name; });
  }

  /// Every rank's part travels to rank 0, which writes the manifest and makes the save visible.
  template <class Comm>
  void commit(host_exec e, Comm& comm) {
    const std::string mine = manifest_text(manifest_);
    std::array<std::int64_t, 1> size{std::int64_t(mine.size())};
    if (rank_ != 0) {
      const std::vector<std::uint8_t> bytes(mine.begin(), mine.end());
      comm.send(e, std::span<const std::int64_t>(size), 0).wait(e);
      comm.send(e, std::span<const std::uint8_t>(bytes), 0).wait(e);
    } else {
      for (int rank = 1; rank < world_; ++rank) {
        comm.recv(e, std::span<std::int64_t>(size), rank).wait(e);
        std::vector<std::uint8_t> bytes(std::size_t(size[0]), 0);
        comm.recv(e, std::span<std::uint8_t>(bytes), rank).wait(e);
        note_.attempt(
            [&] { add(parse_manifest(std::string(bytes.begin(), bytes.end()), rank_file_name(std::size_t(rank)), manifest_kind::part)); });
      }
    }
    bool renamed = false;
    patiently(e, comm, note_, [&] {
      if (rank_ != 0) return;
      for (auto* all : {&manifest_.tensors, &manifest_.arrays}) {
        for (saved_tensor& t : *all) {
          std::sort(t.pieces.begin(), t.pieces.end(), [](const saved_piece& a, const saved_piece& b) {
            return std::tie(a.piece.where.offset, a.piece.range.begin) < std::tie(b.piece.where.offset, b.piece.range.begin);
          });
          require_cover(t, path_in(partial(), manifest_file), 0);
        }
      }
      detail::write_synced(to_, path_in(partial(), manifest_file), manifest_text(manifest_));
      commit_save(to_, folder_, name_, renamed);
      try {
        remove_old_saves(to_, folder_, name_, keep_);
      } catch (const storage_error& failed) {
        warning_ = sentence("the save of step ", manifest_.step, " is complete, but an older one could not be removed: ", failed.what());
      }
    });
    if (note_.failed() && !renamed) drop_partial(rank_);
    agree(e, comm, note_);
  }

  void add(checkpoint_manifest theirs) {
    for (auto [to, from] : {std::pair(&manifest_.tensors, &theirs.tensors), std::pair(&manifest_.arrays, &theirs.arrays)}) {
      std::vector<saved_tensor> joined;
      auto a = to->begin();
      for (saved_tensor& t : *from) {
        for (saved_piece& p : t.pieces) p.file = manifest_.files.size();
        while (a != to->end() && a->name < t.name) joined.push_back(std::move(*a++));
        if (a == to->end() || t.name < a->name) {
          joined.push_back(std::move(t));
          continue;
        }
        require<config_error>(a->type == t.type && a->extent == t.extent, "moefold: ranks disagree on '", t.name, "': ", a->extent.text(),
                              " of ", name_of(a->type), " and ", t.extent.text(), " of ", name_of(t.type));
        a->pieces.insert(a->pieces.end(), t.pieces.begin(), t.pieces.end());
        joined.push_back(std::move(*a++));
      }
      while (a != to->end()) joined.push_back(std::move(*a++));
      *to = std::move(joined);
    }
    manifest_.files.push_back(std::move(theirs.files.at(0)));
  }

  storage& to_;
  std::string folder_;
  int keep_, rank_ = 0, world_ = 1;
  save_name name_;
  checkpoint_manifest manifest_;  // this rank's part; on rank 0, in the end, the whole
  std::vector<part> parts_;
  std::size_t bytes_ = 0;  // of all parts
  detail::byte_block snapshot_;
  std::string warning_;
  failure_note note_;  // of this save on this rank; the thread's while it runs
  std::thread thread_;
  std::atomic<bool> written_{true};
  bool running_ = false;
};

}  // namespace moefold
