#include <moefold/moe/routing.hpp>

#include <doctest/doctest.h>

#include <set>

using namespace moefold;

TEST_SUITE("moe/routing") {
  TEST_CASE("the ranks of a cut sequence together name every token of a batch once") {
    constexpr extent_t S = 16, B = 3, cp = 2, tp = 2;
    std::set<std::pair<extent_t, extent_t>> named;
    for (extent_t c = 0; c < cp; ++c)
      for (extent_t t = 0; t < tp; ++t) {
        const batch_place place{0, 6, B, {S, cp, c, tp, t}};
        for (extent_t token = 0; token < S / (cp * tp) * B; ++token) {
          CHECK(place.sample(token) >= 6);
          CHECK(place.sample(token) < 9);
          CHECK(named.emplace(place.sample(token), place.position(token)).second);
        }
      }
    CHECK(named.size() == S * B);
  }
  TEST_CASE("a token has one place in a trace, whatever the mapping it is asked for in") {
    constexpr extent_t S = 8, k = 2;
    routing_trace trace(2, 3, 4, S, k);
    const batch_place whole{1, 2, 1, {S}}, part{1, 2, 1, {S, 2, 1, 2, 0}};  // positions 2 3 4 5, of which tp rank 0 holds 2 3
    trace.at(whole, 2, 3)[1] = 7;
    CHECK(trace.at(part, 2, 1)[1] == 7);
    CHECK(trace.at(part, 2, 0) == trace.at(whole, 2, 2));
  }
  TEST_CASE("places do not overlap: each step, layer, sequence, token and slot has its own") {
    constexpr extent_t S = 4, k = 2;
    routing_trace trace(2, 3, 2, S, k);
    std::set<const std::int32_t*> places;
    for (extent_t step = 0; step < 2; ++step)
      for (extent_t layer = 0; layer < 3; ++layer)
        for (extent_t token = 0; token < 2 * S; ++token)
          for (extent_t slot = 0; slot < k; ++slot) places.insert(trace.at({step, 0, 2, {S}}, layer, token) + slot);
    CHECK(places.size() == 2 * 3 * 2 * S * k);
    CHECK(trace.steps() == 2);
  }
  TEST_CASE("what lies outside a trace is refused with its limits") {
    routing_trace trace(1, 2, 3, 4, 2);
    CHECK_THROWS_WITH_AS(
        trace.at({1, 0, 1, {4}}, 0, 0),
        "moefold: the routing trace holds 1 steps of 2 layers and 3 sequences of 4 tokens; asked for step 1, layer 0, sequence 0, "
        "position 0",
        error);
    CHECK_THROWS_AS(trace.at({0, 0, 1, {4}}, 2, 0), error);
    CHECK_THROWS_AS(trace.at({0, 3, 1, {4}}, 0, 0), error);
    CHECK_THROWS_WITH_AS(trace.at({0, 0, 1, {8}}, 0, 4),
                         doctest::Contains("sequences of 4 tokens; asked for step 0, layer 0, sequence 0, position 4"), error);
    CHECK_NOTHROW(trace.require_top_k(2));
    CHECK_THROWS_WITH_AS(trace.require_top_k(1), doctest::Contains("holds 2 choices of a token, the router makes 1"), error);
  }
}
