#include <moefold/core/text_table.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/text_table") {
  TEST_CASE("counts choose their unit after rounding") {
    CHECK(count_text(0) == "0");
    CHECK(count_text(812) == "812");
    CHECK(count_text(999.4) == "999");
    CHECK(count_text(999.6) == "1.0k");
    CHECK(count_text(9213) == "9.2k");
    CHECK(count_text(99940) == "99.9k");
    CHECK(count_text(99960) == "100k");
    CHECK(count_text(999600) == "1.0M");
    CHECK(count_text(2.04e6) == "2.0M");
    CHECK(count_text(3e18) == "3000000T");
  }
  TEST_CASE("bytes are counted in powers of 1024") {
    CHECK(bytes_text(0) == "0 B");
    CHECK(bytes_text(1023) == "1023 B");
    CHECK(bytes_text(1024) == "1.0 KiB");
    CHECK(bytes_text(1536) == "1.5 KiB");
    CHECK(bytes_text(std::int64_t{31} << 20) == "31.0 MiB");
    CHECK(bytes_text(std::int64_t{3} << 40) == "3.0 TiB");
  }
  TEST_CASE("what data sheets say is counted in powers of 1000") {
    CHECK(gigabytes_text(0) == "0 B");
    CHECK(gigabytes_text(25.17e6) == "25.2 MB");
    CHECK(gigabytes_text(80e9) == "80.0 GB");
    CHECK(gigabytes_text(999.6e9) == "1.0 TB");
  }
  TEST_CASE("exact numbers are grouped by three") {
    CHECK(exact_text(0) == "0");
    CHECK(exact_text(999) == "999");
    CHECK(exact_text(1000) == "1,000");
    CHECK(exact_text(8273408) == "8,273,408");
    CHECK(exact_text(-123456) == "-123,456");
    CHECK(exact_text(-123) == "-123");
  }
  TEST_CASE("durations") {
    CHECK(duration_text(0) == "0m00s");
    CHECK(duration_text(59.6) == "1m00s");
    CHECK(duration_text(725) == "12m05s");
    CHECK(duration_text(3 * 3600 + 7 * 60 + 59) == "3h07m");
    CHECK(duration_text(-1) == "-");
  }
  TEST_CASE("a table aligns names left and numbers right") {
    text_table table({"memory", "bytes"});
    table.row({"parameters", "8,192"}).row({"gradients", "16"}).rule().row({"total", "8,208"});
    CHECK(table.text() ==
          "memory      bytes\n"
          "-----------------\n"
          "parameters  8,192\n"
          "gradients      16\n"
          "-----------------\n"
          "total       8,208\n");
    CHECK_THROWS_AS(table.row({"one"}), error);
  }
}
