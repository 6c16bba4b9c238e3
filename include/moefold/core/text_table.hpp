#pragma once
// Numbers as people read them, bytes and counts with their unit, and a small table of them for terminals.
//
//   count_text(9213)  "9.2k"      bytes_text(1536)  "1.5 KiB"      gigabytes_text(74.9e9)  "74.9 GB"      exact_text(8192)  "8,192"
#include <moefold/core/error.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace moefold {

namespace detail {

template <class... Numbers>
std::string printed(const char* format, Numbers... numbers) {
  std::array<char, 192> text;
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

/// The same in the decimal units of data sheets, of memory and of links: "96 B", "25.2 MB", "80.0 GB".
inline std::string gigabytes_text(double bytes) { return detail::scaled<5>(bytes, 1000, {" B", " kB", " MB", " GB", " TB"}); }

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

}  // namespace moefold
