#include <moefold/core/error.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <limits>

using namespace moefold;

TEST_SUITE("core/error") {
  TEST_CASE("a sentence is its parts: text, characters, numbers, truth") {
    CHECK(sentence() == "");
    CHECK(sentence("rank ", 3, " of ", extent_t{8}, ':', ' ', std::string("yes"), ' ', true, ' ', false) == "rank 3 of 8: yes true false");
    CHECK(sentence(std::numeric_limits<std::int64_t>::min(), ' ', std::numeric_limits<std::uint64_t>::max()) ==
          "-9223372036854775808 18446744073709551615");
    CHECK(sentence(std::uint8_t{7}, ' ', short{-1}) == "7 -1");  // bytes are numbers
  }
  TEST_CASE("a floating-point part is short where nine digits suffice") {
    CHECK(sentence(0.1, ' ', 0.1f, ' ', 2.0, ' ', -1e-30) == "0.1 0.100000001 2 -1e-30");
    CHECK(sentence(std::numeric_limits<double>::infinity()) == "inf");
  }
  TEST_CASE("require throws the class it is asked for, with the sentence, and only when the condition fails") {
    CHECK_NOTHROW(require(true, "never said"));
    CHECK_THROWS_WITH_AS(require(false, "moefold: ", 2, " is odd"), "moefold: 2 is odd", error);
    CHECK_THROWS_WITH_AS(require<config_error>(false, "moefold: no"), "moefold: no", config_error);
    bool config = false;
    try {
      require(false, "x");
    } catch (const config_error&) {
      config = true;
    } catch (const error&) {
    }
    CHECK_FALSE(config);
  }
  TEST_CASE("every error is a moefold::error and a std::runtime_error") {
    CHECK_THROWS_AS(require<config_error>(false, ""), error);
    CHECK_THROWS_AS(require<config_error>(false, ""), std::runtime_error);
  }
  TEST_CASE("a requirement that holds is a constant expression") {
    constexpr auto half = [](extent_t n) {
      require(n % 2 == 0, "moefold: ", n, " is odd");
      return n / 2;
    };
    static_assert(half(8) == 4);
    CHECK_THROWS_AS(half(7), error);
  }
}
