#include <moefold/ops/gate.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::poisoned;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_device;
using test::to_host;

namespace {

template <class T, row_tuning Tune = row_tuning{}>
void twins_agree(double limit, extent_t rows, extent_t width, extent_t skip) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(skip);
  using A = accumulate_t<T>;
  const test::both_execs on;
  const shape s{rows, width};
  const auto x = random_tensor<T>(s, 1, 0.1), w = random_tensor<T>({1, width}, 2), z = random_tensor<T>(s, 3), dy = random_tensor<T>(s, 4);
  const auto dw_start = random_tensor<A>({1, width}, 5);
  const auto dx_start = random_tensor<T>(s, 6);
  tensor<T> y(s), dz(s), dx = test::copy_of(dx_start.view());
  tensor<A> opening({rows}), slope({rows}), dw = test::copy_of(dw_start.view());
  row_gate_forward(on.host, x, w, z, opening, y.view());
  row_gate_backward(on.host, dy, z, opening, dz.view(), slope);
  row_gate_accumulate(on.host, slope, x, w, dx.view(), dw.view());

  shifted x_d(x, skip), w_d(w, skip), z_d(z, skip), dy_d(dy, skip), dx_d(dx_start, skip), dx_again(dx_start, skip);
  shifted<T> y_d(s, skip), dz_d(s, skip);
  auto opening_d = poisoned<A>({rows}), slope_d = poisoned<A>({rows}), dw_d = to_device(dw_start), dw_again = to_device(dw_start);
  row_gate_forward<Tune>(on.device, x_d, w_d, z_d, opening_d, y_d.view());
  row_gate_backward<Tune>(on.device, dy_d, z_d, opening_d, dz_d.view(), slope_d);
  row_gate_accumulate<Tune>(on.device, slope_d, x_d, w_d, dx_d.view(), dw_d.view());
  row_gate_accumulate<Tune>(on.device, slope_d, x_d, w_d, dx_again.view(), dw_again.view());
  CHECK(test::norm_error(to_host(on.device, y_d), y) <= limit);
  CHECK(test::norm_error(to_host(on.device, dz_d), dz) <= limit);
  CHECK(test::norm_error(to_host(on.device, dx_d), dx) <= limit);
  const double sums = std::is_same_v<A, double> ? 1e-12 : 1e-5;
  CHECK(test::norm_error(to_host(on.device, opening_d), opening) <= sums);
  CHECK(test::norm_error(to_host(on.device, slope_d), slope) <= 10 * sums);
  CHECK(test::norm_error(to_host(on.device, dw_d), dw) <= 10 * sums);
  CHECK(same_bits(to_host(on.device, dx_again), to_host(on.device, dx_d)));
  CHECK(same_bits(to_host(on.device, dw_again), to_host(on.device, dw_d)));

  row_gate_forward<Tune>(on.device, x_d, w_d, z_d, opening_d, z_d.view());  // in place
  CHECK(same_bits(to_host(on.device, z_d), to_host(on.device, y_d)));
}

constexpr extent_t shapes[][2] = {{0, 8}, {1, 1}, {70, 24}, {5, 127}, {3, 2048}, {2, 1031}, {2, 8264}};

}  // namespace

TEST_SUITE("ops/gate") {
  TEST_CASE("gates of rows on the device agree with their host twins, forward and both halves of backward") {
    for (const auto& s : shapes)
      for (const extent_t skip : {0, 1}) {
        twins_agree<double>(1e-12, s[0], s[1], skip);
        twins_agree<float>(1e-5, s[0], s[1], skip);
        twins_agree<bf16>(2e-2, s[0], s[1], skip);
      }
  }
  TEST_CASE("few blocks, few registers: rows wider than a block keeps add up too") {
    constexpr row_tuning little{64, 1, 1, 3};
    for (const extent_t width : {40, 135, 700})
      for (const extent_t skip : {0, 1}) twins_agree<float, little>(1e-5, 20, width, skip);
  }
}
