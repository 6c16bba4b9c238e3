#include <moefold/checkpoint/posix_storage.hpp>

#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

#include <csignal>
#include <string_view>
#include <thread>

#include <sys/resource.h>
#include <sys/wait.h>

using namespace moefold;

namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
std::string read(storage_file& file, std::uint64_t offset, std::size_t count) {
  std::string text(count, '?');
  file.read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}
template <class F>
int code_of(F&& f) {
  try {
    f();
  } catch (const storage_error& e) {
    return e.code();
  }
  return 0;
}

}  // namespace

TEST_SUITE("checkpoint/posix_storage") {
  TEST_CASE("what is written at an offset is read from there, and the file is its owner's alone") {
    const temporary_folder folder;
    const std::string path = folder.file("a");
    {
      const auto file = disk().create(path);
      file->write(4, bytes("four"));
      file->write(0, bytes("zero"));
      file->sync();
      CHECK(file->size() == 8);
      CHECK(read(*file, 2, 4) == "rofo");
      CHECK(file->path() == path);
    }
    CHECK(folder.text("a") == "zerofour");
    struct stat now {};
    REQUIRE(stat(path.c_str(), &now) == 0);
    CHECK((now.st_mode & 0777) == 0600);
    disk().open_for_writing(path)->write(8, bytes("!"));
    CHECK(folder.text("a") == "zerofour!");
  }
  TEST_CASE("a file that ends too early says where, and how much was there") {
    const temporary_folder folder;
    const auto file = disk().open(folder.put("a", "12345"));
    CHECK_NOTHROW(read(*file, 5, 0));
    CHECK_THROWS_WITH_AS(read(*file, 3, 4), doctest::Contains("at byte 3: ends after 2 of the 4 bytes needed here"), format_error);
    CHECK_THROWS_AS(read(*file, ~std::uint64_t{0} - 2, 4), error);  // no wrap around
    std::filesystem::resize_file(folder.path / "a", 2);
    CHECK_THROWS_AS(read(*file, 0, 5), format_error);
  }
  TEST_CASE("creating refuses what is there, links that lead nowhere included") {
    const temporary_folder folder;
    const std::string path = folder.put("a", "old");
    CHECK(code_of([&] { disk().create(path); }) == EEXIST);
    std::filesystem::create_symlink("nowhere", folder.path / "link");
    CHECK(code_of([&] { disk().create(folder.file("link")); }) == EEXIST);
    CHECK(!disk().exists(folder.file("nowhere")));
    CHECK(folder.text("a") == "old");
    CHECK_THROWS_WITH_AS(disk().create(path),
                         sentence("moefold: cannot create '", path, "': File exists; remove it first, or choose another name").c_str(),
                         storage_error);
  }
  TEST_CASE("reading follows links, writing does not") {
    const temporary_folder folder;
    folder.put("a", "text");
    std::filesystem::create_symlink("a", folder.path / "link");
    CHECK(read(*disk().open(folder.file("link")), 0, 4) == "text");
    CHECK(code_of([&] { disk().open_for_writing(folder.file("link")); }) == ELOOP);
  }
  TEST_CASE("only regular files are opened, and a pipe does not make it wait") {
    const temporary_folder folder;
    REQUIRE(mkfifo(folder.file("pipe").c_str(), 0600) == 0);
    CHECK_THROWS_WITH_AS(disk().open(folder.file("pipe")), doctest::Contains("it is a device, pipe or socket"), storage_error);
    CHECK(code_of([&] { disk().open(folder.path.string()); }) == EISDIR);
    CHECK_THROWS_WITH_AS(disk().open(folder.file("none")), doctest::Contains("there is no file '"), config_error);
    CHECK_THROWS_AS(disk().open(folder.file("pipe") + "/x"), config_error);
    const auto file = disk().open(folder.put("a", "text"));
    CHECK_THROWS_AS(file->write(0, bytes("x")), storage_error);  // opened for reading
  }
  TEST_CASE("folders are made with their parents, listed in order, renamed and removed") {
    const temporary_folder folder;
    const std::string deep = folder.file("x/y/z");
    disk().make_folder(deep);
    disk().make_folder(deep + "/");
    CHECK(std::filesystem::is_directory(deep));
    folder.put("x/b", "");
    folder.put("x/a", "");
    CHECK(disk().list(folder.file("x")) == std::vector<std::string>{"a", "b", "y"});
    CHECK(code_of([&] { disk().make_folder(folder.file("x/a/c")); }) == EEXIST);
    CHECK(code_of([&] { disk().make_folder(folder.file("x/a")); }) == EEXIST);
    CHECK(code_of([&] { disk().make_folder(""); }) == ENOENT);
    CHECK(code_of([&] { disk().list(folder.file("none")); }) == ENOENT);
    disk().rename(folder.file("x/a"), folder.file("x/b"));
    disk().sync_folder(folder.file("x"));
    CHECK(disk().list(folder.file("x")) == std::vector<std::string>{"b", "y"});
    CHECK(code_of([&] { disk().rename(folder.file("none"), folder.file("other")); }) == ENOENT);
    CHECK(code_of([&] { disk().remove(folder.file("x")); }) == ENOTEMPTY);
    disk().remove(folder.file("x/b"));
    disk().remove(folder.file("x/y/z"));
    CHECK(!disk().exists(deep));
    CHECK(code_of([&] { disk().remove(deep); }) == ENOENT);
    CHECK(code_of([&] { disk().sync_folder(deep); }) == ENOENT);
    CHECK(disk().free_bytes(folder.path.string()) > 0);
    CHECK(code_of([&] { disk().free_bytes(deep); }) == ENOENT);
  }
  TEST_CASE("a call that is interrupted or moves less than asked goes on; one that moves nothing ends") {
    std::vector<int> script{1, -1, 3, -1, -1, 2, 0};  // bytes; -1: a signal came
    std::size_t call = 0;
    const auto once = [&](std::size_t) -> ssize_t {
      const int moved = script[call++];
      if (moved < 0) errno = EINTR;
      return moved;
    };
    CHECK(detail::moved_of(6, once) == 6);
    CHECK(call == 6);
    call = 0;
    CHECK(detail::moved_of(100, once) == 6);
    CHECK(errno == 0);
    CHECK(detail::moved_of(100, [](std::size_t) -> ssize_t { return errno = EIO, -1; }) == 0);
    CHECK(errno == EIO);
  }
  TEST_CASE("a write that the system cuts short says how much was written") {
    const temporary_folder folder;
    const pid_t child = fork();
    if (child == 0) {  // its own limit on file sizes
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{1000, 1000};
      setrlimit(RLIMIT_FSIZE, &limit);
      try {
        const auto file = disk().create(folder.file("a"));
        file->write(0, bytes(std::string(3000, 'x')));
      } catch (const storage_error& e) {
        const bool good = e.code() == EFBIG && std::string(e.what()).find("write 3000 bytes (only 1000) at byte 0 of") != std::string::npos;
        _exit(good ? 7 : 8);
      }
      _exit(9);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 7);
  }
  TEST_CASE("threads write and read one file at their own offsets") {
    const temporary_folder folder;
    const auto file = disk().create(folder.file("a"));
    std::vector<std::thread> writers;
    for (int t = 0; t < 4; ++t)
      writers.emplace_back([&, t] {
        for (int i = 0; i < 100; ++i) {
          const std::string text(10, char('a' + t));
          file->write(std::uint64_t(i * 4 + t) * 10, bytes(text));
          if (read(*file, std::uint64_t(i * 4 + t) * 10, 10) != text) throw error("lost");
        }
      });
    for (std::thread& t : writers) t.join();
    CHECK(file->size() == 4000);
  }
}
