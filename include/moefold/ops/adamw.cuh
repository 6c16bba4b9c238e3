#pragma once
// The CUDA twin of ops/adamw.hpp: one launch per flat range, every number read and written once, in packs.
//
//   fp32 master, gradient and moments, bf16 weights: 16 bytes read and 14 written per parameter, four parameters per thread
#include <moefold/ops/adamw.hpp>
#include <moefold/ops/elementwise.cuh>

namespace moefold {

namespace detail {

template <class M, class G, class V, class T>
struct adamw_elements {
  using A = accumulate_t<M>;
  adamw_factors<A> factors;
  M* master;
  const G* grad;
  V *m, *v;
  T* weights;  // none: the weights are the master's own memory

  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    pack<M, Lanes> w = load_pack<Lanes>(master + i);
    const pack<G, Lanes> d = load_pack<Lanes>(grad + i);
    pack<V, Lanes> m1 = load_pack<Lanes>(m + i), m2 = load_pack<Lanes>(v + i);
    pack<T, Lanes> rounded;
    for (int l = 0; l < Lanes; ++l) {
      A mean = A(m1.lane[l]), square = A(m2.lane[l]);
      w.lane[l] = M(adamw_element(factors, A(d.lane[l]), A(w.lane[l]), mean, square));
      m1.lane[l] = V(mean), m2.lane[l] = V(square);
      rounded.lane[l] = T(A(w.lane[l]));
    }
    store_pack(master + i, w);
    store_pack(m + i, m1);
    store_pack(v + i, m2);
    if (weights) store_pack(weights + i, rounded);
  }
};

}  // namespace detail

template <element_tuning Tune = element_tuning{}, class M, class G, class V, class T>
void adamw_update(cuda_exec e, const adamw_step& step, std::span<M> master, std::span<G> grad, std::span<V> m, std::span<V> v,
                  std::span<T> weights) {
  const extent_t n = extent_t(master.size());
  require_count("adamw_update", "grad", grad.size(), n);
  require_count("adamw_update", "m", m.size(), n);
  require_count("adamw_update", "v", v.size(), n);
  require_count("adamw_update", "weights", weights.size(), n);
  const bool one = static_cast<const void*>(weights.data()) == static_cast<const void*>(master.data());
  const detail::adamw_elements<M, std::remove_const_t<G>, V, T> body{
      adamw_factors<accumulate_t<M>>(step), master.data(), grad.data(), m.data(), v.data(), one ? nullptr : weights.data()};
  detail::each_element<Tune>(e, "adamw_update", n, body, master.data(), grad.data(), m.data(), v.data(), weights.data());
}

}  // namespace moefold
