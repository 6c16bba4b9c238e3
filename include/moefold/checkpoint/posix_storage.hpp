#pragma once
// The file system of this machine as a storage (checkpoint/storage.hpp). Files are read with pread and written with pwrite, never mapped; calls that a
// signal interrupts or that carry less than asked go on; what cannot be done is said with the path, the system's reason and how to mend it.
//
//   disk().create("a") -> file -> write, sync        an existing "a", a link included, is refused
//   disk().open("a")   -> file -> size, read         a folder, device or pipe is refused
#include <moefold/checkpoint/storage.hpp>

#include <algorithm>
#include <cerrno>
#include <limits>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace moefold {

namespace detail {

inline const char* mend_of(int code) {
  switch (code) {
    case ENOSPC:
    case EDQUOT: return "free some space on its disk";
    case EFBIG: return "raise the limit on the size of files (ulimit -f), or use another file system";
    case EACCES:
    case EPERM: return "allow this user to do it, or choose another place";
    case EROFS: return "choose a place that is writable";
    case EEXIST: return "remove it first, or choose another name";
    case ELOOP: return "it is a link, and links are not followed here: name the file itself";
    case ENOENT:
    case ENOTDIR: return "check the path";
    case EISDIR: return "name a file, not a folder";
    case ENOTEMPTY: return "remove what it holds first";
    case EMFILE:
    case ENFILE: return "raise the number of open files (ulimit -n)";
    default: return "check the disk";
  }
}
[[noreturn]] inline void storage_failed(int code, const std::string& path, const std::string& what) {
  throw storage_error(sentence("moefold: cannot ", what, " '", path, "': ", std::strerror(code), "; ", mend_of(code)), path, code);
}
/// Calls once() until it is not interrupted by a signal; its result.
template <class F>
auto uninterrupted(F&& once) {
  auto result = once();
  while (result < 0 && errno == EINTR) result = once();
  return result;
}
/// Calls once(done) -> bytes moved until `all` are; stops where it moves none (errno: 0) or fails (errno). Bytes moved in all.
template <class F>
std::size_t moved_of(std::size_t all, F&& once) {
  std::size_t done = 0;
  while (done < all) {
    errno = 0;
    const ssize_t moved = uninterrupted([&] { return once(done); });
    if (moved <= 0) break;
    done += std::size_t(moved);
  }
  return done;
}

class posix_file final : public storage_file {
 public:
  posix_file(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}
  posix_file(const posix_file&) = delete;
  posix_file& operator=(const posix_file&) = delete;
  ~posix_file() override { ::close(descriptor_); }

  const std::string& path() const override { return path_; }
  std::uint64_t size() override {
    struct stat now {};
    if (::fstat(descriptor_, &now) != 0) storage_failed(errno, path_, "look at");
    return std::uint64_t(now.st_size);
  }
  void read(std::uint64_t offset, std::span<std::byte> to) override {
    const std::size_t got = moved_of(to.size(), [&](std::size_t done) {
      const std::span<std::byte> rest = to.subspan(done);
      return ::pread(descriptor_, rest.data(), rest.size(), place(offset + done));
    });
    if (got == to.size()) return;
    if (errno != 0) storage_failed(errno, path_, sentence("read ", to.size(), " bytes at byte ", offset, " of"));
    require_file(false, path_, offset, "ends after ", got, " of the ", to.size(), " bytes needed here; the file is cut short, or shrinks");
  }
  void write(std::uint64_t offset, std::span<const std::byte> from) override {
    const std::size_t put = moved_of(from.size(), [&](std::size_t done) {
      const std::span<const std::byte> rest = from.subspan(done);
      return ::pwrite(descriptor_, rest.data(), rest.size(), place(offset + done));
    });
    if (put != from.size())
      storage_failed(errno == 0 ? ENOSPC : errno, path_,
                     sentence("write ", from.size(), " bytes (only ", put, ") at byte ", offset, " of"));
  }
  void sync() override {
    if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) storage_failed(errno, path_, "sync");
  }

 private:
  static off_t place(std::uint64_t offset) {  // beyond what files can have: the system refuses it
    return off_t(std::min(offset, std::uint64_t(std::numeric_limits<off_t>::max())));
  }
  int descriptor_;
  std::string path_;
};

}  // namespace detail

