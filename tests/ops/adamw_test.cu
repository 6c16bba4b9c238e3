#include <moefold/ops/adamw.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::random_tensor;
using test::shifted;
using test::to_host;

namespace {

/// Three steps of n parameters on either side; `one`: the weights are the master's own memory.
template <class M, class G, class V, class T>
void twins_agree(double limit, double of_moments, extent_t n, extent_t skip, bool one) {
  CAPTURE(n);
  CAPTURE(skip);
  const test::both_execs on;
  auto master = random_tensor<M>({n}, 1);
  tensor<V> m({n}, V(0.0f)), v({n}, V(0.0f));
  tensor<T> weights({n}, T(0.0f));
  shifted master_d(master, skip);
  shifted m_d(m, skip), v_d(v, skip);
  shifted<T> weights_d({n}, skip);
  for (int t = 1; t <= 3; ++t) {
    const auto grad = random_tensor<G>({n}, 10 + std::uint64_t(t));
    const shifted grad_d(grad, skip);
    const adamw_step step{0.01, 0.9, 0.95, 1e-8, 0.1, 1 - std::pow(0.9, t), 1 - std::pow(0.95, t), 0.25};
    if constexpr (std::is_same_v<M, T>) {
      if (one) {
        adamw_update(on.host, step, master.view().span(), grad.view().span(), m.view().span(), v.view().span(), master.view().span());
        adamw_update(on.device, step, master_d.view().span(), grad_d.in().span(), m_d.view().span(), v_d.view().span(),
                     master_d.view().span());
        continue;
      }
    }
    adamw_update(on.host, step, master.view().span(), grad.view().span(), m.view().span(), v.view().span(), weights.view().span());
    adamw_update(on.device, step, master_d.view().span(), grad_d.in().span(), m_d.view().span(), v_d.view().span(),
                 weights_d.view().span());
  }
  const auto got = to_host(on.device, master_d);
  CHECK(test::norm_error(got, master) <= limit);
  CHECK(test::norm_error(to_host(on.device, m_d), m) <= of_moments);
  CHECK(test::norm_error(to_host(on.device, v_d), v) <= of_moments);
  if (one) return;
  const auto rounded = to_host(on.device, weights_d);
  bool roundings = true;
  for (std::size_t i = 0; i < std::size_t(n); ++i) roundings = roundings && double(rounded[i]) == double(T(accumulate_t<M>(got[i])));
  CHECK(roundings);
}

}  // namespace

TEST_SUITE("ops/adamw") {
  TEST_CASE("three steps on the device agree with three on the host, and the weights are the roundings of the master") {
    for (const extent_t n : {0, 1, 5, 4099})
      for (const extent_t skip : {0, 1}) {
        twins_agree<double, double, double, double>(1e-12, 1e-12, n, skip, true);
        twins_agree<float, float, float, float>(1e-5, 1e-5, n, skip, true);
        twins_agree<float, float, float, float>(1e-5, 1e-5, n, skip, false);
        twins_agree<float, float, float, bf16>(1e-5, 1e-5, n, skip, false);
        twins_agree<float, bf16, bf16, bf16>(1e-3, 2e-2, n, skip, false);  // a moment may round the other way
      }
  }
}
