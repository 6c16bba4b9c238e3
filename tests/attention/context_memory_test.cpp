#include "../support/context_memory.hpp"

#include <moefold/attention/cp_all_to_all.hpp>

using namespace moefold;

TEST_SUITE("attention/context_memory") {
  TEST_CASE("what attention needs falls as 1/cp where keys and values go round a ring, where heads are exchanged, and where both") {
    test::check_memory_falls<cp_ring>(2, 4096);
    test::check_memory_falls<cp_all_to_all>(2, 4096);
    test::check_memory_falls<cp_combined<2>>(4, 4096);
  }
  TEST_CASE("it does not where every rank gathers all keys and values") { CHECK(test::context_share<cp_all_gather>(2, 8, 4096) > 1.5); }
}
