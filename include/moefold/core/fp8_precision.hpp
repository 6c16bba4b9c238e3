#pragma once
// The fp8 precision policy: all is stored as in mixed_bf16, and products of linear layers and experts see 8-bit values of their inputs.
// Router, embedding, norms, attention itself and the head stay as they are in mixed_bf16.
//
//   y = e4m3(x) e4m3(W)^T     dx = e5m2(dy) e4m3(W)     dW += e5m2(dy)^T e4m3(x)     sums in fp32; a scale for each tensor (core/scaling.hpp)
#include <moefold/core/error.hpp>
#include <moefold/core/precision.hpp>
#include <moefold/core/scaling.hpp>

namespace moefold {

template <scaling_policy Scaling = delayed_scaling<16>>
struct fp8 : mixed_bf16 {
  using scaling = Scaling;
  static constexpr const char* name = "fp8";
};

/// A precision policy whose products see 8-bit values: it says how their tensors are scaled.
template <class P>
concept quantising_policy = precision_policy<P> && scaling_policy<typename P::scaling>;

/// Steps whose amax a product's tensors remember; 0: none.
template <class P>
inline constexpr extent_t amax_steps = 0;
template <quantising_policy P>
inline constexpr extent_t amax_steps<P> = extent_t(P::scaling::history);

static_assert(quantising_policy<fp8<>> && quantising_policy<fp8<current_scaling>> && !quantising_policy<mixed_bf16>);
static_assert(quantising_policy<with_moments<fp8<>, bf16>> && amax_steps<fp8<>> == 16 && amax_steps<mixed_bf16> == 0);

}  // namespace moefold
