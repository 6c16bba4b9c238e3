#pragma once
// Numbers as people read them: the live line of a step, bytes and counts with their unit, a small text table, and the closing sentence
// that says whether the model has learnt anything.
//
//   step  120/200 | loss 2.4121 | gnorm 0.87 | lr 2.9e-04 | 9.2k tok/s | moe 1.18x aux 0.041 drop 3.1% | comm 7% cpu | eta 0m21s
#include <moefold/core/memory_ledger.hpp>
#include <moefold/train/metrics.hpp>

#include <algorithm>
#include <array>

namespace moefold {

namespace detail {

template <class... Numbers>
std::string printed(const char* format, Numbers... numbers) {
  std::array<char, 96> text;
  const int n = std::snprintf(text.data(), text.size(), format, numbers...);
  return {text.data(), std::min(std::size_t(std::max(n, 0)), text.size() - 1)};
}

/// `value` in the largest unit that leaves at least 1 before the point once rounded; one decimal below 100.
template <std::size_t N>
std::string scaled(double value, double base, const std::array<const char*, N>& units) {
  if (!std::isfinite(value)) return "-";
  std::size_t unit = 0;
  while (unit + 1 < N && std::abs(value) >= base - 0.5) value /= base, ++unit;
  return printed(unit > 0 && std::abs(value) < 99.95 ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

}  // namespace detail

/// "812", "9.2k", "2.0M", "1.5G"
inline std::string count_text(double count) { return detail::scaled<5>(count, 1000, {"", "k", "M", "G", "T"}); }

/// "96 B", "1.5 KiB", "31.1 MiB", "2.0 GiB"
inline std::string bytes_text(std::int64_t bytes) { return detail::scaled<5>(double(bytes), 1024, {" B", " KiB", " MiB", " GiB", " TiB"}); }

/// Every digit, in groups of three: "8,273,408"
inline std::string exact_text(std::int64_t value) {
  std::string text = std::to_string(value);
  const std::size_t first = value < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

/// "0m21s", "12m05s", "3h07m"
inline std::string duration_text(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "-";
  const long s = std::lround(seconds);
  return s < 3600 ? detail::printed("%ldm%02lds", s / 60, s % 60) : detail::printed("%ldh%02ldm", s / 3600, s / 60 % 60);
}

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

/// A table for terminals: the first column is aligned left, numbers right, a rule under the head and above a total.
class text_table {
 public:
  explicit text_table(std::vector<std::string> head) : rows_{std::move(head)}, rules_{1} {}

  text_table& row(std::vector<std::string> cells) {
    require(cells.size() == rows_[0].size(), "moefold: a table row needs ", rows_[0].size(), " cells (given ", cells.size(), ")");
    rows_.push_back(std::move(cells));
    return *this;
  }
  text_table& rule() {
    rules_.push_back(rows_.size());
    return *this;
  }

  std::string text() const {
    std::vector<std::size_t> width(rows_[0].size(), 0);
    for (const auto& row : rows_)
      for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
    std::size_t whole = 2 * (width.size() - 1);
    for (const std::size_t w : width) whole += w;
    std::string out;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      if (std::find(rules_.begin(), rules_.end(), r) != rules_.end()) out += std::string(whole, '-') + '\n';
      std::string line;
      for (std::size_t c = 0; c < width.size(); ++c) {
        const std::string& cell = rows_[r][c];
        const std::string gap(width[c] - cell.size(), ' ');
        line += (c > 0 ? "  " : "") + (c == 0 ? cell + gap : gap + cell);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + '\n';
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> rules_;  // before these rows
};

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
