#pragma once
// Tokens into expert order and back. A slot is one (token, choice) pair, number t * k + j; a row is a slot that was kept, sorted by expert
// and, inside an expert, by token. Both directions are gathers, so nothing is added in an order that could change.
//
//   index [n, k]            4 1 | 1 0 | 1 4      expert of every slot, -1: dropped
//   counts [E]              1 3 0 0 2            rows of every expert
//   slot_of_row [n k]       3 | 1 2 4 | 0 5      which slot a row holds          permute_rows: out[r] = x[slot_of_row[r] / k]
//   row_of_slot [n, k]      4 1 | 2 0 | 3 5      where a slot went, -1: dropped  combine_rows: y[t] = sum over j of rows[row_of_slot[t, j]]
//
// Padded: every expert gets the same number of rows of every source (equal shares of the tokens, in order), and slot_of_row is -1 where a row is
// a filler; permute_rows fills those with zeros.
// A view of rank 1 is a list of rows of one element.
#include <moefold/core/bulk_copy.hpp>
#include <moefold/ops/row_copy.hpp>

#include <algorithm>

namespace moefold {

/// Throws unless the expert is one of `experts`, or -1: dropped.
inline void require_choice(std::int32_t expert, extent_t experts, extent_t token) {
  require(expert >= -1 && expert < experts, "moefold: token ", token, " chose expert ", expert, ", of ", experts,
          "; experts are numbered from 0, -1 means dropped");
}

namespace detail {

struct row_list {
  extent_t rows, width;
  template <class T>
  explicit constexpr row_list(view<T> x) : rows(x.rank() == 1 ? x.extent(0) : rows_of(x)), width(x.rank() == 1 ? 1 : cols_of(x)) {}
};

inline void require_rows(const char* op, const char* name, row_list x, extent_t rows, extent_t width) {
  require(x.rows == rows && x.width == width, "moefold: ", op, " needs ", name, " [", rows, ", ", width,
          "] to fit its other arguments, given [", x.rows, ", ", x.width, "]");
}

/// f(row, token, slot) for every row, fillers with slot -1: token by token, so that a token is read once from memory and k times from the nearest cache.
/// inverse: row_of_slot [n, k] of the same rows, or empty.
template <class F>
inline void for_rows_by_token(host_exec e, std::span<const std::int32_t> slot_of_row, view<const std::int32_t> inverse, extent_t k,
                              extent_t tokens, F f) {
  if (!inverse.empty()) {
    const extent_t rows = extent_t(slot_of_row.size());
    for (extent_t r = 0; r < rows; ++r)
      if (slot_of_row[std::size_t(r)] < 0) f(r, extent_t(-1), extent_t(-1));
    for (extent_t s = 0; s < tokens * k; ++s) {
      const std::int32_t row = inverse[std::size_t(s)];
      require(row < rows && (row < 0 || slot_of_row[std::size_t(row)] == s), "moefold: slot ", s, " is said to be in row ", row, " of ",
              rows, "; pass the row_of_slot that was built with this slot_of_row");
      if (row >= 0) f(extent_t(row), s / k, s);
    }
    return;
  }
  scratch<host_exec> local(e);
  const view<std::int32_t> row_of_slot = local.take<std::int32_t>(tokens * k);
  std::fill(row_of_slot.begin(), row_of_slot.end(), -1);
  for (std::size_t r = 0; r < slot_of_row.size(); ++r) {
    if (slot_of_row[r] < 0)
      f(extent_t(r), extent_t(-1), extent_t(-1));
    else
      row_of_slot[std::size_t(slot_of_row[r])] = std::int32_t(r);
  }
  for (extent_t t = 0, slot = 0; t < tokens; ++t)
    for (extent_t j = 0; j < k; ++j, ++slot)
      if (row_of_slot(slot) >= 0) f(extent_t(row_of_slot(slot)), t, slot);
}
inline void require_inverse(const char* op, view<const std::int32_t> row_of_slot, extent_t tokens, extent_t k) {
  if (!row_of_slot.empty()) require_matrix(op, "row_of_slot", row_of_slot, tokens, k);
}
inline void require_slots(const char* op, std::span<const std::int32_t> slot_of_row, extent_t slots) {
  for (std::size_t r = 0; r < slot_of_row.size(); ++r)
    require(slot_of_row[r] >= -1 && slot_of_row[r] < slots, "moefold: ", op, ": row ", r, " names slot ", slot_of_row[r], " of ", slots);
}

inline void require_permutation(view<const std::int32_t> index, extent_t experts, std::span<std::int64_t> counts,
                                view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  const extent_t slots = extent_t(index.size());
  require_count("build_permutation", "counts", counts.size(), experts);
  require_count("build_permutation", "row_of_slot", row_of_slot.size(), slots);
  require_count("build_permutation", "slot_of_row", slot_of_row.size(), slots);
  require(slots <= std::numeric_limits<std::int32_t>::max(), "moefold: build_permutation numbers slots in 32 bits, given ", slots,
          "; use a smaller micro-batch");
}
inline void require_padded_permutation(view<const std::int32_t> index, extent_t experts, extent_t sources, extent_t rows,
                                       std::span<std::int64_t> counts, view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  const extent_t slots = extent_t(index.size()), k = cols_of(index), each = slots / std::max<extent_t>(1, sources);
  require_count("build_padded_permutation", "counts", counts.size(), experts);
  require_count("build_padded_permutation", "row_of_slot", row_of_slot.size(), slots);
  require_count("build_padded_permutation", "slot_of_row", slot_of_row.size(), experts * sources * rows);
  require(sources >= 1 && each * sources == slots && each % std::max<extent_t>(1, k) == 0, "moefold: build_padded_permutation shares ",
          slots / std::max<extent_t>(1, k), " tokens equally among ", sources, " sources; give all ranks equally many tokens");
  require(std::max(slots, experts * sources * rows) <= std::numeric_limits<std::int32_t>::max(),
          "moefold: build_padded_permutation numbers rows in 32 bits, given ", experts * sources * rows, "; use a smaller micro-batch");
}

}  // namespace detail

/// Sorts the slots by expert, stably: O(n k + E), no comparisons. Assigns counts, row_of_slot and slot_of_row [n k]: the first `kept` entries, the
/// number of slots whose index is not -1 and so the sum of counts, name slots, the others are -1. The host's also returns kept.
inline extent_t build_permutation(host_exec e, view<const std::int32_t> index, extent_t experts, std::span<std::int64_t> counts,
                                  view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  const extent_t slots = extent_t(index.size()), k = cols_of(index);
  detail::require_permutation(index, experts, counts, row_of_slot, slot_of_row);
  std::fill(counts.begin(), counts.end(), 0);
  for (extent_t s = 0; s < slots; ++s) {
    const std::int32_t expert = index.data()[s];
    require_choice(expert, experts, s / k);
    if (expert >= 0) ++counts[std::size_t(expert)];
  }
  scratch<host_exec> local(e);
  std::int32_t* const next = local.take<std::int32_t>(experts).data();
  extent_t kept = 0;
  for (extent_t x = 0; x < experts; ++x) next[x] = std::int32_t(kept), kept += counts[std::size_t(x)];
  for (extent_t s = 0; s < slots; ++s) {
    const std::int32_t expert = index.data()[s];
    row_of_slot.data()[s] = expert < 0 ? -1 : next[expert]++;
    if (expert >= 0) slot_of_row.data()[row_of_slot.data()[s]] = std::int32_t(s);
  }
  std::fill(slot_of_row.data() + kept, slot_of_row.data() + slots, -1);
  return kept;
}

/// The same with fillers: row (expert * sources + source) * rows + i holds the i-th slot of this expert among the tokens of this source, an equal
/// share of all tokens. Assigns counts [E] (fillers not counted), row_of_slot [n, k] and slot_of_row [E * sources * rows], -1: a filler.
/// Throws if a source has more than `rows` slots for an expert.
inline void build_padded_permutation(host_exec e, view<const std::int32_t> index, extent_t experts, extent_t sources, extent_t rows,
                                     std::span<std::int64_t> counts, view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  const extent_t k = cols_of(index), each = extent_t(index.size()) / std::max<extent_t>(1, sources);
  detail::require_padded_permutation(index, experts, sources, rows, counts, row_of_slot, slot_of_row);
  std::fill(counts.begin(), counts.end(), 0);
  std::fill(slot_of_row.begin(), slot_of_row.end(), -1);
  scratch<host_exec> local(e);
  const view<std::int32_t> used = local.take<std::int32_t>(experts);
  for (extent_t source = 0; source < sources; ++source) {
    std::fill(used.begin(), used.end(), 0);
    for (extent_t s = source * each; s < (source + 1) * each; ++s) {
      const std::int32_t expert = index.data()[s];
      require_choice(expert, experts, s / k);
      row_of_slot.data()[s] = -1;
      if (expert < 0) continue;
      require(used(expert) < rows, "moefold: expert ", expert, " has more than the ", rows,
              " rows that padding gives it; drop what exceeds the capacity first");
      row_of_slot.data()[s] = std::int32_t((expert * sources + source) * rows) + used(expert)++;
      slot_of_row.data()[row_of_slot.data()[s]] = std::int32_t(s);
      ++counts[std::size_t(expert)];
    }
  }
}

/// out[r] = x[slot_of_row[r] / k], or zeros for a filler; a slot is named at most once:  x [n, H] -> out [R, H]. Also the backward of combine_rows.
/// row_of_slot [n, k], the inverse, may be left out; with it a device reads a token once instead of k times.
template <class T>
void permute_rows(host_exec e, input<T> x, std::span<const std::int32_t> slot_of_row, extent_t k, view<T> out,
                  view<const std::int32_t> row_of_slot = {}) {
  const detail::row_list from(x);
  const extent_t width = from.width;
  require(k >= 1, "moefold: permute_rows needs k of at least 1, given ", k);
  detail::require_rows("permute_rows", "out", detail::row_list(out), extent_t(slot_of_row.size()), width);
  detail::require_inverse("permute_rows", row_of_slot, from.rows, k);
  detail::require_slots("permute_rows", slot_of_row, from.rows * k);
  const auto put = [&](auto&& copy) {
    return [&, copy](extent_t row, extent_t token, extent_t) {
      T* const to = out.data() + row * width;
      token < 0 ? zero_row(to, width) : copy(to, x.data() + token * width, std::size_t(width) * sizeof(T));
    };
  };
  if (out.bytes() <= bulk_footprint)
    return detail::for_rows_by_token(e, slot_of_row, row_of_slot, k, from.rows,
                                     put([](T* to, const T* in, std::size_t bytes) { std::memcpy(to, in, bytes); }));
  const auto stream = put([](T* to, const T* in, std::size_t bytes) { stream_copy(to, in, bytes); });
  for (std::size_t r = 0; r < slot_of_row.size(); ++r)  // in the order of memory: past the cache, nothing is read twice
    stream(extent_t(r), slot_of_row[r] < 0 ? -1 : slot_of_row[r] / k, slot_of_row[r]);
  stream_fence();
}

/// y[t] = sum of rows[row_of_slot[t, j]] over j in slot order, in accumulate_t; dropped slots add nothing. Also permute_rows' backward.
template <class T>
void combine_rows(host_exec, input<T> rows, view<const std::int32_t> row_of_slot, view<T> y) {
  const detail::row_list from(rows), to(y);
  const extent_t width = to.width, k = cols_of(row_of_slot);
  require_matrix("combine_rows", "row_of_slot", row_of_slot, to.rows, k);
  require(from.width == width, "moefold: combine_rows needs rows of ", width, " elements, given ", from.width);
  for (extent_t t = 0; t < to.rows; ++t) {
    const std::int32_t* const row = row_of_slot.data() + t * k;
    for (extent_t j = 0; j < k; ++j)
      require(row[j] < from.rows, "moefold: combine_rows: token ", t, " asks for row ", row[j], " of ", from.rows);
    sum_rows(
        width, k, [&](extent_t j) { return row[j] < 0 ? nullptr : rows.data() + row[j] * width; }, y.data() + t * width);
  }
}

/// out[r] = in[row[r]].
template <class T>
void gather_rows(host_exec, input<T> in, std::span<const std::int32_t> row, view<T> out) {
  const detail::row_list from(in);
  const extent_t width = from.width;
  detail::require_rows("gather_rows", "out", detail::row_list(out), extent_t(row.size()), width);
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < from.rows, "moefold: gather_rows: row ", row[r], " of ", from.rows);
    copy_row(in.data() + row[r] * width, out.data() + extent_t(r) * width, width);
  }
}

/// out[row[r]] = in[r]; rows of out that are not named keep what they hold.
template <class T>
void scatter_rows(host_exec, input<T> in, std::span<const std::int32_t> row, view<T> out) {
  const detail::row_list to(out);
  const extent_t width = to.width;
  detail::require_rows("scatter_rows", "in", detail::row_list(in), extent_t(row.size()), width);
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < to.rows, "moefold: scatter_rows: row ", row[r], " of ", to.rows);
    copy_row(in.data() + extent_t(r) * width, out.data() + row[r] * width, width);
  }
}

}  // namespace moefold
