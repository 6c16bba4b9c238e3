#pragma once
// The order of rows that come to a rank's experts by ep and are shared over etp: from the counts of every source to sizes, offsets, and where each row of
// the batch stands in the exchange.
//
//   counts [ETP, EP, experts]   rows that ep peer r sent to etp peer q for each local expert: the exchange holds them in this order
//   batch                       by (expert, ep source, etp source): segment s = (expert * EP + r) * ETP + q
//   row_offsets                 where nothing is exchanged by expert: counts [experts] -> offsets [experts + 1]
//
//   ETP 1, EP 2, 2 experts, counts 2 1 | 1 3       exchange  a a b A B B B        batch  a a A | b B B B       exchange_of_batch 0 1 3 2 4 5 6
#include <moefold/ops/rows.hpp>

#include <numeric>

namespace moefold {

namespace detail {

/// A segment of the batch, and its place among the counts.
struct exchange_segments {
  extent_t etp, ep, experts;

  MOEFOLD_HD constexpr extent_t size() const { return etp * ep * experts; }
  MOEFOLD_HD constexpr extent_t segment(extent_t expert, extent_t r, extent_t q) const { return (expert * ep + r) * etp + q; }
  /// Where the counts have segment s.
  MOEFOLD_HD constexpr extent_t place(extent_t s) const {
    const extent_t q = s % etp, r = s / etp % ep, expert = s / (etp * ep);
    return (q * ep + r) * experts + expert;
  }
};

/// The segment that holds `row`: the last that begins at or before it and is not empty. begin [segments + 1] ascends from 0 to the number of rows.
MOEFOLD_HD constexpr extent_t segment_of(const std::int64_t* begin, extent_t segments, std::int64_t row) {
  extent_t low = 0, high = segments;  // begin[low] <= row < begin[high]
  while (high - low > 1) {
    const extent_t middle = low + (high - low) / 2;
    (begin[middle] <= row ? low : high) = middle;
  }
  return low;
}

inline void require_exchange(const char* op, view<const std::int64_t> counts, extent_t etp_rank) {
  require(counts.rank() == 3, "moefold: ", op, " needs counts [etp, ep, experts], given ", counts.rank(), " extents");
  require(etp_rank >= 0 && etp_rank < counts.extent(0), "moefold: ", op, " has ", counts.extent(0), " etp ranks, given rank ", etp_rank);
}
inline void require_exchange_order(view<const std::int64_t> counts, extent_t etp_rank, view<std::int64_t> offsets, view<std::int64_t> first,
                                   view<std::int32_t> exchange_of_batch) {
  require_exchange("exchange_order", counts, etp_rank);
  require_count("exchange_order", "offsets", offsets.size(), counts.extent(2) + 1);
  require_matrix("exchange_order", "first", first, counts.extent(2), counts.extent(1));
  require(exchange_of_batch.size() <= std::size_t(std::numeric_limits<std::int32_t>::max()),
          "moefold: exchange_order numbers rows in 32 bits, given ", exchange_of_batch.size(), "; use a smaller micro-batch");
}
inline void require_exchange_sizes(view<const std::int64_t> sent, view<const std::int64_t> counts, extent_t etp_rank,
                                   view<std::int64_t> sizes) {
  require_exchange("exchange_sizes", counts, etp_rank);
  require_count("exchange_sizes", "sent", sent.size(), counts.extent(1) * counts.extent(2));
  require_count("exchange_sizes", "sizes", sizes.size(), 2 * counts.extent(1) + counts.extent(0));
}

}  // namespace detail

/// The numbers of rows that the host must know: sizes [EP | EP | ETP], assigned: sent to each ep peer (sent [EP * experts]), received from each, and what
/// each etp peer received.
inline void exchange_sizes(host_exec, view<const std::int64_t> sent, view<const std::int64_t> counts, extent_t etp_rank,
                           view<std::int64_t> sizes) {
  detail::require_exchange_sizes(sent, counts, etp_rank, sizes);
  const extent_t etp = counts.extent(0), ep = counts.extent(1), own = counts.extent(2);
  const auto total = [](const std::int64_t* from, extent_t count) { return std::accumulate(from, from + count, std::int64_t{0}); };
  std::int64_t* size = sizes.data();
  for (extent_t r = 0; r < ep; ++r) *size++ = total(sent.data() + r * own, own);
  for (extent_t r = 0; r < ep; ++r) *size++ = total(counts.data() + (etp_rank * ep + r) * own, own);
  for (extent_t q = 0; q < etp; ++q) *size++ = total(counts.data() + q * ep * own, ep * own);
}

/// Assigned: offsets [experts + 1] of the batch by expert; first [experts, EP], where (expert, ep source) begins in what travels over ep: in the batch, or
/// with ETP > 1 in the rows of this etp rank; exchange_of_batch [rows], where each row of the batch stands in the exchange. rows = the sum of counts.
inline void exchange_order(host_exec e, view<const std::int64_t> counts, extent_t etp_rank, view<std::int64_t> offsets,
                           view<std::int64_t> first, view<std::int32_t> exchange_of_batch) {
  detail::require_exchange_order(counts, etp_rank, offsets, first, exchange_of_batch);
  const extent_t etp = counts.extent(0), ep = counts.extent(1), own = counts.extent(2);
  require_count("exchange_order", "exchange_of_batch", exchange_of_batch.size(),
                std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  scratch<host_exec> local(e);
  // Blocks of exchange rows in the order [etp][ep][expert]: where each begins, left to right.
  const view<std::int64_t> begin = local.take<std::int64_t>(etp, ep, own);
  std::exclusive_scan(counts.begin(), counts.end(), begin.begin(), std::int64_t{0});
  const std::int64_t first_own = etp == 1 ? 0 : *begin.rows(etp_rank, 1).data();
  std::int64_t row = 0;
  for (extent_t expert = 0; expert < own; ++expert) {
    offsets[std::size_t(expert)] = row;
    for (extent_t r = 0; r < ep; ++r)
      for (extent_t q = 0; q < etp; ++q) {
        if (q == etp_rank) first(expert, r) = etp == 1 ? row : begin(q, r, expert) - first_own;
        for (std::int64_t i = 0; i < counts(q, r, expert); ++i)
          exchange_of_batch[std::size_t(row++)] = std::int32_t(begin(q, r, expert) + i);
      }
  }
  offsets[std::size_t(own)] = row;
}

/// offsets [experts + 1] of rows by expert, assigned: counts [experts] each, or with padding `each` >= 0 the same number of all.
inline void row_offsets(host_exec, view<const std::int64_t> counts, extent_t each, view<std::int64_t> offsets) {
  require_count("row_offsets", "offsets", offsets.size(), extent_t(counts.size()) + 1);
  offsets[0] = 0;
  for (std::size_t x = 0; x < counts.size(); ++x) offsets[x + 1] = offsets[x] + (each >= 0 ? each : counts[x]);
}

}  // namespace moefold
