#pragma once
// One AdamW update of a flat range of parameters: decoupled weight decay, bias correction, master weights and moments in their own types.
//
//   g = grad * grad_scale        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
//   master -= lr * ( (m / correction1) / (sqrt(v / correction2) + eps) + weight_decay * master )        weights = master, rounded
//
// correction1 = 1 - beta1^t, correction2 = 1 - beta2^t with t = 1 for the first step.
// Moments may be stored in bf16: they are made in accumulate_t of the master and rounded to nearest. A running average then stands still once it is
// within half a bf16 step / (1 - beta) of its aim: 4 to 8% for beta 0.95, but 2 to 4 times it for 0.999, which needs fp32.
// Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv 1711.05101.
#include <moefold/ops/rows.hpp>

namespace moefold {

/// The numbers of one step, dimensionless but for lr and grad_scale (clip coefficient / tokens that count).
struct adamw_step {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double correction1 = 1;
  double correction2 = 1;
  double grad_scale = 1;
};

/// The same numbers as one element needs them, in the type of the arithmetic.
template <class A>
struct adamw_factors {
  A b1, b2, rest1, rest2, eps, rate, root, keep, grad_scale;
  explicit adamw_factors(const adamw_step& step)
      : b1(A(step.beta1)), b2(A(step.beta2)), rest1(A(1 - step.beta1)), rest2(A(1 - step.beta2)), eps(A(step.eps)),
        rate(A(step.lr / step.correction1)), root(A(1 / step.correction2)), keep(A(1 - step.lr * step.weight_decay)),
        grad_scale(A(step.grad_scale)) {}
};

/// The new weight of one element; m and v are changed.
template <class A>
MOEFOLD_HD inline A adamw_element(const adamw_factors<A>& f, A grad, A weight, A& m, A& v) {
  const A g = grad * f.grad_scale;
  m = f.b1 * m + f.rest1 * g;
  v = f.b2 * v + f.rest2 * g * g;
  return f.keep * weight - f.rate * m / (std::sqrt(v * f.root) + f.eps);
}

/// All spans have the same size. `weights` may be `master` itself: then no second copy is written.
template <class M, class G, class V, class T>
void adamw_update(host_exec, const adamw_step& step, std::span<M> master, std::span<G> grad, std::span<V> m, std::span<V> v,
                  std::span<T> weights) {
  using A = accumulate_t<M>;
  const extent_t n = extent_t(master.size());
  require_count("adamw_update", "grad", grad.size(), n);
  require_count("adamw_update", "m", m.size(), n);
  require_count("adamw_update", "v", v.size(), n);
  require_count("adamw_update", "weights", weights.size(), n);
  const adamw_factors<A> factors(step);
  M* MOEFOLD_RESTRICT const w = master.data();
  const G* MOEFOLD_RESTRICT const d = grad.data();
  V* MOEFOLD_RESTRICT const m1 = m.data();
  V* MOEFOLD_RESTRICT const m2 = v.data();
  for (extent_t i = 0; i < n; ++i) {
    A mean = A(m1[i]), square = A(m2[i]);
    w[i] = M(adamw_element(factors, A(d[i]), A(w[i]), mean, square));
    m1[i] = V(mean), m2[i] = V(square);
  }
  if (static_cast<const void*>(weights.data()) != static_cast<const void*>(master.data()))
    for (extent_t i = 0; i < n; ++i) weights.data()[i] = T(A(w[i]));
}

}  // namespace moefold
