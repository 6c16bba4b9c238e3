#include <moefold/core/exec.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/exec") {
  TEST_CASE("copies of an exec borrow from one context, execs of two ranks from two") {
    host_context mine, other;
    const host_exec e(mine), copy = e, elsewhere(other);
    CHECK(&e.scratch() == &mine.scratch);
    CHECK(&copy.scratch() == &mine.scratch);
    CHECK(&elsewhere.scratch() == &other.scratch);
    CHECK(sizeof(host_exec) == sizeof(void*));
  }
  TEST_CASE("scratch lives as long as its context, not as long as the exec") {
    host_context context;
    const auto borrow = [&] { return host_exec(context).scratch().take(100); };
    std::byte* piece = borrow();
    piece[99] = std::byte{7};
    CHECK(borrow() == piece + 128);
    CHECK(piece[99] == std::byte{7});
  }
}
