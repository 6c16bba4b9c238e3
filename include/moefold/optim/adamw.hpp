#pragma once
// What an optimizer policy is, and AdamW as the first one: the numbers a user may choose and the update of one flat range.
// AdamW: decoupled weight decay, bias correction. Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2.
#include <moefold/core/exec.hpp>
#include <moefold/ops/adamw.hpp>

#include <array>
#include <cmath>
#include <span>

namespace moefold {

/// What the distributed optimizer asks of a policy. state_tensors: how many numbers it keeps per weight (of Precision::moments, starting at 0).
/// update(e, step, rate, gradient_scale, decay, master, gradient, state, weights) changes one flat range; step counts from 1, decay says whether
/// weight decay applies to the range, master and weights may be the same memory.
template <class O>
concept optimizer_policy = std::default_initializable<O> && requires(const O& o, host_exec e, std::span<float> f, std::span<const float> g,
                                                                     const std::array<std::span<float>, O::state_tensors>& state) {
  { O::name } -> std::convertible_to<const char*>;
  o.update(e, std::int64_t{1}, 1e-3, 1.0, true, f, g, state, f);
};

struct adamw {
  static constexpr const char* name = "adamw";
  static constexpr std::size_t state_tensors = 2;  // running averages of the gradient and of its square
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;

  template <class Exec, class M, class G, class V, class T>
  void update(Exec e, std::int64_t step, double rate, double gradient_scale, bool decay, std::span<M> master, std::span<const G> gradient,
              const std::array<std::span<V>, state_tensors>& state, std::span<T> weights) const {
    const double correction1 = 1 - std::pow(beta1, double(step)), correction2 = 1 - std::pow(beta2, double(step));
    const adamw_step now{rate, beta1, beta2, eps, decay ? weight_decay : 0.0, correction1, correction2, gradient_scale};
    adamw_update(e, now, master, gradient, state[0], state[1], weights);
  }
};

static_assert(optimizer_policy<adamw>);

}  // namespace moefold
