#include <moefold/attention/attention.hpp>

#include <doctest/doctest.h>
#include "../support/attention_memory.hpp"

using namespace moefold;

TEST_SUITE("attention/memory") {
  TEST_CASE(
      "memory of attention, forward and backward, falls as 1/cp with a ring, with traded heads and with both, not with gathered keys") {
    const test::memory_table table = test::memory_of_policies(4096, 64);
    MESSAGE("bytes of the worst rank (of all together, as a share):", table.text());
    test::check_memory_falls(table, 1.35);  // blocks of a fixed size count on 512 tokens
  }
}
