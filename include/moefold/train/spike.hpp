#pragma once
// Notices when the loss jumps: compares each step with the median of the steps before it, in units of their usual deviation, and reports a jump once.
// Plain numbers without time or chance: ranks that see the same losses report the same.
//
//   loss  ''..                 |<- window ->|        reported where  loss > median + max(deviations * usual deviation, rise * |median|)
//             ''..       *                           usual deviation = 1.4826 * median of |loss - median|
//                 ''''..' ''''....                   while the jump lasts nothing is reported and nothing remembered; if it stays, it is the new usual
// Source: Hampel 1974, "The influence curve" (median and its absolute deviation as robust estimates).
#include <moefold/core/error.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>

namespace moefold {

struct spike_rule {
  double deviations = 8;  // at least this many usual deviations above the median
  double rise = 0.1;      // and at least this share of the median
  int least = 8;          // losses that must be known first
};

struct loss_spike {
  std::int64_t step = 0;    // counted from 0
  double loss = 0;          // nats; infinite or NaN is a spike too
  double expected = 0;      // the median before it
  double deviations = 0;    // (loss - expected) / usual deviation; infinite where there was none
  std::int64_t lasted = 0;  // 0: it begins here; else it is over, after so many steps
};

class spike_watch {
 public:
  static constexpr int window = 32;  // losses

  explicit spike_watch(spike_rule rule = {}) : rule_(rule) {
    require<config_error>(rule.deviations > 0 && rule.rise >= 0 && rule.least >= 2 && rule.least <= window,
                          "moefold: a spike rule needs deviations above 0, a rise of 0 or more and 2 to ", window, " losses first (given ",
                          rule.deviations, ", ", rule.rise, " and ", rule.least, ")");
  }

  /// The loss of a step: a spike that begins (lasted 0), one that ends (lasted > 0), or nothing.
  std::optional<loss_spike> add(std::int64_t step, double loss) {
    const int n = std::min(seen_, window);
    if (n < rule_.least) {
      if (std::isfinite(loss)) remember(loss);
      return std::nullopt;
    }
    const double expected = median(n), usual = 1.4826 * median(n, expected);
    const bool high = !(loss <= expected + std::max(rule_.deviations * usual, rule_.rise * std::abs(expected)));
    const loss_spike now{step, loss, expected, usual > 0 ? (loss - expected) / usual : HUGE_VAL, lasting_};
    if (high) {
      if (++lasting_ == 1) return now;
      if (lasting_ <= window || !std::isfinite(loss)) return std::nullopt;
      seen_ = 0;  // it stays: what was usual is forgotten
    }
    const bool over = lasting_ > 0;
    lasting_ = 0;
    if (std::isfinite(loss)) remember(loss);
    return over ? std::optional(now) : std::nullopt;
  }

 private:
  void remember(double loss) { losses_[std::size_t(seen_++ % window)] = loss; }
  /// The median of |loss - from| over the last n losses; of the losses themselves without `from`.
  double median(int n, std::optional<double> from = {}) const {
    std::array<double, window> sorted = losses_;
    for (double& x : sorted) x = from ? std::abs(x - *from) : x;
    std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.begin() + n);
    return sorted[std::size_t(n / 2)];
  }

  spike_rule rule_;
  std::array<double, window> losses_{};
  int seen_ = 0;
  std::int64_t lasting_ = 0;
};

/// "loss spike at step 120: 4.8132, expected 2.4310 (21 usual deviations above); ..."
inline std::string describe(const loss_spike& s) {
  char text[320];
  if (s.lasted > 0)
    std::snprintf(text, sizeof text, "loss spike over at step %lld, after %lld %s: %.4f, expected %.4f", static_cast<long long>(s.step + 1),
                  static_cast<long long>(s.lasted), s.lasted == 1 ? "step" : "steps", s.loss, s.expected);
  else
    std::snprintf(
        text, sizeof text,
        "loss spike at step %lld: %.4f, expected %.4f (%.0f usual deviations above); if it stays, go back to a state before it with a "
        "lower learning rate, or leave its data out",
        static_cast<long long>(s.step + 1), s.loss, s.expected, s.deviations);
  return text;
}

}  // namespace moefold
