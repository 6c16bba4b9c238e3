#pragma once
// A precision policy says in which type each kind of number lives. Layers read it; nobody writes a literal `float`.
//
//   storage     weights and activations           reduce    gradients, and their sum over replicas
//   accumulate  arithmetic (accumulate_t<storage>) master    the weights that the optimizer updates
//   moments     the optimizer's running averages
// Where storage and master are the same type, the weights are their own master copy and no second one is kept.
#include <moefold/core/scalar.hpp>

#include <concepts>

namespace moefold {

struct fp32 {
  using storage = float;
  using accumulate = float;
  using reduce = float;
  using master = float;
  using moments = float;
  static constexpr const char* name = "fp32";
};

struct fp64 {
  using storage = double;
  using accumulate = double;
  using reduce = double;
  using master = double;
  using moments = double;
  static constexpr const char* name = "fp64";
};

/// Weights and activations in bf16; arithmetic, gradients and their sums, the optimizer's weights and averages in fp32.
struct mixed_bf16 {
  using storage = bf16;
  using accumulate = float;
  using reduce = float;
  using master = float;
  using moments = float;
  static constexpr const char* name = "bf16";
};

/// P with the optimizer's running averages in another type: with_moments<mixed_bf16, bf16> saves four bytes a parameter.
template <class P, element Moments>
struct with_moments : P {
  using moments = Moments;
};

template <class P>
concept precision_policy = element<typename P::storage> && element<typename P::reduce> && element<typename P::master> &&
    element<typename P::moments> && std::same_as<typename P::accumulate, accumulate_t<typename P::storage>> && requires {
  { P::name } -> std::convertible_to<const char*>;
};

static_assert(precision_policy<fp32> && precision_policy<fp64> && precision_policy<mixed_bf16> &&
              precision_policy<with_moments<mixed_bf16, bf16>>);

}  // namespace moefold
