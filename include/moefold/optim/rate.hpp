#pragma once
// Learning rates as functions of the step: linear warm-up, then what their name says. A rate is any callable from a step to a number;
// rate_plan is the one whose shape is chosen when the program runs.
//
//   peak      /^^--.                      warm-up        peak / warmup at step 0, peak at step warmup - 1
//            /      `-.                   cosine, linear from peak at step warmup to floor at step total, then floor
//   floor   /          `--._________      stable_decay   peak, and from step total - decay a fall to floor at total (warm-up, stable, decay)
//          0  warmup        total         inverse_sqrt   peak * sqrt(warmup / step), not below floor        constant   peak
//
//   its tail, done = 0..1     linear 1 - done     cosine (1 + cos(pi done)) / 2     one_minus_sqrt 1 - sqrt(done): falls fastest first
#include <moefold/core/error.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace moefold {

namespace detail {

/// How far the fall has come at `step`: 0 at warmup, 1 at total and after.
constexpr double fallen(std::int64_t step, std::int64_t warmup, std::int64_t total) {
  return step >= total ? 1.0 : double(step - warmup) / double(total - warmup);
}
/// The number of a name in a list of names. Throws config_error, which lists them, if there is none like it.
template <std::size_t N>
std::size_t index_of(const char* const (&names)[N], const char* what, std::string_view name) {
  std::string all;
  for (std::size_t i = 0; i < N; ++i) {
    if (name == names[i]) return i;
    all += (i == 0 ? "" : ", ") + std::string(names[i]);
  }
  throw config_error(sentence("moefold: there is no ", what, " '", name, "'; choose one of ", all));
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

/// How the last fall of stable_decay goes.
enum class rate_tail : std::uint8_t { linear, cosine, one_minus_sqrt };
inline constexpr const char* rate_tail_names[] = {"linear", "cosine", "one_minus_sqrt"};
constexpr const char* name_of(rate_tail tail) { return rate_tail_names[std::size_t(tail)]; }

/// Throws config_error, which lists the names, if there is none like it.
inline rate_tail rate_tail_of(std::string_view name) { return rate_tail(detail::index_of(rate_tail_names, "learning-rate tail", name)); }

/// Peak until the last `decay` steps: training can be prolonged from any point before them. Hu et al. 2024, arXiv 2404.06395;
/// the tail one_minus_sqrt: Hägele et al. 2024, arXiv 2405.18392.
struct stable_decay_rate {
  double peak = 1e-3;
  double floor = 1e-4;
  std::int64_t warmup = 20;  // steps
  std::int64_t total = 200;  // steps
  std::int64_t decay = 40;   // steps, the last ones
  rate_tail tail = rate_tail::linear;

  double operator()(std::int64_t step) const {
    if (step < warmup) return detail::warming(step, warmup, peak);
    const std::int64_t begin = total - decay > warmup ? total - decay : warmup;
    if (step < begin) return peak;
    const double done = detail::fallen(step, begin, total);
    if (tail == rate_tail::cosine) return floor + (peak - floor) * 0.5 * (1.0 + std::cos(3.141592653589793 * done));
    const double fall = tail == rate_tail::one_minus_sqrt ? std::sqrt(done) : done;
    return peak * (1.0 - fall) + floor * fall;
  }
};

/// Falls with the square root of the step and has no end. Vaswani et al. 2017, arXiv 1706.03762.
struct inverse_sqrt_rate {
  double peak = 1e-3;
  double floor = 0;
  std::int64_t warmup = 20;  // steps
  std::int64_t total = 200;  // steps; only checked

  double operator()(std::int64_t step) const {
    if (step < warmup) return detail::warming(step, warmup, peak);
    const double from = double(warmup > 0 ? warmup : 1);
    const double rate = peak * std::sqrt(from / (from + double(step - warmup)));
    return rate > floor ? rate : floor;
  }
};

struct constant_rate {
  double peak = 1e-3;
  double floor = 0;          // has no meaning here
  std::int64_t warmup = 20;  // steps
  std::int64_t total = 200;  // steps; only checked

  constexpr double operator()(std::int64_t step) const { return step < warmup ? detail::warming(step, warmup, peak) : peak; }
};

enum class rate_shape : std::uint8_t { cosine, linear, stable_decay, inverse_sqrt, constant };
inline constexpr const char* rate_names[] = {"cosine", "linear", "stable_decay", "inverse_sqrt", "constant"};
constexpr const char* name_of(rate_shape shape) { return rate_names[std::size_t(shape)]; }

/// Throws config_error, which lists the names, if there is none like it.
inline rate_shape rate_shape_of(std::string_view name) { return rate_shape(detail::index_of(rate_names, "learning-rate schedule", name)); }

/// A rate whose shape is a value.
struct rate_plan {
  rate_shape shape = rate_shape::cosine;
  double peak = 1e-3;
  double floor = 1e-4;
  std::int64_t warmup = 20;            // steps
  std::int64_t total = 200;            // steps
  std::int64_t decay = 40;             // steps; of stable_decay
  rate_tail tail = rate_tail::linear;  // of stable_decay

  double operator()(std::int64_t step) const {
    switch (shape) {
      case rate_shape::cosine: return cosine_rate{peak, floor, warmup, total}(step);
      case rate_shape::linear: return linear_rate{peak, floor, warmup, total}(step);
      case rate_shape::stable_decay: return stable_decay_rate{peak, floor, warmup, total, decay, tail}(step);
      case rate_shape::inverse_sqrt: return inverse_sqrt_rate{peak, floor, warmup, total}(step);
      case rate_shape::constant: return constant_rate{peak, floor, warmup, total}(step);
    }
    return peak;
  }
  constexpr bool operator==(const rate_plan&) const = default;
};

/// "cosine, 20 steps of warm-up to 0.001, 0.0001 at step 200"
inline std::string describe(const rate_plan& r) {
  const std::string rise = sentence(name_of(r.shape), ", ", r.warmup, " steps of warm-up to ", r.peak);
  switch (r.shape) {
    case rate_shape::constant: return rise;
    case rate_shape::inverse_sqrt: return r.floor > 0 ? sentence(rise, ", not below ", r.floor) : rise;
    case rate_shape::stable_decay:
      return sentence(rise, ", then to ", r.floor, " over the last ", r.decay, " of ", r.total, r.tail == rate_tail::linear ? "" : ", ",
                      r.tail == rate_tail::linear ? "" : name_of(r.tail));
    default: return sentence(rise, ", ", r.floor, " at step ", r.total);
  }
}

/// Throws config_error if the numbers contradict each other. NaN is refused too.
template <class Rate>
constexpr void check_rate(const Rate& rate) {
  require<config_error>(rate.peak > 0 && rate.peak < 1e300 && rate.floor >= 0 && rate.floor <= rate.peak,
                        "moefold: a learning rate rises to its peak and falls to its floor, 0 <= floor <= peak and peak > 0 (given floor ",
                        rate.floor, ", peak ", rate.peak, ")");
  require<config_error>(rate.warmup >= 0 && rate.total >= rate.warmup, "moefold: warm-up must end before the run does (given warmup ",
                        rate.warmup, " steps of ", rate.total, "); shorten warmup or train longer");
}

constexpr void check_rate(const stable_decay_rate& rate) {
  check_rate<stable_decay_rate>(rate);
  require<config_error>(rate.decay >= 0 && rate.warmup <= rate.total - rate.decay,
                        "moefold: warm-up and decay fit into the run (given warmup ", rate.warmup, ", decay ", rate.decay, " of ",
                        rate.total, " steps); shorten one of them or train longer");
}
constexpr void check_rate(const rate_plan& rate) {
  check_rate<rate_plan>(rate);
  if (rate.shape == rate_shape::stable_decay) check_rate(stable_decay_rate{rate.peak, rate.floor, rate.warmup, rate.total, rate.decay});
}
constexpr void check(const rate_plan& rate) { check_rate(rate); }

}  // namespace moefold
