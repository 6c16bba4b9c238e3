// A rotating part of the sampled runs: foldings with every other choice of a run, pairwise. All of them: sampled_soak_test.cpp.
#include "../support/sampled_suite.hpp"

using namespace moefold::testing;

TEST_SUITE("mapping/sampled") {
  TEST_CASE("those sampled runs whose turn it is train as one rank does") { check_sampled(sampled_runs_of_turn(24)); }
}
