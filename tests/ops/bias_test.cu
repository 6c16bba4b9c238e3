#include <moefold/ops/bias.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_device;
using test::to_host;

namespace {

template <class T, row_tuning Tune = row_tuning{}>
void twins_agree(extent_t rows, extent_t width, extent_t skip) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(skip);
  using G = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const test::both_execs on;
  const auto bias = random_tensor<T>({width}, 1), dy = random_tensor<T>({rows, width}, 2);
  const auto start = random_tensor<G>({width}, 3);
  tensor<T> y({rows, width});
  auto dbias = test::copy_of(start.view());
  bias_forward(on.host, bias, y.view());
  bias_backward(on.host, dy.view(), dbias.view());

  shifted bias_d(bias, skip), dy_d(dy, skip);
  shifted<T> y_d({rows, width}, skip);
  auto dbias_d = to_device(start), again_d = to_device(start);
  bias_forward<Tune>(on.device, bias_d, y_d.view());
  bias_backward<Tune>(on.device, dy_d.view(), dbias_d.view());
  bias_backward<Tune>(on.device, dy_d.view(), again_d.view());
  CHECK(same_bits(to_host(on.device, y_d), y));
  CHECK(test::norm_error(to_host(on.device, dbias_d), dbias) <= (std::is_same_v<G, double> ? 1e-12 : 1e-5));
  CHECK(same_bits(to_host(on.device, again_d), to_host(on.device, dbias_d)));
}

// A warp per row, a block per row, rows too wide for registers; whole packs and not.
constexpr extent_t shapes[][2] = {{0, 8}, {1, 1}, {3, 24}, {70, 128}, {9, 127}, {5, 1000}, {3, 2048}, {2, 1031}, {2, 8264}};

}  // namespace

TEST_SUITE("ops/bias") {
  TEST_CASE("a bias in every row and the sum over rows on the device are their host twins'; the sum has the same bits each time") {
    for (const auto& s : shapes)
      for (const extent_t skip : {0, 1}) {
        twins_agree<double>(s[0], s[1], skip);
        twins_agree<float>(s[0], s[1], skip);
        twins_agree<bf16>(s[0], s[1], skip);
      }
  }
  TEST_CASE("more rows than blocks share: the sum has all of them") {
    twins_agree<float>((test::emulated ? 600 : 5000) * 8, 5, 0);
    twins_agree<bf16>(test::emulated ? 600 : 5000, 264, 1);  // scalar: a block per row
  }
  TEST_CASE("few blocks, few registers: rows wider than a block keeps add up too") {
    constexpr row_tuning little{64, 1, 1, 3};
    for (const extent_t width : {40, 135, 700})
      for (const extent_t skip : {0, 1}) {
        twins_agree<double, little>(20, width, skip);
        twins_agree<bf16, little>(20, width, skip);
      }
  }
}
