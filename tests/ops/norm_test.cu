#include <moefold/ops/norm.cuh>

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

/// How far dx is from its twin, relative to the terms it is a difference of: in narrow rows it is all but nothing of them, and who multiplies and adds in
/// one rounding, as a device does, gets another rest.
template <class T>
double slope_error(const tensor<T>& dx, const tensor<T>& twin, const tensor<T>& dy, const tensor<T>& gain,
                   const tensor<accumulate_t<T>>& rstd) {
  tensor<double> terms(dx.shape());
  const extent_t width = gain.extent(0);
  for (extent_t i = 0; i < extent_t(dx.size()); ++i)
    terms.data()[i] = double(dy.data()[i]) * double(gain.data()[i % width]) * double(rstd.data()[i / width]);
  const double size = test::norm_error(terms, tensor<double>(dx.shape(), 0.0));
  return test::norm_error(dx, twin) * test::norm_error(twin, tensor<T>(dx.shape(), T(0.0f))) / std::max(size, 1e-300);
}

template <class T, row_tuning Tune = row_tuning{}>
void twins_agree(double limit, extent_t rows, extent_t width, extent_t skip) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(skip);
  using A = accumulate_t<T>;
  const test::both_execs on;
  const shape s{rows, width};
  const auto x = random_tensor<T>(s, 1, 3.0), other = random_tensor<T>(s, 2), gain = random_tensor<T>({width}, 3),
             dy = random_tensor<T>(s, 4);
  const auto start = random_tensor<float>({width}, 5);
  const double sums = double(std::numeric_limits<A>::epsilon()) * 100;

  tensor<T> y(s), sum(s), normed(s), dx(s);
  tensor<A> rstd({rows}), rstd_of_sum({rows});
  auto dgain = test::copy_of(start.view());
  rms_norm_forward(on.host, x, gain, 1e-5, y.view(), rstd);
  residual_rms_norm_forward(on.host, x, other, gain, 1e-5, sum.view(), normed, rstd_of_sum);
  rms_norm_backward(on.host, dy, x, gain, rstd, dx.view(), dgain.view());

  shifted x_d(x, skip), other_d(other, skip), gain_d(gain, skip), dy_d(dy, skip);
  shifted<T> y_d(s, skip), sum_d(s, skip), normed_d(s, skip), dx_d(s, skip);
  auto rstd_d = poisoned<A>({rows}), rstd_of_sum_d = poisoned<A>({rows});
  auto dgain_d = to_device(start), again_d = to_device(start);
  rms_norm_forward<Tune>(on.device, x_d, gain_d, 1e-5, y_d.view(), rstd_d);
  residual_rms_norm_forward<Tune>(on.device, x_d, other_d, gain_d, 1e-5, sum_d.view(), normed_d, rstd_of_sum_d);
  rms_norm_backward<Tune>(on.device, dy_d, x_d, gain_d, rstd_d, dx_d.view(), dgain_d.view());
  const auto slope = to_host(on.device, dx_d);
  CHECK(test::norm_error(to_host(on.device, y_d), y) <= limit);
  CHECK(test::norm_error(to_host(on.device, rstd_d), rstd) <= sums);
  CHECK(same_bits(to_host(on.device, sum_d), sum));
  CHECK(test::norm_error(to_host(on.device, normed_d), normed) <= limit);
  CHECK(test::norm_error(to_host(on.device, rstd_of_sum_d), rstd_of_sum) <= sums);
  CHECK(slope_error(slope, dx, dy, gain, rstd) <= limit);
  CHECK(test::norm_error(to_host(on.device, dgain_d), dgain) <= 1e-5);

  // Again, in place: the same bits.
  rms_norm_backward<Tune>(on.device, dy_d, x_d, gain_d, rstd_d, dy_d.view(), again_d.view());
  residual_rms_norm_forward<Tune>(on.device, x_d, other_d, gain_d, 1e-5, x_d.view(), normed_d, rstd_of_sum_d);
  CHECK(same_bits(to_host(on.device, dy_d), slope));
  CHECK(same_bits(to_host(on.device, again_d), to_host(on.device, dgain_d)));
  CHECK(same_bits(to_host(on.device, x_d), sum));
  CHECK(test::norm_error(to_host(on.device, normed_d), normed) <= limit);
}

// A warp per row, a block per row, rows too wide for registers; whole packs and not.
constexpr extent_t shapes[][2] = {{0, 8}, {1, 1}, {3, 24}, {70, 128}, {9, 127}, {5, 1000}, {3, 2048}, {2, 1031}, {2, 8264}};

}  // namespace

TEST_SUITE("ops/norm") {
  TEST_CASE("norms on the device agree with their host twins, forward, with a residual, and backward") {
    for (const auto& s : shapes)
      for (const extent_t skip : {0, 1}) {
        twins_agree<double>(1e-12, s[0], s[1], skip);
        twins_agree<float>(1e-5, s[0], s[1], skip);
        twins_agree<bf16>(2e-2, s[0], s[1], skip);
      }
  }
  TEST_CASE("more rows than blocks share: the gain's gradient has all of them") {
    const extent_t rows = test::emulated ? 600 : 5000;
    twins_agree<float>(1e-5, rows * 8, 5, 0);
    twins_agree<bf16>(2e-2, rows, 264, 1);  // scalar: a block per row
  }
  TEST_CASE("few blocks, few registers: rows wider than a block keeps add up too") {
    constexpr row_tuning little{64, 1, 1, 3};
    for (const extent_t width : {40, 135, 700})
      for (const extent_t skip : {0, 1}) {
        twins_agree<double, little>(1e-12, 20, width, skip);
        twins_agree<bf16, little>(2e-2, 20, width, skip);
      }
  }
}
