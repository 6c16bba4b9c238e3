#pragma once
// A file system as model files, token files and checkpoints use it: few calls, each of which does all it was asked to or throws. One class for the real
// one; tests give another, which fails at a call of their choice or forgets what was never synced.
//
//   write a file    create -> write.. -> sync -> (close)        make it last    rename, sync_folder
//   read one        open -> size, read..                        never mapped: a file that shrinks is an error, not a signal
// Thread-safe: any thread may call anything; one file may be read and written by several threads at different offsets.
#include <moefold/core/file_error.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace moefold {

/// One open file. Closes when destroyed.
class storage_file {
 public:
  virtual ~storage_file() = default;
  virtual const std::string& path() const = 0;
  virtual std::uint64_t size() = 0;  // bytes, now
  /// All of `to` from byte `offset`. Throws format_error where the file ends before, storage_error where it cannot be read.
  virtual void read(std::uint64_t offset, std::span<std::byte> to) = 0;
  /// All of `from` at byte `offset`; the file grows where needed. Throws storage_error.
  virtual void write(std::uint64_t offset, std::span<const std::byte> from) = 0;
  /// Returns when what was written survives a power failure (fsync). Throws storage_error.
  virtual void sync() = 0;
};

/// Throws storage_error from every call that could not be carried out, and then nothing has changed.
class storage {
 public:
  virtual ~storage() = default;
  /// A new file of mode 0600 for reading and writing. Where something of that name exists, a link included, it throws.
  virtual std::unique_ptr<storage_file> create(const std::string& path) = 0;
  /// An existing regular file, read-only; throws config_error that names the path where there is none. Links are followed.
  virtual std::unique_ptr<storage_file> open(const std::string& path) = 0;
  /// The same for writing into a file that another rank created; links are not followed.
  virtual std::unique_ptr<storage_file> open_for_writing(const std::string& path) = 0;
  virtual bool exists(const std::string& path) = 0;
  virtual std::vector<std::string> list(const std::string& folder) = 0;     // names of its entries, sorted
  virtual void make_folder(const std::string& path) = 0;                    // with its parents; mode 0700; an existing one is fine
  virtual void rename(const std::string& from, const std::string& to) = 0;  // atomic; replaces a file
  virtual void remove(const std::string& path) = 0;                         // a file or an empty folder
  virtual void sync_folder(const std::string& path) = 0;            // names created, renamed and removed in it survive a power failure
  virtual std::uint64_t free_bytes(const std::string& folder) = 0;  // that this user may still write
};

}  // namespace moefold
