#pragma once
// Several sources mixed by weight: which of them a sample comes from, and how many it gave before, as a pure function of the sample's number.
// A table of slots, repeated for ever, holds each source as often as its weight says and as evenly as can be.
//
//   weights 5 : 3       slots  A B A A B A B A | A B A A ...        sample 10 -> source A, of which 6 came before
#include <moefold/core/error.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace moefold {

/// After any number n of samples a source of share w has given w * n of them, up to n / slots + 1.
class token_blend {
 public:
  static constexpr extent_t slots = 1 << 14;
  static constexpr extent_t most_sources = 1 << 10;

  struct place {
    std::size_t source = 0;
    extent_t before = 0;  // samples of this source with a lower number
  };

  /// One source, from which everything comes.
  token_blend() = default;

  /// Throws config_error unless every weight is positive and finite, and large enough to get a slot.
  ///
  /// Slots are given out by Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): of the sources that are due, the one that
  /// would be late first. No source is then ever more than 1 - 1 / (2 m - 2) away from its share, m sources.
  explicit token_blend(std::span<const double> weights) {
    require<config_error>(!weights.empty() && extent_t(weights.size()) <= most_sources, "moefold: a blend has 1 to ", most_sources,
                          " sources (given ", weights.size(), ")");
    double sum = 0;
    for (const double w : weights) {
      require<config_error>(w > 0 && w < 1e300, "moefold: a weight is a positive finite number (given ", w,
                            "); leave a source out that is not wanted");
      sum += w;
    }
    if (weights.size() == 1) return;
    given_.assign(weights.size(), 0);
    table_.reserve(std::size_t(slots));
    const double slack = 1.0 / double(2 * weights.size() - 2);
    for (extent_t n = 1; n <= slots; ++n) {
      std::size_t next = 0;
      double earliest = 1e308;
      for (std::size_t s = 0; s < weights.size(); ++s) {
        const double share = weights[s] / sum, owed = share * double(n) - double(given_[s]);
        const double late = (1 - slack - owed) / share;  // slots until it is
        if (owed >= slack && late < earliest) earliest = late, next = s;
      }
      table_.push_back({std::uint32_t(next), std::uint32_t(given_[next]++)});
    }
    for (std::size_t s = 0; s < weights.size(); ++s)
      require<config_error>(given_[s] > 0, "moefold: source ", s, " of the blend has the share ", weights[s] / sum,
                            ", too small for one in ", slots, " samples; give it more weight or leave it out");
  }

  std::size_t sources() const { return given_.empty() ? 1 : given_.size(); }

  place operator()(extent_t sample) const {
    if (table_.empty()) return {0, sample};
    const slot& s = table_[std::size_t(sample % slots)];
    return {s.source, sample / slots * given_[s.source] + s.before};
  }
  /// The share of a source among the samples.
  double share(std::size_t source) const { return given_.empty() ? 1 : double(given_[source]) / double(slots); }

 private:
  struct slot {
    std::uint32_t source, before;
  };
  std::vector<slot> table_;      // empty: one source
  std::vector<extent_t> given_;  // slots of each source
};

}  // namespace moefold
