#pragma once
// How a tensor is scaled before it is quantised to 8 bits, so that its largest magnitude (amax) comes close to the format's largest number. Scales are
// powers of two: scaling loses no bit, and a product of quantised values is the product of what they stand for, exactly.
//
//   current_scaling       the amax of the tensor itself: one more pass over it
//   delayed_scaling<16>   the largest amax of the last 16 steps: known beforehand; what exceeds it saturates at the format's largest number
// Source: Micikevicius et al. 2022, arXiv 2209.05433; delayed scaling as in Transformer Engine and the paper's FP8 runs (arXiv 2504.14960).
#include <moefold/core/fp8.hpp>

#include <algorithm>
#include <concepts>
#include <span>

namespace moefold {

struct current_scaling {
  static constexpr const char* name = "current scaling";
  static constexpr std::size_t history = 0;  // steps remembered
};
template <std::size_t Steps = 16>
struct delayed_scaling {
  static_assert(Steps > 0, "moefold: delayed scaling remembers at least 1 step; current_scaling remembers none");
  static constexpr const char* name = "delayed scaling";
  static constexpr std::size_t history = Steps;
};
template <class S>
concept scaling_policy = requires {
  { S::name } -> std::convertible_to<const char*>;
  { S::history } -> std::convertible_to<std::size_t>;
};

/// The largest power of two that keeps amax * scale <= largest, between 2^-100 and 2^100; 1 for an amax that says nothing (0, infinite or NaN).
MOEFOLD_HD constexpr float scale_of(float amax, float largest) {
  if (!(amax > 0) || amax > 3e38f) return 1;
  const int exponent = int(std::bit_cast<std::uint32_t>(largest) >> 23) - int(std::bit_cast<std::uint32_t>(amax) >> 23);
  const std::uint32_t fraction = std::bit_cast<std::uint32_t>(amax) & 0x7fffffu, room = std::bit_cast<std::uint32_t>(largest) & 0x7fffffu;
  const int power = exponent - (fraction > room ? 1 : 0);
  return std::bit_cast<float>(std::uint32_t(127 + (power < -100 ? -100 : power > 100 ? 100 : power)) << 23);
}

/// What one tensor of a run remembers of itself. Plain numbers in the caller's memory: recorded during a step, rolled at its end.
///
///   amax     of this step so far; where the tensor is spread over ranks, their maximum once roll() is called
///   past     [history] of the steps before, the last one first; 0: not seen yet
struct amax_history {
  float* amax = nullptr;
  std::span<float> past{};

  void record(float seen) const { *amax = std::max(*amax, seen); }
  /// What the next quantisation is scaled by; before the first step nothing is known: 0.
  float known() const {
    float most = 0;
    for (const float a : past) most = std::max(most, a);
    return most;
  }
  /// The step is over.
  void roll() const {
    if (past.empty()) return;
    std::copy_backward(past.begin(), past.end() - 1, past.end());
    past.front() = *amax;
    *amax = 0;
  }
};

}  // namespace moefold
