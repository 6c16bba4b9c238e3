#pragma once
// Learning rates as functions of the step: linear warm-up, then a fall to a floor. A rate is any callable from a step to a number.
//
//   peak      /^^--.                      warm-up   peak / warmup at step 0, peak at step warmup - 1
//            /      `-.                   fall      from peak at step warmup to floor at step total (cosine or straight)
//   floor   /          `--._________      after     floor
//          0  warmup        total
#include <moefold/core/error.hpp>

#include <cmath>
#include <cstdint>

namespace moefold {

namespace detail {

/// How far the fall has come at `step`: 0 at warmup, 1 at total and after.
constexpr double fallen(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  return step >= total ? 1.0 : double(step - warmup) / double(total - warmup);
}
constexpr double warming(std::int64_t step, std::int64_t warmup, double peak) { return peak * (double(step + 1) / double(warmup)); }

}  // namespace detail

struct cosine_rate {
  double peak = 1e-3;
  double floor = 1e-4;
  std::int64_t warmup = 20;  // steps
  std::int64_t total = 200;  // steps

  double operator()(std::int64_t step) const {
    if (step < warmup) return detail::warming(step, warmup, peak);
    const double turned = 3.141592653589793 * detail::fallen(step, warmup, total);
    return floor + (peak - floor) * 0.5 * (1.0 + std::cos(turned));
  }
};

struct linear_rate {
  double peak = 1e-3;
  double floor = 1e-4;
  std::int64_t warmup = 20;  // steps
  std::int64_t total = 200;  // steps

  constexpr double operator()(std::int64_t step) const {
    if (step < warmup) return detail::warming(step, warmup, peak);
    const double done = detail::fallen(step, warmup, total);
    return peak * (1.0 - done) + floor * done;
  }
};

/// Throws config_error if the numbers contradict each other. NaN is refused too.
template <class Rate>
constexpr void check_rate(const Rate& rate) {
  require<config_error>(rate.peak > 0 && rate.peak < 1e300 && rate.floor >= 0 && rate.floor <= rate.peak,
                        "moefold: a learning rate rises to its peak and falls to its floor, 0 <= floor <= peak and peak > 0 (given floor ",
                        rate.floor, ", peak ", rate.peak, ")");
  require<config_error>(rate.warmup >= 0 && rate.total >= rate.warmup, "moefold: warm-up must end before the run does (given warmup ",
                        rate.warmup, " steps of ", rate.total, "); shorten warmup or train longer");
}

}  // namespace moefold
