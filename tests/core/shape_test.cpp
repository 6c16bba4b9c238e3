#include <moefold/core/shape.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/shape") {
  TEST_CASE("a shape has its extents in order; without any it is one scalar") {
    constexpr shape s{2, 3, 4, 5};
    static_assert(s.rank == 4 && s[0] == 2 && s[3] == 5 && s.size() == 120);
    static_assert(shape{}.rank == 0 && shape{}.size() == 1);
    static_assert(shape{7, 0, 2}.size() == 0);
    CHECK(shape{2, 3, 4, 5}.text() == "[2, 3, 4, 5]");
    CHECK(shape{9}.text() == "[9]");
    CHECK(shape{}.text() == "[]");
  }
  TEST_CASE("shapes are equal when rank and extents are") {
    CHECK(shape{2, 3} == shape{2, 3});
    CHECK(shape{2, 3} != shape{3, 2});
    CHECK(shape{2, 3} != shape{2, 3, 1});
    CHECK(shape{0} != shape{});
  }
  TEST_CASE("the product is made in 64 bits") { CHECK(shape{1 << 20, 1 << 20}.size() == extent_t{1} << 40); }
  TEST_CASE("a fifth or a negative extent is refused") {
    CHECK_THROWS_WITH_AS((shape{1, 2, 3, 4, 5}), "moefold: a tensor has at most 4 extents, given 5", error);
    CHECK_THROWS_WITH_AS((shape{2, -1}), "moefold: a tensor extent is at least 0, given -1", error);
  }
}
