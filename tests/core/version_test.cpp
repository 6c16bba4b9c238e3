#include <moefold/core/version.hpp>

#include <doctest/doctest.h>

#include <string>

TEST_SUITE("core/version") {
  TEST_CASE("the text is the three numbers") {
    const auto part = [](int number) { return std::to_string(number); };
    CHECK(MOEFOLD_VERSION == part(MOEFOLD_VERSION_MAJOR) + "." + part(MOEFOLD_VERSION_MINOR) + "." + part(MOEFOLD_VERSION_PATCH));
  }
}
