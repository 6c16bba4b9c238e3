#include <moefold/checkpoint/folder.hpp>

#include "../support/memory_storage.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::test;
using doctest::Contains;

namespace {

void put(storage& to, const std::string& path, std::string_view text) { to.create(path)->write(0, bytes_of(text)); }
void put_save(storage& to, const std::string& name) {
  to.make_folder("c/" + name);
  put(to, "c/" + name + "/manifest.json", "{}");
  put(to, "c/" + name + "/rank-0000.safetensors", "");
}
using names = std::vector<std::string>;

}  // namespace

TEST_SUITE("checkpoint/folder") {
  TEST_CASE("saves are named by step and attempt, and nothing else is a save") {
    CHECK(save_name{0}.text() == "step-00000000");
    CHECK(save_name{200, 3}.text() == "step-00000200-3");
    CHECK(save_name{123456789012}.text() == "step-123456789012");
    for (const save_name& s : {save_name{7}, save_name{7, 2}, save_name{99'999'999, 10}, save_name{100'000'000}})
      CHECK(save_name::parse(s.text()) == s);
    for (const char* text :
         {"", "step-", "step-1", "step-00000001-1", "step-00000001-0", "step-00000001-", "step--0000001", "step-00000001.partial",
          "step-00000001/..", "../step-00000001", "step-0000000a", "step-000000001", "step-00000001-02", " step-00000001",
          "step-99999999999999999999", "step-00000001-9223372036854775807", "step-00000001 "})
      CHECK(!save_name::parse(text));
  }
  TEST_CASE("a resume takes what latest names, or the folder that is a save, or without latest the newest complete one") {
    memory_storage disk;
    CHECK_THROWS_WITH_AS(find_checkpoint(disk, "c"), Contains("there is no checkpoint folder 'c'"), config_error);
    disk.make_folder("c");
    CHECK_THROWS_WITH_AS(find_checkpoint(disk, "c"), Contains("'c' holds no complete save"), config_error);
    disk.make_folder("c/step-00000009");  // without a manifest
    disk.make_folder("c/step-00000008.partial");
    put(disk, "c/step-00000008.partial/manifest.json", "{}");
    CHECK_THROWS_AS(find_checkpoint(disk, "c"), config_error);
    put_save(disk, "step-00000003"), put_save(disk, "step-00000003-2"), put_save(disk, "step-00000002");
    CHECK(find_checkpoint(disk, "c") == "c/step-00000003-2");
    put(disk, "c/latest", "step-00000002\n");
    CHECK(find_checkpoint(disk, "c") == "c/step-00000002");
    CHECK(find_checkpoint(disk, "c/") == "c/step-00000002");
    CHECK(find_checkpoint(disk, "c/step-00000003") == "c/step-00000003");
  }
  TEST_CASE("a latest that names no save of the folder is refused, with what is left") {
    memory_storage disk;
    put_save(disk, "step-00000001"), put_save(disk, "step-00000002");
    for (const char* text : {"", "step-1", "../other", "/step-00000001", "step-00000001\n\n", "step-00000001/../step-00000002"}) {
      put(disk, "c/latest", text);
      CHECK_THROWS_WITH_AS(find_checkpoint(disk, "c"), Contains("needs the name of a save such as 'step-00000200'"), format_error);
      disk.remove("c/latest");
    }
    put(disk, "c/latest", std::string(300, 's'));
    CHECK_THROWS_WITH_AS(find_checkpoint(disk, "c"), Contains("'c/latest' at byte 256: it has 300 bytes"), format_error);
    disk.remove("c/latest");
    put(disk, "c/latest", "step-00000003");
    CHECK_THROWS_WITH_AS(find_checkpoint(disk, "c"), Contains("'c/latest' names it; saves that are left: step-00000001, step-00000002"),
                         incomplete_checkpoint);
  }
  TEST_CASE("leftovers go, and what is not ours stays") {
    memory_storage disk;
    put_save(disk, "step-00000001"), put_save(disk, "step-00000002.partial"), put_save(disk, "step-00000002-4.partial");
    put_save(disk, "mine.partial");
    put(disk, "c/latest.partial", "x"), put(disk, "c/notes.partial", "x"), put(disk, "c/notes", "x");
    remove_leftovers(disk, "c");
    CHECK(disk.list("c") == names{"mine.partial", "notes", "notes.partial", "step-00000001"});
  }
  TEST_CASE("so many saves stay as are to be kept, of each step the last, and those of later steps") {
    const auto left = [](int keep, const save_name& newest) {
      memory_storage disk;
      for (const char* name : {"step-00000001", "step-00000002", "step-00000003", "step-00000003-2", "step-00000004", "step-00000009"})
        put_save(disk, name);
      disk.make_folder("c/step-00000000");  // no save
      remove_old_saves(disk, "c", newest, keep);
      names all = disk.list("c");
      std::erase(all, "step-00000000");
      return all;
    };
    CHECK(left(0, {4}) == names{"step-00000001", "step-00000002", "step-00000003", "step-00000003-2", "step-00000004", "step-00000009"});
    CHECK(left(1, {4}) == names{"step-00000004", "step-00000009"});
    CHECK(left(2, {4}) == names{"step-00000003-2", "step-00000004", "step-00000009"});
    CHECK(left(2, {3, 2}) == names{"step-00000002", "step-00000003-2", "step-00000004", "step-00000009"});
    CHECK(left(9, {9}) == names{"step-00000001", "step-00000002", "step-00000003-2", "step-00000004", "step-00000009"});
  }
  TEST_CASE("a step that is saved again gets a name of its own") {
    memory_storage disk;
    disk.make_folder("c");
    CHECK(next_save(disk, "c", 5) == save_name{5, 1});
    disk.make_folder("c/step-00000005"), disk.make_folder("c/step-00000005-3"), disk.make_folder("c/step-00000006-8");
    CHECK(next_save(disk, "c", 5) == save_name{5, 4});
  }
}
