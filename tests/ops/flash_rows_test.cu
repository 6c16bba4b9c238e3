#include <moefold/ops/flash_rows.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;

namespace moefold::kernel {

/// s [4, 32] = own [4, D] tile [32, D]^T and o [4, D] = s tile, by one warp; own and tile have d real columns, and tile has 27 rows.
template <class T, int D>
__global__ void two_products(const T* own, const T* tile, int d, bool packed, accumulate_t<T>* s_out, accumulate_t<T>* o_out) {
  using A = accumulate_t<T>;
  using rows = flash_rows<T, D, 4, 1>;
  A* const own_rows = dynamic_shared<A>();
  A *const tile_rows = own_rows + rows::own * D, *const room = tile_rows + rows::tile * rows::stride;
  rows::load(own_rows, D, 4, d, packed, [&](int r) { return own + r * d; });
  rows::load(tile_rows, rows::stride, 32, d, packed, [&](int r) { return r < 27 ? tile + r * d : nullptr; });
  __syncthreads();
  A s[4];
  typename rows::column_sums sum = {};
  rows::dots(s, own_rows, tile_rows);
  rows::add_products(sum, s, room, tile_rows);
  for (int r = 0; r < 4; ++r) {
    s_out[r * 32 + int(threadIdx.x)] = s[r];
    rows::store(o_out + r * d, sum[r], A(2), d);
  }
}

}  // namespace moefold::kernel

TEST_SUITE("ops/flash_rows") {
  TEST_CASE_TEMPLATE("scores and sums of scores are the products, in packs and in single elements", T, float, double, bf16) {
    using A = accumulate_t<T>;
    test::both_execs x;
    for (const extent_t d : {64, 40, 33}) {
      const auto own = test::random_tensor<T>({4, d}, 1), tile = test::random_tensor<T>({27, d}, 2);
      tensor<A> s({4, 32}, A(0)), o({4, d}, A(0));
      for (extent_t r = 0; r < 4; ++r)
        for (extent_t j = 0; j < 27; ++j) {
          for (extent_t c = 0; c < d; ++c) s.view()(r, j) += A(own.view()(r, c)) * A(tile.view()(j, c));
          for (extent_t c = 0; c < d; ++c) o.view()(r, c) += A(2) * s.view()(r, j) * A(tile.view()(j, c));
        }
      const auto own_d = test::to_device(own), tile_d = test::to_device(tile);
      auto s_d = test::poisoned<A>(s.shape()), o_d = test::poisoned<A>(o.shape());
      launch(x.device, "two_products", kernel::two_products<T, 64>, 1, 32, kernel::flash_rows<T, 64, 4, 1>::shared(1), own_d.data(),
             tile_d.data(), int(d), d != 33, s_d.data(), o_d.data());
      const double limit = std::is_same_v<A, double> ? 1e-13 : 1e-5;
      CHECK(test::norm_error(test::to_host(x.device, s_d), s) < limit);
      CHECK(test::norm_error(test::to_host(x.device, o_d), o) < limit);
    }
  }
}
