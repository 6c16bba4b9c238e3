#pragma once
// A sample of runs in which every two choices meet: from factors with named levels, rows such that each legal pair of levels of two factors stands in at
// least one row. Greedy and deterministic: the same factors and seed give the same rows. A rotating part of the sample fits into a short budget.
#include <moefold/core/error.hpp>
#include <moefold/core/rng.hpp>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

namespace moefold::testing {

struct factor {
  std::string name;
  std::vector<std::string> levels;
};
using row = std::vector<int>;  // a level of every factor

/// Every legal row of the whole product.
template <class Legal>
std::vector<row> all_rows(const std::vector<factor>& factors, Legal&& legal) {
  std::vector<row> rows;
  row now(factors.size(), 0);
  for (;;) {
    if (legal(now)) rows.push_back(now);
    std::size_t f = 0;
    while (f < now.size() && ++now[f] == int(factors[f].levels.size())) now[f++] = 0;
    if (f == now.size()) return rows;
  }
}

/// Rows that cover every pair of levels that stands in any legal row; further rows, chosen by the seed, until there are `least` or no others.
/// Rows that are preferred are taken first, as far as they go: the others stand in the sample only for pairs that no preferred row holds.
template <class Legal, class Preferred>
std::vector<row> pairwise(const std::vector<factor>& factors, Legal&& legal, std::size_t least, std::uint64_t seed, Preferred&& preferred) {
  std::vector<row> all = all_rows(factors, legal);
  require(!all.empty(), "moefold: no row of the factors is legal");
  std::vector<std::size_t> base;
  std::size_t levels = 0;
  for (const factor& f : factors) base.push_back(levels), levels += f.levels.size();
  std::vector<char> open(levels * levels, 0);
  const auto pairs_of = [&](const row& r, auto&& f) {
    for (std::size_t a = 0; a < r.size(); ++a)
      for (std::size_t b = a + 1; b < r.size(); ++b) f(open[(base[a] + std::size_t(r[a])) * levels + base[b] + std::size_t(r[b])]);
  };
  std::size_t left = 0;
  for (const row& r : all)
    pairs_of(r, [&](char& pair) {
      left += pair == 0;
      pair = 1;
    });
  std::size_t pool = std::size_t(std::stable_partition(all.begin(), all.end(), preferred) - all.begin());  // candidates: all[0..pool)
  if (pool == 0) pool = all.size();
  std::vector<char> taken(all.size(), 0);
  std::vector<row> sample;
  const random_stream draw(seed, "pairwise");
  while ((left > 0 || sample.size() < least) && sample.size() < all.size()) {
    const std::size_t from = std::size_t(draw.bits(sample.size()) % pool);
    std::size_t best = pool, most = 0;
    for (std::size_t i = 0; i < pool && (left > 0 || best == pool); ++i) {  // ties go to the first from a place drawn by the seed
      const std::size_t at = (from + i) % pool;
      if (taken[at]) continue;
      std::size_t gain = 0;
      pairs_of(all[at], [&](char& pair) { gain += std::size_t(pair); });
      if (gain > most || (left == 0 && best == pool)) most = gain, best = at;
    }
    if (best == pool) {
      pool = all.size();  // preferred rows have no more to give
      continue;
    }
    left -= most;
    taken[best] = 1;
    pairs_of(all[best], [](char& pair) { pair = 0; });
    sample.push_back(all[best]);
  }
  return sample;
}
template <class Legal>
std::vector<row> pairwise(const std::vector<factor>& factors, Legal&& legal, std::size_t least = 0, std::uint64_t seed = 1) {
  return pairwise(factors, legal, least, seed, [](const row&) { return true; });
}

/// "folding=tp alone, context=cp_ring, ..."
inline std::string describe(const std::vector<factor>& factors, const row& r) {
  std::string text;
  for (std::size_t f = 0; f < r.size(); ++f) text += (f ? ", " : "") + factors[f].name + "=" + factors[f].levels[std::size_t(r[f])];
  return text;
}

/// The sample as a table, a row a line; `*` stands before the rows whose indices are marked.
inline std::string table(const std::vector<factor>& factors, const std::vector<row>& rows, const std::vector<std::size_t>& marked = {}) {
  std::vector<std::size_t> width;
  for (const factor& f : factors) {
    width.push_back(f.name.size());
    for (const std::string& level : f.levels) width.back() = std::max(width.back(), level.size());
  }
  const std::size_t digits = std::to_string(rows.size()).size();
  const auto line = [&](const std::string& number, bool mark, auto&& cell) {
    std::string text = (mark ? "* " : "  ") + std::string(digits - number.size(), ' ') + number;
    for (std::size_t f = 0; f < factors.size(); ++f) {
      const std::string& word = cell(f);
      text += "  " + word + std::string(width[f] - word.size(), ' ');
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + '\n';
  };
  std::string text = line("", false, [&](std::size_t f) -> const std::string& { return factors[f].name; });
  for (std::size_t r = 0; r < rows.size(); ++r)
    text += line(std::to_string(r), std::find(marked.begin(), marked.end(), r) != marked.end(),
                 [&](std::size_t f) -> const std::string& { return factors[f].levels[std::size_t(rows[r][f])]; });
  return text;
}

/// Which turn it is: MOEFOLD_ROTATION (a number: of a commit, of a CI run) where it is set, else the day.
inline std::size_t rotation() {
  if (const char* text = std::getenv("MOEFOLD_ROTATION"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const unsigned long long turn = std::strtoull(text, &end, 10);
    require<config_error>(*end == '\0' && *text >= '0' && *text <= '9', "moefold: MOEFOLD_ROTATION is a whole number, given '", text,
                          "'; leave it out for the day's turn");
    return std::size_t(turn);
  }
  return std::size_t(std::time(nullptr) / 86400);
}
/// The indices of this turn's `count` of `size` rows: after ceil(size / count) turns every row has had one.
inline std::vector<std::size_t> rotating(std::size_t size, std::size_t count, std::size_t turn) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < std::min(size, count); ++i) chosen.push_back((turn * count + i) % size);
  return chosen;
}

}  // namespace moefold::testing
