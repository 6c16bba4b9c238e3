#include <moefold/moe/tokens.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace moefold;

TEST_SUITE("moe/tokens") {
  TEST_CASE("a token policy says its name") {
    struct nameless {};
    CHECK(token_policy<dropless>);
    CHECK_FALSE(token_policy<nameless>);
    CHECK(std::string(dropless::name) == "dropless");
  }
}
