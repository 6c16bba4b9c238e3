#include "../support/context_memory.hpp"

#include <moefold/attention/cp_all_to_all.hpp>

using namespace moefold;

TEST_SUITE("attention/context_memory_soak") {
  TEST_CASE("at 32768 tokens what attention needs falls as 1/cp, on a ring and with heads exchanged") {
    test::check_memory_falls<cp_ring>(2, 32768);
    test::check_memory_falls<cp_all_to_all>(2, 32768);
  }
}
