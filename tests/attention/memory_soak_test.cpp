#include <moefold/attention/attention.hpp>

#include <doctest/doctest.h>
#include "../support/attention_memory.hpp"

using namespace moefold;

TEST_SUITE("attention/memory_soak") {
  TEST_CASE("one sequence of 32768 tokens, one document, on 8 ranks of a ring: one rank's output, in memory that falls as 1/cp") {
    constexpr model_shape model{.hidden = 8, .heads = 1, .kv_heads = 1, .head_dim = 4};
    test::attended one(model, 32768, 1), many(model, 32768, 1);
    one.on<fp32, cp_ring>(1, 1);
    test::memory_table table;
    test::measure_memory<cp_ring>(table, "cp_ring", 2, many, one, {2, 4, 8});
    MESSAGE("bytes of the worst rank (of all together, as a share); one rank: ", one.peak, table.text());
    test::check_memory_falls(table, 1.1);
  }
  TEST_CASE("32768 tokens in documents of 1024: every policy but the gathering one") {
    const test::memory_table table = test::memory_of_policies(32768, 1024);
    MESSAGE("bytes of the worst rank (of all together, as a share):", table.text());
    test::check_memory_falls(table, 1.1);
  }
}
