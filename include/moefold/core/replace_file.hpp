#pragma once
// Writes a whole file so that a reader finds the old one or the new one, never half of it: the bytes go to a second file in the same folder,
// which then takes the name. A link is followed; a device or pipe has nothing to replace and is written to as it is.
//
//   path.partial <- bytes,  rename path.partial -> path
#include <moefold/core/error.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>

#include <sys/stat.h>

namespace moefold {

/// Puts `pieces`, one behind the other, into the file `path`; `what` is the kind of file in errors: "heatmap". Local; one writer at a time.
/// Throws config_error where the file cannot be opened, error where it cannot be finished; both name file and reason, the old file stays.
inline void replace_file(const std::string& path, std::string_view what, std::initializer_list<std::string_view> pieces) {
  const auto release = [](char* text) { std::free(text); };
  const std::unique_ptr<char, decltype(release)> resolved(::realpath(path.c_str(), nullptr), release);  // null: there is no such file yet
  const std::string target = resolved ? resolved.get() : path;
  struct stat found {};
  const bool in_place = ::stat(target.c_str(), &found) == 0 && !S_ISREG(found.st_mode);
  const std::string partial = in_place ? target : target + ".partial";

  std::FILE* file = std::fopen(partial.c_str(), "wb");
  require<config_error>(file != nullptr, "moefold: cannot write ", what, " '", path, "': ", std::strerror(errno),
                        "; name a file in a folder that exists and is writable");
  bool written = true;
  for (const std::string_view piece : pieces) written = written && std::fwrite(piece.data(), 1, piece.size(), file) == piece.size();
  written = written && std::fflush(file) == 0;
  int reason = errno;
  if (std::fclose(file) != 0 && written) written = false, reason = errno;
  if (written && !in_place && std::rename(partial.c_str(), target.c_str()) != 0) written = false, reason = errno;
  if (!written && !in_place) std::remove(partial.c_str());
  require(written, "moefold: could not write to ", what, " '", path, "': ", std::strerror(reason), "; free some space on its disk");
}

}  // namespace moefold
