#pragma once
// The k largest scores of every row, in descending order; equal scores in the order of their columns.
//
//   scores [n, E]  ->  index [n, k], value [n, k]        order: by score, largest first; ties: the lowest index first; NaN after -inf
//   backward: dscores [n, E] = dvalue at the chosen columns, 0 elsewhere (index -1, a choice dropped later, counts for nothing)
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

namespace detail {

template <class A>
MOEFOLD_HD constexpr bool ranks_before(A a, A b) {
  return a > b || (b != b && a == a);
}

/// A column and its score in the one order of all columns: by score, then by column. A negative index is no column, and behind all.
template <class A>
struct ranked {
  A value = A(0);
  std::int32_t index = -1;

  MOEFOLD_HD constexpr bool before(const ranked& other) const {
    if (index < 0 || other.index < 0) return other.index < 0 && index >= 0;
    return ranks_before(value, other.value) || (!ranks_before(other.value, value) && index < other.index);
  }
};

/// The best k of `score`, best first, ties to the lowest index: insertion into the sorted list of the best so far.
template <class A>
MOEFOLD_HD inline void best_of(const A* score, extent_t width, extent_t k, std::int32_t* best, A* held) {
  for (extent_t c = 0; c < width; ++c) {
    extent_t slot = c < k ? c : k;
    if (slot == k && !ranks_before(score[c], held[k - 1])) continue;
    slot = slot < k - 1 ? slot : k - 1;
    for (; slot > 0 && ranks_before(score[c], held[slot - 1]); --slot) held[slot] = held[slot - 1], best[slot] = best[slot - 1];
    held[slot] = score[c], best[slot] = std::int32_t(c);
  }
}

}  // namespace detail

template <class A>
void top_k(host_exec, input<A> scores, extent_t k, view<std::int32_t> index, view<A> value) {
  const extent_t n = rows_of(scores), width = cols_of(scores);
  require(k >= 1 && k <= width, "moefold: top_k needs 1 <= k <= ", width, " columns, given k = ", k);
  require_matrix("top_k", "index", index, n, k);
  require_matrix("top_k", "value", value, n, k);
  for (extent_t t = 0; t < n; ++t) detail::best_of(scores.data() + t * width, width, k, index.data() + t * k, value.data() + t * k);
}

/// value[t, j] = scores[t, index[t, j]]: the scores of choices made elsewhere. Its backward is top_k_backward.
template <class A>
void pick(host_exec, input<A> scores, view<const std::int32_t> index, view<A> value) {
  const extent_t n = rows_of(scores), width = cols_of(scores), k = cols_of(index);
  require_matrix("pick", "index", index, n, k);
  require_matrix("pick", "value", value, n, k);
  for (extent_t t = 0; t < n; ++t)
    for (extent_t j = t * k; j < (t + 1) * k; ++j) {
      const std::int32_t c = index.data()[j];
      require(c >= 0 && c < width, "moefold: pick has ", width, " columns, given index ", c, " in row ", t);
      value.data()[j] = scores.data()[t * width + c];
    }
}

template <class A>
void top_k_backward(host_exec, input<A> dvalue, view<const std::int32_t> index, view<A> dscores) {
  const extent_t n = rows_of(dscores), width = cols_of(dscores), k = cols_of(index);
  require_matrix("top_k_backward", "index", index, n, k);
  require_matrix("top_k_backward", "dvalue", dvalue, n, k);
  std::fill_n(dscores.data(), dscores.size(), A(0));
  for (extent_t t = 0; t < n; ++t)
    for (extent_t j = t * k; j < (t + 1) * k; ++j) {
      const std::int32_t c = index.data()[j];
      require(c < width, "moefold: top_k_backward has ", width, " columns, given index ", c, " in row ", t);
      if (c >= 0) dscores.data()[t * width + c] += dvalue.data()[j];
    }
}

}  // namespace moefold
