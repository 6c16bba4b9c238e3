#include <moefold/core/callback.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace moefold;

namespace {
int twice(int n) { return 2 * n; }
}  // namespace

TEST_SUITE("core/callback") {
  TEST_CASE("An empty one is false, and so is one that was made of nothing") {
    CHECK_FALSE(bool(callback<void()>()));
    CHECK_FALSE(bool(callback<void()>(nullptr)));
  }
  TEST_CASE("It calls what it was given, with what it was given, and returns what that returns") {
    std::string seen;
    callback<std::string(int, const std::string&)> f = [&](int times, const std::string& text) {
      for (int i = 0; i < times; ++i) seen += text;
      return seen;
    };
    REQUIRE(bool(f));
    CHECK(f(2, "ab") == "abab");
    CHECK(seen == "abab");
    f = [](int times, const std::string& text) { return text + char('0' + times); };
    CHECK(f(3, "x") == "x3");
    CHECK(callback<int(int)>(twice)(4) == 8);
  }
  TEST_CASE("A copy shares the callable and keeps it when the first is gone") {
    callback<int()> copy;
    {
      callback<int()> f = [n = 0]() mutable { return ++n; };
      copy = f;
      CHECK(f() == 1);
    }
    CHECK(copy() == 2);
  }
}
