#include <moefold/ops/norm.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::poisoned;
using test::random_tensor;
using test::to_device;
using test::to_host;

namespace {

template <class T>
void twins_agree(double limit, extent_t rows, extent_t width, extent_t skip) {  // skip: elements that push every row off its 16 bytes
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(skip);
  using A = accumulate_t<T>;
  const test::both_execs on;
  const shape s{rows, width};
  const auto x = random_tensor<T>(s, 1, 3.0), other = random_tensor<T>(s, 2), gain = random_tensor<T>({width}, 3),
             dy = random_tensor<T>(s, 4);
  const auto start = random_tensor<float>({width}, 5);
  const auto shifted = [&](const tensor<T>& from) {
    tensor<T> more({extent_t(from.size()) + skip}, T(0.0f));
    std::copy(from.begin(), from.end(), more.begin() + skip);
    return to_device(more);
  };
  const auto x_d = shifted(x), other_d = shifted(other), gain_d = shifted(gain), dy_d = shifted(dy);
  const auto at = [&](const test::device_tensor<T>& t, const shape& extents) { return view<const T>(t.data() + skip, extents); };
  const double sums = double(std::numeric_limits<A>::epsilon()) * 100;

  tensor<T> y(s), sum(s), normed(s), dx(s);
  tensor<A> rstd({rows}), rstd_of_sum({rows});
  auto dgain = test::copy_of(start.view());
  rms_norm_forward(on.host, x, gain, 1e-5, y.view(), rstd);
  residual_rms_norm_forward(on.host, x, other, gain, 1e-5, sum.view(), normed, rstd_of_sum);
  rms_norm_backward(on.host, dy, x, gain, rstd, dx.view(), dgain.view());

  auto y_d = poisoned<T>({rows * width + skip}), sum_d = poisoned<T>({rows * width + skip}), normed_d = poisoned<T>({rows * width + skip}),
       dx_d = poisoned<T>({rows * width + skip});
  auto rstd_d = poisoned<A>({rows}), rstd_of_sum_d = poisoned<A>({rows});
  auto dgain_d = to_device(start), again_d = to_device(start);
  const auto to = [&](test::device_tensor<T>& t) { return view<T>(t.data() + skip, s); };
  rms_norm_forward(on.device, at(x_d, s), at(gain_d, {width}), 1e-5, to(y_d), rstd_d);
  residual_rms_norm_forward(on.device, at(x_d, s), at(other_d, s), at(gain_d, {width}), 1e-5, to(sum_d), to(normed_d), rstd_of_sum_d);
  rms_norm_backward(on.device, at(dy_d, s), at(x_d, s), at(gain_d, {width}), rstd_d, to(dx_d), dgain_d.view());
  const auto result = [&](test::device_tensor<T>& t) { return to_host<T>(on.device, to(t)); };
  CHECK(test::norm_error(result(y_d), y) <= limit);
  CHECK(test::norm_error(to_host(on.device, rstd_d), rstd) <= sums);
  CHECK(test::largest_error(result(sum_d), sum) == 0);
  CHECK(test::norm_error(result(normed_d), normed) <= limit);
  CHECK(test::norm_error(to_host(on.device, rstd_of_sum_d), rstd_of_sum) <= sums);
  CHECK(test::norm_error(result(dx_d), dx) <= limit);
  CHECK(test::norm_error(to_host(on.device, dgain_d), dgain) <= 1e-5);

  // Again, in place: the same bits.
  const auto copied = [&](const test::device_tensor<T>& from) {
    test::device_tensor<T> t(from.shape());
    cuda_check(cudaMemcpy(t.data(), from.data(), t.size() * sizeof(T), cudaMemcpyDeviceToDevice), "copying a test input");
    return t;
  };
  auto in_place = copied(dy_d), added = copied(x_d);
  rms_norm_backward(on.device, at(in_place, s), at(x_d, s), at(gain_d, {width}), rstd_d, to(in_place), again_d.view());
  residual_rms_norm_forward(on.device, at(added, s), at(other_d, s), at(gain_d, {width}), 1e-5, to(added), to(normed_d), rstd_of_sum_d);
  CHECK(test::largest_error(result(in_place), result(dx_d)) == 0);
  CHECK(test::largest_error(to_host(on.device, again_d), to_host(on.device, dgain_d)) == 0);
  CHECK(test::largest_error(result(added), sum) == 0);
  CHECK(test::norm_error(result(normed_d), normed) <= limit);
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
}
