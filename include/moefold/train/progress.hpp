#pragma once
// A run as people read it: the live line of a step, the memory that was taken, and the closing sentence that says whether the model has learnt
// anything.
//
//   step  120/200 | loss 2.4121 | gnorm 0.87 | lr 2.9e-04 | 9.2k tok/s | moe 1.18x aux 0.041 drop 3.1% | comm 7% cpu | eta 0m21s
#include <moefold/core/memory_ledger.hpp>
#include <moefold/core/text_table.hpp>
#include <moefold/train/metrics.hpp>

namespace moefold {

/// The live line of one step; eta in seconds. moe: the fullest expert over the even share, balance losses and dropped pairs where there are any.
/// An evaluated step also shows its held-out loss.
inline std::string progress_line(const step_record& r, std::int64_t total_steps, double eta) {
  const int width = std::max(4, int(std::to_string(total_steps).size()));
  std::string text =
      detail::printed("step %*lld/%lld | loss %.4f", width, static_cast<long long>(r.step), static_cast<long long>(total_steps), r.loss);
  if (r.eval_loss) text += detail::printed(" | held-out %.4f", *r.eval_loss);
  text += detail::printed(" | gnorm %.2f | lr %.1e", r.grad_norm, r.learning_rate);
  text += " | " + count_text(r.tokens_per_second) + " tok/s";
  text += detail::printed(" | moe %.2fx", r.moe_max_over_mean);
  if (r.balance) text += detail::printed(" aux %.2g", *r.balance);
  if (r.dropped) text += detail::printed(" drop %.1f%%", 100 * *r.dropped);
  text += detail::printed(" | comm %.0f%% cpu", 100 * r.comm_cpu_share);
  return text + " | eta " + duration_text(eta);
}

/// Remembers how long recent steps took and tells how long the rest will.
class progress {
 public:
  explicit progress(std::int64_t total_steps) : total_(total_steps) {}

  /// The line of a step that has just ended, its seconds included.
  std::string line(const step_record& r) {
    pace_ = steps_ == 0 ? r.seconds : pace_ + (r.seconds - pace_) * (steps_ == 1 ? 1.0 : 0.1);  // the first step warms up: forgotten
    ++steps_;
    return progress_line(r, total_, pace_ * double(total_ - r.step));
  }

 private:
  std::int64_t total_;
  std::int64_t steps_ = 0;
  double pace_ = 0;  // seconds per step, recent ones weigh most
};

/// Compares the loss with the entropy of the byte frequencies, both in nats per token: below it, the model uses context.
inline std::string closing_sentence(double loss, double order0_entropy) {
  const std::string numbers = detail::printed("training loss %.4f nats per token, order-0 entropy of the text %.4f", loss, order0_entropy);
  if (!std::isfinite(loss)) return numbers + ": the run has diverged; lower the learning rate";
  if (std::isnan(order0_entropy)) return detail::printed("training loss %.4f nats per token", loss);
  if (loss < order0_entropy) return numbers + detail::printed(": %.4f below it, the model has learnt from context", order0_entropy - loss);
  return numbers + detail::printed(": %.4f above it, the model does not use context yet; train for more steps", loss - order0_entropy);
}

/// What a rank holds and held at most, by category; those that never held anything are left out.
///
///   memory           now      peak
///   parameters  32.6 MiB  32.6 MiB
///   ------------------------------
///   total       36.7 MiB  44.9 MiB      the most at once: less than the sum where peaks did not coincide
inline text_table table_of(const memory_report& report) {
  text_table table({"memory", "now", "peak"});
  const auto row = [&](const char* name, const memory_use& use) {
    table.row({name, bytes_text(std::int64_t(use.now)), bytes_text(std::int64_t(use.peak))});
  };
  for (std::size_t i = 0; i < memory_categories; ++i)
    if (report.category[i].peak > 0) row(name_of(memory_category(i)), report.category[i]);
  table.rule();
  row("total", report.total);
  return table;
}

}  // namespace moefold
