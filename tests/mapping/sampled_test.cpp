// A rotating part of the sampled runs: foldings with every other choice of a run, pairwise; and all of them.
#include "../support/sampled_suite.hpp"

using namespace moefold::testing;

TEST_SUITE("mapping/sampled") {
  TEST_CASE("those sampled runs whose turn it is train as one rank does") { check_sampled(sampled_runs_of_turn(24)); }
}
TEST_SUITE("mapping/sampled_soak") {
  TEST_CASE("every sampled run trains as one rank does") { check_sampled(sampled_runs()); }
}