class posix_storage final : public storage {
 public:
  std::unique_ptr<storage_file> create(const std::string& path) override {
    return opened(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, "create");
  }
  std::unique_ptr<storage_file> open(const std::string& path) override {
    struct stat now {};
    const int found = ::stat(path.c_str(), &now);
    require<config_error>(found == 0 || (errno != ENOENT && errno != ENOTDIR), "moefold: there is no file '", path, "'; check the path");
    return opened(path, O_RDONLY, "open");
  }
  std::unique_ptr<storage_file> open_for_writing(const std::string& path) override {
    return opened(path, O_RDWR | O_NOFOLLOW, "open for writing");
  }
  bool exists(const std::string& path) override {
    struct stat now {};
    if (::lstat(path.c_str(), &now) == 0) return true;
    if (errno != ENOENT && errno != ENOTDIR) detail::storage_failed(errno, path, "look at");
    return false;
  }
  std::vector<std::string> list(const std::string& folder) override {
    const auto close = [](DIR* d) { ::closedir(d); };
    const std::unique_ptr<DIR, decltype(close)> entries(::opendir(folder.c_str()), close);
    if (!entries) detail::storage_failed(errno, folder, "list the folder");
    std::vector<std::string> names;
    for (;;) {
      errno = 0;
      const dirent* const entry = ::readdir(entries.get());
      if (!entry && errno != 0) detail::storage_failed(errno, folder, "list the folder");
      if (!entry) break;
      const std::string name = static_cast<const char*>(entry->d_name);
      if (name != "." && name != "..") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  void make_folder(const std::string& path) override {
    for (std::size_t end = path.find('/', 1); !path.empty(); end = path.find('/', end + 1)) {
      const std::string part = path.substr(0, end);
      if (::mkdir(part.c_str(), 0700) != 0 && !is_folder(part)) detail::storage_failed(errno, part, "make the folder");
      if (end == std::string::npos) return;
    }
    detail::storage_failed(ENOENT, path, "make the folder");
  }
  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) detail::storage_failed(errno, to, sentence("rename '", from, "' to"));
  }
  void remove(const std::string& path) override {
    if (std::remove(path.c_str()) != 0) detail::storage_failed(errno, path, "remove");
  }
  void sync_folder(const std::string& path) override {
    const int descriptor = detail::uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (descriptor < 0) detail::storage_failed(errno, path, "sync the folder");
    const int synced = detail::uninterrupted([&] { return ::fsync(descriptor); }), code = errno;
    ::close(descriptor);
    if (synced != 0) detail::storage_failed(code, path, "sync the folder");
  }
  std::uint64_t free_bytes(const std::string& folder) override {
    struct statvfs now {};
    if (detail::uninterrupted([&] { return ::statvfs(folder.c_str(), &now); }) != 0)
      detail::storage_failed(errno, folder, "ask for the free space of");
    return std::uint64_t(now.f_bavail) * std::uint64_t(now.f_frsize);
  }

 private:
  // errno stays that of the call before.
  static bool is_folder(const std::string& path) {
    const int before = errno;
    struct stat now {};
    const bool is = ::stat(path.c_str(), &now) == 0 && S_ISDIR(now.st_mode);
    errno = before;
    return is;
  }
  // O_NONBLOCK: opening a pipe that nobody writes to must not wait. Regular files do not know it.
  static std::unique_ptr<storage_file> opened(const std::string& path, int how, const char* what) {
    const int descriptor = detail::uninterrupted([&] { return ::open(path.c_str(), how | O_CLOEXEC | O_NONBLOCK, 0600); });
    if (descriptor < 0) detail::storage_failed(errno, path, what);
    auto file = std::make_unique<detail::posix_file>(descriptor, path);
    struct stat now {};
    if (::fstat(descriptor, &now) != 0) detail::storage_failed(errno, path, what);
    if (S_ISDIR(now.st_mode)) detail::storage_failed(EISDIR, path, what);
    if (!S_ISREG(now.st_mode))
      throw storage_error(sentence("moefold: cannot ", what, " '", path, "': it is a device, pipe or socket; name a regular file"), path,
                          EINVAL);
    return file;
  }
};

/// The one of this process.
inline posix_storage& disk() {
  static posix_storage one;
  return one;
}

}  // namespace moefold
