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
#include <cstdint>
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
  double deviations = 0;    // (loss - expected) / usual deviation; not finite where the loss is not, or nothing deviated before
  std::int64_t lasted = 0;  // 0: it begins here; else it is over, after so many steps
  bool stays = false;       // over because the loss stayed high: what was a spike is the usual loss from here on
};

/// What a watch remembers: plain numbers, for checkpoints.
struct spike_memory {
  static constexpr int window = 32;        // losses
  std::array<double, window> losses = {};  // a ring: loss number i stands at i % window
  std::int64_t seen = 0;                   // losses remembered so far
  std::int64_t lasting = 0;                // steps that the spike has lasted
  friend constexpr bool operator==(const spike_memory&, const spike_memory&) = default;
};

class spike_watch {
 public:
  static constexpr int window = spike_memory::window;

  explicit spike_watch(spike_rule rule = {}, const spike_memory& memory = {}) : rule_(rule), memory_(memory) {
    require<config_error>(rule.deviations > 0 && rule.rise >= 0 && rule.least >= 2 && rule.least <= window,
                          "moefold: a spike rule needs deviations above 0, a rise of 0 or more and 2 to ", window, " losses first (given ",
                          rule.deviations, ", ", rule.rise, " and ", rule.least, ")");
    const auto remembered = memory.losses.begin() + std::min<std::int64_t>(std::max<std::int64_t>(memory.seen, 0), window);
    require(memory.seen >= 0 && memory.lasting >= 0 &&
                std::all_of(memory.losses.begin(), remembered, [](double x) { return std::isfinite(x); }),
            "moefold: a spike memory holds finite losses and counts of 0 or more (given ", memory.seen, " losses, ", memory.lasting,
            " steps of a spike); begin with an empty one");
  }

  /// The loss of a step: a spike that begins (lasted 0), one that ends (lasted > 0), or nothing.
  std::optional<loss_spike> add(std::int64_t step, double loss) {
    const int n = int(std::min<std::int64_t>(memory_.seen, window));
    if (n < rule_.least) {
      if (std::isfinite(loss)) remember(loss);
      return std::nullopt;
    }
    const double expected = median(n), usual = 1.4826 * median(n, expected);
    const bool high = !std::isfinite(loss) || !(loss <= expected + std::max(rule_.deviations * usual, rule_.rise * std::abs(expected)));
    loss_spike now{step, loss, expected, usual > 0 ? (loss - expected) / usual : HUGE_VAL, memory_.lasting};
    if (high) {
      if (++memory_.lasting == 1) return now;
      if (memory_.lasting <= window || !std::isfinite(loss)) return std::nullopt;
      memory_.seen = 0;  // it stays: what was usual is forgotten
    }
    const bool over = memory_.lasting > 0;
    now.stays = high;
    memory_.lasting = 0;
    if (std::isfinite(loss)) remember(loss);
    return over ? std::optional(now) : std::nullopt;
  }
  /// All that a watch made from it later needs to go on as this one would.
  const spike_memory& memory() const { return memory_; }

 private:
  void remember(double loss) { memory_.losses[std::size_t(memory_.seen++ % window)] = loss; }
  /// The median of |loss - from| over the last n losses; of the losses themselves without `from`.
  double median(int n, std::optional<double> from = {}) const {
    std::array<double, window> sorted = memory_.losses;
    for (double& x : sorted) x = from ? std::abs(x - *from) : x;
    std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.begin() + n);
    return sorted[std::size_t(n / 2)];
  }

  spike_rule rule_;
  spike_memory memory_;
};

/// "loss spike at step 120: 4.8132, expected 2.4310 (21 usual deviations above); ..."
inline std::string describe(const loss_spike& s) {
  char text[320], above[64] = "";
  if (std::isfinite(s.deviations)) std::snprintf(above, sizeof above, " (%.0f usual deviations above)", std::min(s.deviations, 1e9));
  if (s.stays)
    std::snprintf(
        text, sizeof text,
        "the loss has not come back from its spike: step %lld, %.4f for %lld steps, expected %.4f; it is taken as usual from here on",
        static_cast<long long>(s.step + 1), s.loss, static_cast<long long>(s.lasted), s.expected);
  else if (s.lasted > 0)
    std::snprintf(text, sizeof text, "loss spike over at step %lld, after %lld %s: %.4f, expected %.4f", static_cast<long long>(s.step + 1),
                  static_cast<long long>(s.lasted), s.lasted == 1 ? "step" : "steps", s.loss, s.expected);
  else
    std::snprintf(
        text, sizeof text,
        "loss spike at step %lld: %.4f, expected %.4f%s; if it stays, go back to a state before it with a lower learning rate, or "
        "leave its data out",
        static_cast<long long>(s.step + 1), s.loss, s.expected, above);
  return text;
}

}  // namespace moefold
