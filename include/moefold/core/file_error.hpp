#pragma once
// What goes wrong with files, by what the reader of the error can do about it. Every one names the file; readers also say where in it, in bytes.
//
//   error
//   +- storage_error            the disk or its file system refused: full, read-only, gone; carries errno
//   +- config_error
//      +- file_error            a file that cannot be used as it is
//         +- format_error          malformed, truncated, or of another kind
//         +- checksum_mismatch     well-formed, and not what was written
//         +- incomplete_checkpoint a save that never finished, or lost files since
#include <moefold/core/error.hpp>

#include <cstring>

namespace moefold {

class file_error : public config_error {
 public:
  file_error(const std::string& what, std::string file, std::uint64_t offset)
      : config_error(what), file_(std::move(file)), offset_(offset) {}
  const std::string& file() const { return file_; }
  std::uint64_t offset() const { return offset_; }  // in bytes; 0 where it is the file as a whole

 private:
  std::string file_;
  std::uint64_t offset_;
};

class format_error : public file_error {
 public:
  using file_error::file_error;
};
class checksum_mismatch : public file_error {
 public:
  using file_error::file_error;
};
class incomplete_checkpoint : public file_error {
 public:
  using file_error::file_error;
};

class storage_error : public error {
 public:
  storage_error(const std::string& what, std::string path, int code) : error(what), path_(std::move(path)), code_(code) {}
  const std::string& path() const { return path_; }
  int code() const { return code_; }  // errno

 private:
  std::string path_;
  int code_;
};

/// Throws Error with the sentence of `parts` unless `holds`; the sentence begins with the file and the byte.
template <std::derived_from<file_error> Error = format_error, class... Parts>
void require_file(bool holds, const std::string& file, std::uint64_t offset, const Parts&... parts) {
  if (!holds) throw Error(sentence("moefold: '", file, "' at byte ", offset, ": ", parts...), file, offset);
}

}  // namespace moefold
