#include <moefold/attention/cp_all_gather.hpp>

#include "../support/context_suite.hpp"

using namespace moefold;

TEST_SUITE("attention/cp_all_gather") {
  TEST_CASE("on every cp x tp it is the single rank's attention, packed or not") { test::check_context_policy<cp_all_gather>(); }
  TEST_CASE("it sends what the inventory foretells") {
    test::check_context_traffic<cp_all_gather>(true);
    test::check_context_traffic<cp_all_gather>(false);
  }
}
