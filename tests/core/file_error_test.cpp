#include <moefold/core/file_error.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/file_error") {
  TEST_CASE("an error names file, byte, what was found and what is needed, and keeps them for whoever catches it") {
    CHECK_NOTHROW(require_file(true, "a.bin", 8, "never said"));
    try {
      require_file<checksum_mismatch>(false, "a.bin", 8, "found ", 3, ", needs ", 4);
      FAIL("nothing was thrown");
    } catch (const file_error& wrong) {
      CHECK(std::string(wrong.what()) == "moefold: 'a.bin' at byte 8: found 3, needs 4");
      CHECK(wrong.file() == "a.bin");
      CHECK(wrong.offset() == 8);
      CHECK(dynamic_cast<const checksum_mismatch*>(&wrong) != nullptr);
    }
    CHECK_THROWS_AS(require_file(false, "a.bin", 0, "broken"), config_error);
  }
}
