#include <moefold/core/recompute.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using enum recompute_part;

TEST_SUITE("core/recompute") {
  TEST_CASE("a rule names its parts, and full stands above them") {
    static_assert(!recompute_none.any() && recompute_full.any() && selective<norms>.any());
    static_assert(selective<norms, moe>.has(norms) && selective<norms, moe>.has(moe) && !selective<norms, moe>.has(activation));
    static_assert(!recompute_full.has(moe) && recompute_full.twice(moe) && recompute_full.twice(core_attention));
    static_assert(selective<moe>.twice(moe) && !selective<moe>.twice(norms) && !recompute_none.twice(moe));
    static_assert(selective<norms, moe>.without(moe) == selective<norms> && selective<norms>.without(moe) == selective<norms> &&
                  recompute_full.without(moe) == recompute_full);
    static_assert(selective<> == recompute_none && selective<moe, norms> == selective<norms, moe>);
  }
  TEST_CASE("a rule can be printed") {
    CHECK(describe(recompute_none) == "none");
    CHECK(describe(recompute_full) == "full");
    CHECK(describe(selective<moe, norms>) == "selective: norms, moe");
    CHECK(describe(selective<activation, core_attention>) == "selective: activation, core_attention");
  }
}
