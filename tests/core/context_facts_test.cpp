#include <moefold/core/context_facts.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/context_facts") {
  TEST_CASE("cp ranks are those that exchange heads times the groups on the ring") {
    constexpr context_facts gather{}, ring{false, 1}, whole{false, 0}, pairs{false, 2};
    static_assert(gather.swapping(8) == 1 && gather.ring(8) == 1);
    static_assert(ring.swapping(8) == 1 && ring.ring(8) == 8);
    static_assert(whole.swapping(8) == 8 && whole.ring(8) == 1);
    static_assert(pairs.swapping(8) == 2 && pairs.ring(8) == 4);
    static_assert(pairs.swapping(1) == 1 && pairs.ring(1) == 1);  // alone, nothing is exchanged
  }
  TEST_CASE("heads are cut over tp and the ranks that exchange them; what is not known yet counts as one") {
    CHECK(head_pieces({false, 2}, 4, 8) == 8);
    CHECK(head_pieces({false, 0}, 2, 4) == 8);
    CHECK(head_pieces({}, 4, 8) == 4);
    CHECK(head_pieces({false, 0}, -1, 4) == 4);
    CHECK(head_pieces({false, 0}, 2, -1) == 2);
    CHECK(context_pieces({false, 2}, 8) == 2);
    CHECK(context_pieces({false, 2}, -1) == 1);
  }
}
