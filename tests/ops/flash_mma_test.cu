#include <moefold/ops/flash_mma.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;

namespace moefold::kernel {

/// s [32, 48] = a [32, D] b [48, D]^T and o [32, D] = s b, by one warp; a and b have d real columns.
template <int D>
__global__ void two_products(const bf16* a, const bf16* b, int d, float* s_out, float* o_out) {
  using mma = flash_mma<D, 1>;
  bf16* const a_tile = dynamic_shared<bf16>();
  bf16* const b_tile = a_tile + 32 * mma::stride;
  mma::load(a_tile, 32, d, a, [&](int r) { return a + r * d; });
  mma::load(b_tile, 48, d, a, [&](int r) { return r < 41 ? b + r * d : nullptr; });
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  float s[2][6][4], o[2][D / 8][4] = {};
  mma::template rows_by_rows<2, 48>(s, a_tile, b_tile);
  mma::template scores_by_rows<2, 48, D>(o, s, b_tile);
  for (int m = 0; m < 2; ++m)
    for (int half = 0; half < 2; ++half) {
      const int r = m * 16 + half * 8 + int(threadIdx.x) / 4;
      mma::template store<48>(s_out + r * 48, s[m], half, 1.0f, 48);
      mma::template store<D>(o_out + r * d, o[m], half, 0.5f, d);
    }
}

}  // namespace moefold::kernel

TEST_SUITE("ops/flash_mma") {
  // On a GPU not for 256: two strips of sums of that width do not fit into registers; the kernels use one (ops/flash_mma.cuh).
  TEST_CASE_TEMPLATE("scores come out of one product as the next one wants them, for every width", Width, std::integral_constant<int, 64>,
                     std::integral_constant<int, 128>, std::integral_constant < int, test::emulated ? 256 : 96 >) {
    constexpr int D = Width::value;
    test::both_execs x;
    for (const extent_t d : {extent_t(D), extent_t(D) - 24}) {
      const auto a = test::random_tensor<bf16>({32, d}, 1), b = test::random_tensor<bf16>({41, d}, 2);
      tensor<float> s({32, 48}, 0.0f), o({32, d}, 0.0f);
      for (extent_t r = 0; r < 32; ++r)
        for (extent_t j = 0; j < 41; ++j) {
          for (extent_t c = 0; c < d; ++c) s.view()(r, j) += float(a.view()(r, c)) * float(b.view()(j, c));
          for (extent_t c = 0; c < d; ++c) o.view()(r, c) += 0.5f * float(bf16(s.view()(r, j))) * float(b.view()(j, c));
        }
      const auto a_d = test::to_device(a), b_d = test::to_device(b);
      auto s_d = test::poisoned<float>(s.shape()), o_d = test::poisoned<float>(o.shape());
      launch(x.device, "two_products", kernel::two_products<D>, 1, 32, 80 * (D + 8) * sizeof(bf16), a_d.data(), b_d.data(), int(d),
             s_d.data(), o_d.data());
      CHECK(test::norm_error(test::to_host(x.device, s_d), s) < 1e-5);
      CHECK(test::norm_error(test::to_host(x.device, o_d), o) < 1e-3);  // a score at a rounding edge may round the other way
    }
  }
}
