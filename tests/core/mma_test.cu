#include <moefold/core/mma.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;

namespace moefold::kernel {

/// d [16, 8] = a [16, 16] b, where b is [16, 8] or, Transposed false, its transpose [8, 16]: both lie in shared memory with rows 24 elements apart.
template <bool Transposed>
__global__ void product(const bf16* a, const bf16* b, float* d) {
  constexpr int stride = 24;
  bf16* const room = dynamic_shared<bf16>();
  bf16 *const of_a = room, *const of_b = room + 16 * stride;
  const int lane = int(threadIdx.x), columns = Transposed ? 8 : 16;
  copy_async<16>(of_a + lane / 2 * stride + lane % 2 * 8, a + lane / 2 * 16 + lane % 2 * 8, true);
  const int row = lane * 8 / columns, column = lane * 8 % columns;
  const bool real = lane < 16;
  if (Transposed || row < 16)
    copy_async<16>(of_b + (row % 16) * stride + (Transposed ? row / 16 * 8 : column), b + (real ? row * columns + column : 0), real);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  unsigned left[4], right[4];
  load_matrices<false>(left, of_a + lane % 16 * stride + lane / 16 * 8);
  load_matrices<Transposed>(
      right, Transposed ? of_b + lane % 16 * stride + lane / 16 * 8 : of_b + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
  float sum[2][4] = {};
  mma_m16n8k16(sum[0], left, {right[0], right[1]});
  mma_m16n8k16(sum[1], left, {right[2], right[3]});  // of the zeros beyond b
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[0][i] + sum[1][i];
}
__global__ void numbers(float* out) {
  const unsigned both = pair_of_bf16(1.00390625f, -3.0f);  // 1 + 2^-8 is halfway: to even, down
  out[0] = std::bit_cast<float>(both << 16), out[1] = std::bit_cast<float>(both & 0xffff0000u);
  out[2] = exp2_of(-std::numeric_limits<float>::infinity()), out[3] = exp2_of(3.5f);
}

}  // namespace moefold::kernel

TEST_SUITE("core/mma") {
  TEST_CASE("a product of fragments is the product of the matrices, whichever way the right one lies") {
    test::both_execs x;
    const auto a = test::random_tensor<bf16>({16, 16}, 1), b = test::random_tensor<bf16>({16, 8}, 2);
    tensor<bf16> turned({8, 16});
    tensor<float> expected({16, 8}, 0.0f);
    for (extent_t k = 0; k < 16; ++k)
      for (extent_t c = 0; c < 8; ++c) {
        turned.view()(c, k) = b.view()(k, c);
        for (extent_t r = 0; r < 16; ++r) expected.view()(r, c) += float(a.view()(r, k)) * float(b.view()(k, c));
      }
    const auto a_d = test::to_device(a), b_d = test::to_device(b), turned_d = test::to_device(turned);
    auto d = test::poisoned<float>({16, 8});
    launch(x.device, "product", kernel::product<true>, 1, 32, 32 * 24 * sizeof(bf16), a_d.data(), b_d.data(), d.data());
    CHECK(test::norm_error(test::to_host(x.device, d), expected) < 1e-6);
    d = test::poisoned<float>({16, 8});
    launch(x.device, "product", kernel::product<false>, 1, 32, 32 * 24 * sizeof(bf16), a_d.data(), turned_d.data(), d.data());
    CHECK(test::norm_error(test::to_host(x.device, d), expected) < 1e-6);
  }
  TEST_CASE("pairs round to even, low half first; 2^-inf is 0") {
    test::both_execs x;
    auto out = test::poisoned<float>({4});
    launch(x.device, "numbers", kernel::numbers, 1, 1, 0, out.data());
    const auto y = test::to_host(x.device, out);
    CHECK(y[0] == 1.0f);
    CHECK(y[1] == -3.0f);
    CHECK(y[2] == 0.0f);
    CHECK(y[3] == doctest::Approx(11.3137085).epsilon(1e-6));
  }
}
