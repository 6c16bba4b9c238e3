#include <moefold/tensor/view.hpp>

#include <doctest/doctest.h>

#include <numeric>
#include <type_traits>
#include <vector>

using namespace moefold;

namespace {

std::vector<int> counted(std::size_t n) {
  std::vector<int> v(n);
  std::iota(v.begin(), v.end(), 0);
  return v;
}

}  // namespace

TEST_SUITE("tensor/view") {
  TEST_CASE("indices of every rank walk the elements in row-major order") {
    auto elements = counted(2 * 3 * 4 * 5);
    const view<int> four(elements.data(), {2, 3, 4, 5}), three = four.as({6, 4, 5}), two = four.as({24, 5}), one = four.as({120});
    int next = 0;
    bool same = true;
    for (extent_t i = 0; i < 2; ++i)
      for (extent_t j = 0; j < 3; ++j)
        for (extent_t k = 0; k < 4; ++k)
          for (extent_t l = 0; l < 5; ++l, ++next)
            same = same && four(i, j, k, l) == next && three(i * 3 + j, k, l) == next && two((i * 3 + j) * 4 + k, l) == next &&
                   one(next) == next && four[std::size_t(next)] == next;
    CHECK(same);
    CHECK(std::accumulate(four.begin(), four.end(), 0) == 119 * 60);
  }
  TEST_CASE("a view shows memory that others own: writes are seen, copies are shallow") {
    auto elements = counted(6);
    const view<int> a(elements.data(), {2, 3}), b = a;
    b(1, 0) = 42;
    CHECK((elements[3] == 42 && a(1, 0) == 42));
    CHECK((a.size() == 6 && a.bytes() == 6 * sizeof(int) && a.rank() == 2 && a.extent(1) == 3));
  }
  TEST_CASE("a view converts to const, to and from a span, never from const") {
    auto elements = counted(4);
    const view<int> whole = std::span<int>(elements);
    CHECK(whole.shape() == shape{4});
    const view<const int> read = whole;
    CHECK(read.data() == elements.data());
    const std::span<int> span = whole;
    CHECK((span.data() == elements.data() && span.size() == 4));
    static_assert(!std::is_convertible_v<view<const int>, view<int>> && !std::is_convertible_v<view<int>, view<const float>>);
    static_assert(std::is_same_v<view<const int>::value_type, int>);
    static_assert(std::is_same_v<decltype(view(elements.data(), shape{4})), view<int>>);
  }
  TEST_CASE("rows are cut from the first extent, whatever follows") {
    auto elements = counted(24);
    const view<int> v(elements.data(), {4, 3, 2});
    const view<int> middle = v.rows(1, 2);
    CHECK(middle.shape() == shape{2, 3, 2});
    CHECK((middle(0, 0, 0) == 6 && middle(1, 2, 1) == 17));
    CHECK(v.rows(4, 0).empty());
    CHECK(v.as({24}).rows(5, 2)(1) == 6);
    CHECK_THROWS_WITH_AS(v.rows(3, 2), "moefold: rows 3 to 5 of a view with 4", error);
    CHECK_THROWS_AS(v.rows(-1, 2), error);
    CHECK_THROWS_AS(v.rows(1, -1), error);
  }
  TEST_CASE("a row has its size even where there are no rows") {
    CHECK(view<int>(nullptr, {4, 3, 2}).row_size() == 6);
    CHECK(view<int>(nullptr, {0, 3, 2}).row_size() == 6);
    CHECK(view<int>(nullptr, {4}).row_size() == 1);
    CHECK(view<int>(nullptr, {4, 0}).row_size() == 0);
  }
  TEST_CASE("the same elements under another shape, but not more or fewer") {
    auto elements = counted(6);
    const view<int> v(elements.data(), {2, 3});
    CHECK(v.as({3, 2})(2, 1) == 5);
    CHECK(v.as({6, 1}).data() == v.data());
    CHECK_THROWS_WITH_AS(v.as({4, 2}), "moefold: a view of 6 elements cannot become one of 8", error);
  }
  TEST_CASE("an empty view has no elements; a view without extents is one") {
    CHECK((view<int>().empty() && view<int>().begin() == view<int>().end()));
    int x = 7;
    CHECK(view<int>(&x, {}).size() == 1);
    CHECK(view<int>(&x, {})[0] == 7);
  }
}
