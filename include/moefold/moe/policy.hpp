#pragma once
// What a MoE block lets its user choose, with defaults: derive from moe_defaults and say only what differs.
//
//   struct my_moe : moefold::moe_defaults {
//     using tokens = moefold::capacity<125, moefold::padded>;
//     static constexpr moefold::balance_losses balance{.sequence = 1e-3, .z = 1e-3};
//     template <class T, class Comm> using dispatcher = moefold::all_gather_dispatcher<T, Comm>;
//   };
#include <moefold/comm/self.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/core/precision.hpp>
#include <moefold/moe/all_gather.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/moe/sequential_experts.hpp>
#include <moefold/moe/tokens.hpp>

namespace moefold {

struct moe_defaults {
  static constexpr model_shape model{};
  using precision = fp32;
  using tokens = dropless;
  static constexpr balance_losses balance{};  // none: a block in somebody's own trainer asks for no more groups than ep and etp
  static constexpr double jitter = 0;
  template <class T, class Comm>
  using dispatcher = all_to_all_dispatcher<T, Comm>;
  template <class Precision>
  using experts = grouped_experts<Precision>;
};

template <class P>
concept moe_choices = token_policy<typename P::tokens> && std::convertible_to<decltype(P::balance), balance_losses> &&
    std::convertible_to<decltype(P::jitter), double> && requires {
  typename P::template dispatcher<float, self_comm>;
  typename P::template experts<fp32>;
};
static_assert(moe_choices<moe_defaults>);

/// The plain numbers of a policy. Numbers that cannot work do not compile.
template <moe_choices P>
constexpr moe_facts facts_of() {
  static_assert(holds(P::balance), "moefold: coefficients of balance losses are finite and 0 (off) or above");
  static_assert(jitter_holds(P::jitter), "moefold: jitter lies in [0, 1); 0.01 is usual, 0 is off");
  return {P::tokens::rule, P::balance, P::jitter, P::template dispatcher<float, self_comm>::kind};
}

}  // namespace moefold
