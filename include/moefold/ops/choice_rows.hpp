#pragma once
// Tokens that travel together with all their choices, as the AllGather dispatcher sends them: H elements of the token, then its k experts, then their
// k weights, each a number of accumulate_t<T> in w = wide_lanes<T> elements; and the gradients on the way back.
//
//   pack_choices     x [n, H], expert [n, k], weight [n, k] -> tokens [n, H + 2 k w]        split_choices    tokens -> index [n, k] of the experts here
//   gather_choices   tokens -> batch [R, H], weight [R] in expert order
//   combine_choices  dbatch [R, H], dweight [R] -> rows [n, H + k], or in bf16 [n, H] and dp [n, k] apart: these are added up, so they are no bits
//   split_gradients  rows [n, H + k] -> dx [n, H], dchoice [n, k]
#include <moefold/ops/weighted_rows.hpp>

namespace moefold {

/// Elements of a row that are not the token's, both ways.
template <class T>
constexpr extent_t choice_lanes(extent_t k) {
  return 2 * k * wide_lanes<T>;
}
template <class T>
constexpr extent_t choice_gradient_lanes(extent_t k) {
  return wide_lanes<T> == 1 ? k : 0;
}

/// tokens[i] = x[i], expert[i, :], weight[i, :]. An expert is one of `experts` or -1: dropped.
template <class T>
void pack_choices(host_exec, input<T> x, view<const std::int32_t> expert, input<accumulate_t<T>> weight, extent_t experts, view<T> tokens) {
  using A = accumulate_t<T>;
  constexpr extent_t lanes = wide_lanes<T>;
  const extent_t n = rows_of(x), hidden = cols_of(x), k = cols_of(expert), width = hidden + choice_lanes<T>(k);
  require_matrix("pack_choices", "expert", expert, n, k);
  require_matrix("pack_choices", "weight", weight, n, k);
  require_matrix("pack_choices", "tokens", tokens, n, width);
  for (extent_t i = 0; i < n; ++i) {
    T* const row = tokens.data() + i * width;
    copy_row(x.data() + i * hidden, row, hidden);
    for (extent_t j = 0; j < k; ++j) {
      const std::int32_t choice = expert.data()[i * k + j];
      require_choice(choice, experts, i);
      put_wide<T>(A(choice), row + hidden + j * lanes);
      put_wide<T>(weight.data()[i * k + j], row + hidden + (k + j) * lanes);
    }
  }
}

/// index[i, j] = the token's expert - first where that is one of the `own` experts here, else -1.
template <class T>
void split_choices(host_exec, view<T> tokens, extent_t first, extent_t own, view<std::int32_t> index) {
  constexpr extent_t lanes = wide_lanes<T>;
  const extent_t n = rows_of(index), k = cols_of(index), width = cols_of(tokens), hidden = width - choice_lanes<T>(k);
  require_matrix("split_choices", "tokens", tokens, n, width);
  for (extent_t i = 0; i < n; ++i)
    for (extent_t j = 0; j < k; ++j) {
      const extent_t here = extent_t(get_wide(tokens.data() + i * width + hidden + j * lanes)) - first;
      index.data()[i * k + j] = here >= 0 && here < own ? std::int32_t(here) : -1;
    }
}

/// batch[r] and weight[r] of the slot slot_of_row[r] = i * k + j: the token i and its j-th weight; zeros for a filler (-1).
template <class T>
void gather_choices(host_exec, input<T> tokens, std::span<const std::int32_t> slot_of_row, extent_t k, view<T> batch,
                    output<accumulate_t<T>> weight) {
  constexpr extent_t lanes = wide_lanes<T>;
  const extent_t hidden = cols_of(batch), width = hidden + choice_lanes<T>(k), rows = rows_of(batch);
  require_matrix("gather_choices", "tokens", tokens, rows_of(tokens), width);
  require_count("gather_choices", "slot_of_row", slot_of_row.size(), rows);
  require_count("gather_choices", "weight", weight.size(), rows);
  detail::require_slots("gather_choices", slot_of_row, rows_of(tokens) * k);
  for (extent_t r = 0; r < rows; ++r) {
    const std::int32_t slot = slot_of_row[std::size_t(r)];
    T* const to = batch.data() + r * hidden;
    if (slot < 0) {
      zero_row(to, hidden);
      weight.data()[r] = accumulate_t<T>(0);
      continue;
    }
    const T* const row = tokens.data() + slot / k * width;
    copy_row(row, to, hidden);
    weight.data()[r] = get_wide(row + hidden + (k + slot % k) * lanes);
  }
}

/// rows[i] = sum over slots in slot order of dbatch[row_of_slot[i, j]]; dp[i, j] = dweight of that row, 0 where it is not here. Where a number of
/// accumulate_t<T> is one element, dp is empty and its k numbers follow the row.
template <class T>
void combine_choices(host_exec, input<T> dbatch, input<accumulate_t<T>> dweight, view<const std::int32_t> row_of_slot, view<T> rows,
                     output<accumulate_t<T>> dp) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(row_of_slot), k = cols_of(row_of_slot), hidden = cols_of(dbatch), width = hidden + choice_gradient_lanes<T>(k);
  require_matrix("combine_choices", "rows", rows, n, width);
  require_count("combine_choices", "dweight", dweight.size(), rows_of(dbatch));
  require_count("combine_choices", "dp", dp.size(), width == hidden ? n * k : 0);
  for (extent_t i = 0; i < n; ++i) {
    const std::int32_t* const row = row_of_slot.data() + i * k;
    T* const to = rows.data() + i * width;
    for (extent_t j = 0; j < k; ++j)
      require(row[j] < rows_of(dbatch), "moefold: combine_choices: token ", i, " asks for row ", row[j], " of ", rows_of(dbatch));
    sum_rows(
        hidden, k, [&](extent_t j) { return row[j] < 0 ? nullptr : dbatch.data() + row[j] * hidden; }, to);
    A* p = dp.data() + i * k;
    if constexpr (std::is_same_v<T, A>) p = to + hidden;
    for (extent_t j = 0; j < k; ++j) p[j] = row[j] < 0 ? A(0) : dweight.data()[row[j]];
  }
}

/// dx[i] = the first H elements of rows[i], dchoice[i] what follows them: nothing in bf16, then dchoice is left as it is.
template <class T>
void split_gradients(host_exec, input<T> rows, view<T> dx, output<accumulate_t<T>> dchoice) {
  const extent_t n = rows_of(dx), hidden = cols_of(dx), k = cols_of(dchoice), width = hidden + choice_gradient_lanes<T>(k);
  require_matrix("split_gradients", "rows", rows, n, width);
  require_matrix("split_gradients", "dchoice", dchoice, n, k);
  for (extent_t i = 0; i < n; ++i) {
    copy_row(rows.data() + i * width, dx.data() + i * hidden, hidden);
    if constexpr (std::is_same_v<T, accumulate_t<T>>) copy_row(rows.data() + i * width + hidden, dchoice.data() + i * k, k);
  }
}

}  // namespace moefold
