#include <moefold/attention/cp_ring.hpp>

#include "../support/context_suite.hpp"

using namespace moefold;

TEST_SUITE("attention/cp_ring") {
  TEST_CASE("on every cp x tp it is the single rank's attention, packed or not") { test::check_context_policy<cp_ring>(); }
  TEST_CASE("it sends what the inventory foretells") {
    test::check_context_traffic<cp_ring>(true);
    test::check_context_traffic<cp_ring>(false);
  }
  TEST_CASE("two chunks per rank make the causal work of all ranks equal to the pair") {
    for (const extent_t cp : {2, 4, 8}) {
      const extent_t sequence = 64 * cp;
      const std::vector<std::int32_t> at = context_positions(sequence, cp);
      std::vector<extent_t> pairs;
      for (extent_t rank = 0; rank < cp; ++rank) {
        extent_t visible = 0;
        for (const std::int32_t q : sequence_map{at, {}}.part(int(rank), int(cp)).position) visible += q + 1;
        pairs.push_back(visible);
      }
      const auto [least, most] = std::minmax_element(pairs.begin(), pairs.end());
      CHECK(*least == *most);
      CHECK(*most * cp == sequence * (sequence + 1) / 2);
    }
  }
}
