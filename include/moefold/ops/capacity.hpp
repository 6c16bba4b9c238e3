#pragma once
// Which (token, expert) pairs an expert keeps when it takes at most `capacity` of a set of tokens: the largest weights, or the first tokens.
//
//   index [N, k], weight [N, k], number [N]: the token's place in token order     keep [N, k]: index, or -1 where the pair is dropped
//   by weight: largest first, ties to the lower number, NaN last                  by position: the lowest numbers
// The result depends on the set alone, not on the order in which its tokens are listed.
#include <moefold/ops/permute.hpp>

#include <bit>

namespace moefold {

namespace detail {

/// Bits that sort as weights are kept, the smallest first: largest weight first, both zeros alike, NaN last. What a device selects by.
template <class A>
MOEFOLD_HD constexpr auto keep_bits(A weight) {
  using bits = std::conditional_t<sizeof(A) == 4, std::uint32_t, std::uint64_t>;
  constexpr bits sign = bits(1) << (8 * sizeof(A) - 1);
  if (weight != weight) return bits(~bits(0));
  const bits b = weight == A(0) ? bits(0) : std::bit_cast<bits>(weight);
  return bits((b & sign) != 0 ? b : ~(b | sign));
}

inline void require_capacity(view<const std::int32_t> index, std::size_t weights, std::size_t numbers, extent_t capacity, bool by_position,
                             view<std::int32_t> keep) {
  const extent_t tokens = rows_of(index), k = cols_of(index), slots = tokens * k;
  require_matrix("keep_within_capacity", "keep", keep, tokens, k);
  require_count("keep_within_capacity", "number", numbers, tokens);
  require(by_position || weights == index.size(), "moefold: keep_within_capacity by weight needs a weight for each of ", slots,
          " pairs, given ", weights);
  require(capacity >= 0, "moefold: a capacity is 0 or more rows, given ", capacity);
}
inline void require_dropped(view<const std::int32_t> expert, view<const std::uint8_t> padding, view<std::int64_t> pairs) {
  require(padding.empty() || extent_t(padding.size()) == rows_of(expert), "moefold: count_dropped needs a padding flag for each of ",
          rows_of(expert), " tokens, or none, given ", padding.size());
  require_count("count_dropped", "pairs", pairs.size(), 1);
}

}  // namespace detail

/// Assigns keep [N, k]; an index of -1 stays so. weight may be empty when by_position. O(N k + E). The host's also returns
/// the pairs that were dropped.
template <class A>
extent_t keep_within_capacity(host_exec e, view<const std::int32_t> index, view<const A> weight, view<const std::int32_t> number,
                              extent_t experts, extent_t capacity, bool by_position, view<std::int32_t> keep) {
  const extent_t tokens = rows_of(index), k = cols_of(index), slots = tokens * k;
  detail::require_capacity(index, weight.size(), number.size(), capacity, by_position, keep);
  scratch<host_exec> local(e);
  const view<std::int64_t> counts = local.take<std::int64_t>(experts);
  const view<std::int32_t> row_of_slot = local.take<std::int32_t>(tokens, k), slot_of_row = local.take<std::int32_t>(slots);
  build_permutation(e, index, experts, counts.span(), row_of_slot, slot_of_row);
  std::copy(index.begin(), index.end(), keep.begin());
  const auto earlier = [&](std::int32_t a, std::int32_t b) { return number[std::size_t(a / k)] < number[std::size_t(b / k)]; };
  const auto heavier = [&](std::int32_t a, std::int32_t b) {
    const A x = weight[std::size_t(a)], y = weight[std::size_t(b)];
    if (x > y || (y != y && x == x)) return true;
    if (y > x || (x != x && y == y)) return false;
    return earlier(a, b);
  };
  extent_t dropped = 0;
  std::int32_t* first = slot_of_row.data();
  for (extent_t expert = 0; expert < experts; first += counts(expert++)) {
    std::int32_t* const last = first + counts(expert);
    if (last - first <= capacity) continue;
    if (by_position)
      std::nth_element(first, first + capacity, last, earlier);
    else
      std::nth_element(first, first + capacity, last, heavier);
    for (const std::int32_t* s = first + capacity; s < last; ++s) keep[std::size_t(*s)] = -1;
    dropped += last - (first + capacity);
  }
  return dropped;
}

/// pairs [1] = how many slots of expert [n, k] are -1, those of padding (not 0; empty: none) left out. Assigned.
inline void count_dropped(host_exec, view<const std::int32_t> expert, view<const std::uint8_t> padding, view<std::int64_t> pairs) {
  const extent_t n = rows_of(expert), k = cols_of(expert);
  detail::require_dropped(expert, padding, pairs);
  pairs[0] = 0;
  for (extent_t s = 0; s < n * k; ++s) pairs[0] += expert.data()[s] < 0 && (padding.empty() || !padding(s / k));
}

}  // namespace moefold
