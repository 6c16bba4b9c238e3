#include <moefold/core/mutant.hpp>

#include <doctest/doctest.h>

#include <algorithm>

using namespace moefold;

TEST_SUITE("core/mutant") {
  TEST_CASE("no build but the one of the mutants has any, and each has a name of its own") {
    static_assert(MOEFOLD_HAS_MUTANTS == 0);
    for (std::size_t i = 0; i < mutant_names.size(); ++i) {
      CAPTURE(mutant_names[i]);
      CHECK(!mutated(mutant(i)));
      CHECK(std::count(mutant_names.begin(), mutant_names.end(), mutant_names[i]) == 1);
    }
    static_assert(!mutated(mutant::skipped_tp_sum));
    static_assert(mutant_names[std::size_t(mutant::stale_replicas)] == "stale_replicas");
    static_assert(mutant_names.size() == std::size_t(mutant::stale_replicas) + 1);
  }
}
