#include <moefold/core/fp8_precision.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace moefold;

TEST_SUITE("core/fp8_precision") {
  TEST_CASE("fp8 stores and sums as bf16 does, and says besides how its products are scaled") {
    static_assert(precision_policy<fp8<>> && precision_policy<fp8<current_scaling>>);
    static_assert(dtype_of<fp8<>::storage> == dtype::bf16 && dtype_of<fp8<>::accumulate> == dtype::fp32);
    static_assert(dtype_of<fp8<>::reduce> == dtype::fp32 && dtype_of<fp8<>::master> == dtype::fp32);
    CHECK(std::string(fp8<>::name) == "fp8");
  }
  TEST_CASE("only a policy with a scaling quantises, narrow moments change nothing of it, and current scaling remembers no step") {
    static_assert(quantising_policy<fp8<>> && quantising_policy<with_moments<fp8<delayed_scaling<4>>, bf16>>);
    static_assert(!quantising_policy<mixed_bf16> && !quantising_policy<fp32>);
    static_assert(amax_steps<fp8<>> == 16 && amax_steps<with_moments<fp8<delayed_scaling<4>>, bf16>> == 4);
    CHECK(amax_steps<fp8<current_scaling>> == 0);
    CHECK(amax_steps<mixed_bf16> == 0);
  }
}
