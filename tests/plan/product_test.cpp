#include <moefold/plan/product.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("plan/product") {
  constexpr cluster_spec c = dgx_h100;

  TEST_CASE("a large product reaches the plateau, less what its depth costs") {
    const product_shape p{8448, 8192, 8192};  // 66 * 32 tiles: 16 full waves of 132
    CHECK(filled_share(p, c) == doctest::Approx(1));
    CHECK(seconds_of(p, c) == doctest::Approx(p.flops() / (c.gpu.bf16_flops * c.efficiency.gemm * 8192 / (8192 + 512))));
  }
  TEST_CASE("one tile more than a wave costs a second wave") {
    const product_shape full{128 * 132, 256, 4096}, more{128 * 133, 256, 4096};
    CHECK(seconds_of(more, c) == doctest::Approx(2 * seconds_of(full, c)));
  }
  TEST_CASE("few rows per expert are bound by the bytes of the weights") {
    const product_shape p{8, 16384, 6144, 8};
    CHECK(seconds_of(p, c) ==
          doctest::Approx((8. * 8 * 6144 + 8. * 6144 * 16384 + 8. * 8 * 16384) * 2 / (c.gpu.hbm_bytes * c.efficiency.hbm)));
  }
  TEST_CASE("many small experts take longer than one large one of the same flops, and ragged ones longer still") {
    const product_shape one{16384, 5120, 3584}, many{1024, 5120, 3584, 16}, ragged{1000, 5120, 3584, 16, true}, even{1000, 5120, 3584, 16};
    CHECK(one.flops() == many.flops());
    CHECK(seconds_of(many.of_weight(), c) > 1.2 * seconds_of(one.of_weight(), c));  // its depth is the rows of one expert
    CHECK(seconds_of(ragged, c) > seconds_of(even, c));
  }
  TEST_CASE("a kernel for all experts of a rank may reach less than a single product, forward and backward") {
    cluster_spec slow = c;
    slow.efficiency.grouped = 0.4;
    const product_shape experts{4096, 16384, 6144, 2, false, true}, single{4096, 16384, 6144, 2};
    CHECK(seconds_of(experts, c) == seconds_of(single, c));
    for (const product_shape& p : {experts, experts.of_input(), experts.of_weight()})
      CHECK(seconds_of(p, slow) == doctest::Approx(seconds_of(p, c) / 0.4));
    CHECK(seconds_of(single, slow) == seconds_of(single, c));
  }
  TEST_CASE("the backward multiplies as much as the forward, twice") {
    const product_shape p{512, 1024, 2048, 3};
    CHECK(p.of_input().flops() == p.flops());
    CHECK(p.of_weight().flops() == p.flops());
  }
  TEST_CASE("8-bit inputs are faster where the GPU has them, by less than two") {
    const product_shape p{16384, 16384, 6144};
    CHECK(seconds_of(p, c, true) < seconds_of(p, c));
    CHECK(seconds_of(p, c, true) > seconds_of(p, c) / 2);
    CHECK(seconds_of(p, laptop, true) == seconds_of(p, laptop));
  }
}
