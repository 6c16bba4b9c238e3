#include <moefold/core/replace_file.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include <fcntl.h>
#include <unistd.h>

using namespace moefold;
namespace fs = std::filesystem;

namespace {

struct temporary_folder {
  fs::path path;
  temporary_folder() {
    std::string name = (fs::temp_directory_path() / "moefold_replace_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~temporary_folder() { fs::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
  auto files() const { return std::distance(fs::directory_iterator(path), fs::directory_iterator()); }
};

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_SUITE("core/replace_file") {
  TEST_CASE("the file holds the pieces one behind the other and nothing stays beside it") {
    const temporary_folder folder;
    replace_file(folder.file("a"), "note", {"one ", std::string_view("t\0o", 3), ""});
    CHECK(text_of(folder.file("a")) == std::string("one t\0o", 7));
    CHECK(folder.files() == 1);
  }
  TEST_CASE("a shorter text replaces a longer one, also behind a link") {
    const temporary_folder folder;
    replace_file(folder.file("a"), "note", {"a long text"});
    fs::create_symlink("a", folder.path / "link");
    replace_file(folder.file("link"), "note", {"short"});
    CHECK(text_of(folder.file("a")) == "short");
    CHECK(fs::is_symlink(folder.path / "link"));
    CHECK(folder.files() == 2);
  }
  TEST_CASE("whoever has the old file open keeps reading the old one") {
    const temporary_folder folder;
    replace_file(folder.file("a"), "note", {"old"});
    std::ifstream reader(folder.file("a"));
    replace_file(folder.file("a"), "note", {"new"});
    std::string seen;
    reader >> seen;
    CHECK(seen == "old");
  }
  TEST_CASE("a file that cannot be opened is refused by kind, name and reason") {
    CHECK_THROWS_WITH_AS(replace_file("/no/such/folder/a", "note", {"x"}),
                         "moefold: cannot write note '/no/such/folder/a': No such file or directory; name a file in a folder that exists "
                         "and is writable",
                         config_error);
    const temporary_folder folder;
    CHECK_THROWS_WITH_AS(replace_file(folder.path.string(), "note", {"x"}), doctest::Contains("Is a directory"), config_error);
  }
  TEST_CASE("a pipe or device stays what it is, and a full one is reported") {
    const temporary_folder folder;
    const std::string pipe = folder.file("pipe");
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
    replace_file(pipe, "note", {"through"});
    char text[16] = {};
    CHECK(read(reader, text, sizeof text) == 7);
    close(reader);
    CHECK(std::string(text) == "through");
    REQUIRE(fs::is_fifo(pipe));  // or else the next lines would replace a device of this machine
    REQUIRE(folder.files() == 1);

    if (!fs::is_character_file("/dev/full")) return;
    CHECK_THROWS_WITH_AS(replace_file("/dev/full", "note", {"x"}),
                         "moefold: could not write to note '/dev/full': No space left on device; free some space on its disk", error);
  }
}
