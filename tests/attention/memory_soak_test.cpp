#include <moefold/attention/attention.hpp>

#include <doctest/doctest.h>
#include "../support/attention_memory.hpp"

using namespace moefold;

TEST_SUITE("attention/memory_soak") {
  TEST_CASE("one sequence of 32768 tokens, one document, on 8 ranks of a ring: one rank's output, in memory that falls as 1/cp") {
    constexpr model_shape model{.hidden = 8, .heads = 1, .kv_heads = 1, .head_dim = 4};
    test::attended one(model, 32768, 1), many(model, 32768, 1);
    one.on_one();
    test::memory_table table;
    test::measure_memory<cp_ring, fp64>(table, "cp_ring", 2, many, one, {2, 4, 8}, 1e-12);
    MESSAGE("bytes of the worst rank (of all together, as a share):", table.text());
    test::check_memory_falls(table, 1.1);
    // In fp32 eight ranks are nearer to fp64 than one rank, which is 5e-5 away: sums over 4096 keys, merged, instead of one over 32768.
    many.on<fp32, cp_ring>(1, 8);
    CHECK(test::largest_error(many.y, one.y) < 1e-5);
    CHECK(test::largest_error(many.dx, one.dx) < 1e-5);
  }
  TEST_CASE("32768 tokens in documents of 1024: every policy but the gathering one") {
    const test::memory_table table = test::memory_of_policies(32768, 1024);
    MESSAGE("bytes of the worst rank (of all together, as a share):", table.text());
    test::check_memory_falls(table, 1.1);
  }
}
