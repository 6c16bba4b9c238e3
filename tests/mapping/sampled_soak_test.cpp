// All sampled runs. Every day's part of them: sampled_test.cpp.
#include "../support/sampled_suite.hpp"

using namespace moefold::testing;

TEST_SUITE("mapping/sampled_soak") {
  TEST_CASE("every sampled run trains as one rank does") { check_sampled(sampled_runs()); }
}
