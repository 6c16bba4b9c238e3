#pragma once
// A plan in the words of a command line and of files, both ways: strategies, what is recomputed, numbers that are fixed. Names that nobody knows are errors
// that list those there are and the nearest one.
//
//   "tp=2, pp=8, recompute=norms+activation"   <->   plan_mapping{.tp = 2, .pp = 8, .recompute = selective<norms, activation>}, 0 where nothing is said
#include <moefold/plan/mapping.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <utility>
#include <vector>

namespace moefold {

/// Every number of a mapping by its name, in the order in which they are shown.
inline constexpr std::array<std::pair<const char*, extent_t plan_mapping::*>, 9> mapping_numbers = {
    {{"tp", &plan_mapping::tp},
     {"cp", &plan_mapping::cp},
     {"dp", &plan_mapping::dp},
     {"pp", &plan_mapping::pp},
     {"etp", &plan_mapping::etp},
     {"ep", &plan_mapping::ep},
     {"edp", &plan_mapping::edp},
     {"vpp", &plan_mapping::vpp},
     {"micro_batch", &plan_mapping::micro_batch}}};
/// A mapping of which nothing is said.
inline constexpr plan_mapping open_mapping{0, 0, 0, 0, 0, 0, 0, 0, 0, {}};

namespace detail {

/// Letters to be typed otherwise, left out or put in to make one word of the other.
inline std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t corner = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, corner + (a[i - 1] == b[j - 1] ? 0 : 1)});
      corner = above;
    }
  }
  return row[b.size()];
}

/// `text` cut at every `mark`, blanks around the pieces left out.
inline std::vector<std::string_view> pieces_of(std::string_view text, char mark) {
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(mark, at), text.size());
    std::string_view piece = text.substr(at, end - at);
    while (!piece.empty() && piece.front() == ' ') piece.remove_prefix(1);
    while (!piece.empty() && piece.back() == ' ') piece.remove_suffix(1);
    pieces.push_back(piece);
    at = end + 1;
  }
  return pieces;
}

}  // namespace detail

/// The index of `word` in `names`. Throws config_error that lists all names of this kind of thing and the one that is nearest.
inline std::size_t index_of_name(std::string_view word, const char* kind, std::span<const std::string_view> names) {
  const auto found = std::find(names.begin(), names.end(), word);
  if (found != names.end()) return std::size_t(found - names.begin());
  std::string all;
  for (const std::string_view name : names) all += (all.empty() ? "" : ", ") + std::string(name);
  const std::string_view nearest = *std::min_element(names.begin(), names.end(), [&](std::string_view a, std::string_view b) {
    return detail::distance(word, a) < detail::distance(word, b);
  });
  throw config_error(sentence("moefold: there is no ", kind, " '", word, "'; did you mean '", nearest, "'? There are: ", all));
}

inline plan_strategy strategy_of(std::string_view word) {
  std::array<std::string_view, plan_strategies> names;
  for (int i = 0; i < plan_strategies; ++i) names[std::size_t(i)] = name_of(plan_strategy(i));
  return plan_strategy(index_of_name(word, "strategy", names));
}

/// "none", "full", or parts: "norms+activation"
inline std::string recompute_word(const recompute_rule& rule) {
  if (rule.full) return "full";
  std::string word;
  for (std::size_t i = 0; i < recompute_parts; ++i)
    if (rule.has(recompute_part(i))) word += (word.empty() ? "" : "+") + std::string(name_of(recompute_part(i)));
  return word.empty() ? "none" : word;
}
/// The reverse. Throws config_error.
inline recompute_rule recompute_of(std::string_view word) {
  std::array<std::string_view, recompute_parts + 2> names{"none", "full"};
  for (std::size_t i = 0; i < recompute_parts; ++i) names[i + 2] = name_of(recompute_part(i));
  recompute_rule rule;
  const std::vector<std::string_view> parts = detail::pieces_of(word, '+');
  for (const std::string_view part : parts) {
    const std::size_t i = index_of_name(part, "part to recompute", names);
    require<config_error>(i >= 2 || parts.size() == 1, "moefold: recompute is none, full, or parts joined by + (given '", word, "')");
    if (i == 1) rule.full = true;
    if (i >= 2) rule.parts = std::uint8_t(rule.parts | 1u << (i - 2));
  }
  return rule;
}

/// What a user has fixed: 0 where nothing is said.
struct fixed_numbers {
  plan_mapping mapping = open_mapping;
  bool recompute = false;  // whether it is
};

/// Reads "tp=2,pp=8,recompute=full". Throws config_error that names what is not understood.
inline fixed_numbers parse_fixed(std::string_view text) {
  fixed_numbers fixed;
  std::array<std::string_view, mapping_numbers.size() + 1> names;
  for (std::size_t i = 0; i < mapping_numbers.size(); ++i) names[i] = mapping_numbers[i].first;
  names.back() = "recompute";
  std::array<bool, names.size()> seen{};
  for (const std::string_view piece : detail::pieces_of(text, ',')) {
    const std::size_t equals = piece.find('=');
    require<config_error>(equals != std::string_view::npos, "moefold: --fix takes pairs like tp=2,pp=8 (given '", piece, "')");
    const std::string_view word = piece.substr(equals + 1);
    const std::size_t i = index_of_name(piece.substr(0, equals), "number to fix", names);
    require<config_error>(!std::exchange(seen[i], true), "moefold: --fix names ", names[i], " twice");
    if (i + 1 == names.size()) {
      fixed.mapping.recompute = recompute_of(word), fixed.recompute = true;
      continue;
    }
    extent_t& number = fixed.mapping.*mapping_numbers[i].second;
    const auto [end, wrong] = std::from_chars(word.data(), word.data() + word.size(), number);
    require<config_error>(wrong == std::errc{} && end == word.data() + word.size() && number >= 1 && number <= extents::max_ranks,
                          "moefold: --fix ", names[i], " needs a whole number, 1 or more (given '", word, "')");
  }
  return fixed;
}

/// The same where room is short: "norms+act+attn"
inline std::string short_word(const recompute_rule& rule) {
  std::string word = recompute_word(rule);
  for (const auto& [whole, part] : {std::pair<const char*, const char*>{"activation", "act"}, {"core_attention", "attn"}})
    if (const std::size_t at = word.find(whole); at != std::string::npos) word.replace(at, std::string_view(whole).size(), part);
  return word;
}

/// "tp2 dp8 pp8 | ep8 edp2 | v7 b1 norms": numbers of 1 are left out, and 0 (open) too; the micro-batch always stands.
inline std::string short_text(const plan_mapping& m) {
  const auto put = [](std::string& out, const char* name, extent_t n, extent_t least) {
    if (n >= least) out += sentence(out.empty() ? "" : " ", name, n);
  };
  std::string attention, experts, rest;
  put(attention, "tp", m.tp, 2), put(attention, "cp", m.cp, 2), put(attention, "dp", m.dp, 2), put(attention, "pp", m.pp, 2);
  put(experts, "etp", m.etp, 2), put(experts, "ep", m.ep, 2), put(experts, "edp", m.edp, 2);
  put(rest, "v", m.vpp, 2), put(rest, "b", m.micro_batch, 1);
  if (m.recompute.any()) rest += (rest.empty() ? "" : " ") + short_word(m.recompute);
  const auto or_one = [](const std::string& text) { return text.empty() ? std::string("1") : text; };
  return or_one(attention) + " | " + or_one(experts) + (rest.empty() ? "" : " | " + rest);
}

}  // namespace moefold
