#include <moefold/ops/gate.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

template <class T>
void twins_agree(double limit, extent_t rows, extent_t width, extent_t shift = 0) {
  using A = accumulate_t<T>;
  CAPTURE(rows);
  CAPTURE(width);
  const test::both_execs on;
  const shape s{rows, width};
  const auto x = test::random_tensor<T>(s, 1), w = test::random_tensor<T>({1, width}, 2), z = test::random_tensor<T>(s, 3),
             dy = test::random_tensor<T>(s, 4), before = test::random_tensor<T>(s, 5);
  const auto dw_before = test::random_tensor<A>({1, width}, 6);
  tensor<T> y(s), dz(s), dx(s);
  tensor<A> opening({rows}), dw({1, width});
  std::copy(before.begin(), before.end(), dx.begin());
  std::copy(dw_before.begin(), dw_before.end(), dw.begin());
  row_gate_forward(on.host, x, w, z, opening.view(), y.view());
  scale_rows(on.host, dy, opening, dz.view());
  row_gate_backward(on.host, dy, z, x, w, opening, dx.view(), dw.view());

  const auto shifted = [&](const tensor<T>& from) {
    tensor<T> wide({extent_t(from.size()) + shift});
    std::copy(from.begin(), from.end(), wide.begin() + shift);
    return test::to_device(wide);
  };
  const auto x_d = shifted(x), w_d = shifted(w), z_d = shifted(z), dy_d = shifted(dy);
  auto dx_d = shifted(before);
  auto dw_d = test::to_device(dw_before);
  auto y_d = test::poisoned<T>({rows * width + shift}), dz_d = test::poisoned<T>({rows * width + shift});
  auto opening_d = test::poisoned<A>({rows});
  const auto in = [&](const auto& t, const shape& as) { return view<const T>(t.data() + shift, as); };
  row_gate_forward(on.device, in(x_d, s), in(w_d, {1, width}), in(z_d, s), opening_d.view(), view<T>(y_d.data() + shift, s));
  scale_rows(on.device, in(dy_d, s), opening_d, view<T>(dz_d.data() + shift, s));
  row_gate_backward(on.device, in(dy_d, s), in(z_d, s), in(x_d, s), in(w_d, {1, width}), opening_d, view<T>(dx_d.data() + shift, s),
                    dw_d.view());
  CHECK(test::norm_error(test::to_host(on.device, opening_d), opening) < (sizeof(T) == 8 ? 1e-12 : 1e-5));
  CHECK(test::norm_error(test::to_host<T>(on.device, view<const T>(y_d.data() + shift, s)), y) < limit);
  CHECK(test::norm_error(test::to_host<T>(on.device, view<const T>(dz_d.data() + shift, s)), dz) < limit);
  CHECK(test::norm_error(test::to_host<T>(on.device, view<const T>(dx_d.data() + shift, s)), dx) < limit);
  CHECK(test::norm_error(test::to_host(on.device, dw_d), dw) < (sizeof(T) == 8 ? 1e-12 : 1e-5));
}

template <class T>
void shapes(double limit) {
  twins_agree<T>(limit, 5, 16);
  twins_agree<T>(limit, 3, 37);
  twins_agree<T>(limit, 9, 64, 1);  // misaligned
  twins_agree<T>(limit, 2, 1300);
  twins_agree<T>(limit, 1, 1);
  twins_agree<T>(limit, 0, 8);
}

}  // namespace

TEST_SUITE("ops/gate") {
  TEST_CASE("in fp32 both passes are the host's") { shapes<float>(1e-5); }
  TEST_CASE("in bf16 both passes are the host's") { shapes<bf16>(2e-2); }
  TEST_CASE("in fp64 both passes are the host's") { shapes<double>(1e-12); }
}
