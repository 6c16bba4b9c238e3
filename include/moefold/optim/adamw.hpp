#pragma once
// AdamW as an optimizer policy: the numbers a user may choose and the update of one flat range. Decoupled weight decay, bias correction.
// Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
#include <moefold/ops/adamw.hpp>

#include <cmath>
#include <span>

namespace moefold {

struct adamw {
  static constexpr const char* name = "adamw";
  static constexpr int moments = 2;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;

  /// One update of `weights` (their master copy in `master`; the same memory where the types agree). `step` counts from 1; decay: whether it applies here.
  template <class Exec, class M, class G, class V, class T>
  void update(Exec e, std::int64_t step, double rate, double gradient_scale, bool decay, std::span<M> master, std::span<const G> gradient,
              std::span<V> first, std::span<V> second, std::span<T> weights) const {
    const adamw_step now{
        rate,          beta1, beta2, eps, decay ? weight_decay : 0.0, 1 - std::pow(beta1, double(step)), 1 - std::pow(beta2, double(step)),
        gradient_scale};
    adamw_update(e, now, master, gradient, first, second, weights);
  }
};

}  // namespace moefold
