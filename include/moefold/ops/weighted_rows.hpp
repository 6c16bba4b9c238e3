#pragma once
// Rows that travel together with their weight: H elements of the token, then its weight, so that one exchange carries both, and both gradients
// on the way back. The four ways between separate tensors and weighted rows; the plain ones stand in ops/permute.hpp.
//
//   permute_weighted   x [n, H], weight [n, k]   -> rows [R, H + 1] in expert order        combine_weighted  rows -> y [n, H], weight [n, k]
//   gather_weighted    rows [*, H + 1]           -> x [R, H], weight [R]                   scatter_weighted  x, weight -> rows [*, H + 1]
#include <moefold/ops/permute.hpp>

namespace moefold {

namespace detail {

template <class T>
void require_weighted(const char* op, view<T> wide, extent_t width) {
  require(cols_of(wide) == width + 1, "moefold: ", op, " needs weighted rows of ", width, " + 1 elements, given ", cols_of(wide));
}

}  // namespace detail

/// out[r] = x[t] and weight[t, j] of the slot t * k + j = slot_of_row[r]; zeros for a filler (-1).
template <class T>
void permute_weighted(host_exec e, input<T> x, input<T> weight, std::span<const std::int32_t> slot_of_row, view<T> out) {
  const extent_t width = cols_of(x), k = cols_of(weight);
  detail::require_weighted("permute_weighted", out, width);
  require_matrix("permute_weighted", "weight", weight, rows_of(x), k);
  require_count("permute_weighted", "slot_of_row", slot_of_row.size(), rows_of(out));
  detail::require_slots("permute_weighted", slot_of_row, rows_of(x) * k);
  detail::for_rows_by_token(e, slot_of_row, k, rows_of(x), [&](extent_t row, extent_t token, extent_t slot) {
    T* const to = out.data() + row * (width + 1);
    if (slot < 0) return zero_row(to, width + 1);
    copy_row(x.data() + token * width, to, width);
    to[width] = weight.data()[slot];
  });
}

/// x[r] and weight[r] = in[row[r]].
template <class T>
void gather_weighted(host_exec, input<T> in, std::span<const std::int32_t> row, view<T> x, view<T> weight) {
  const extent_t width = cols_of(x);
  detail::require_weighted("gather_weighted", in, width);
  require_count("gather_weighted", "row", row.size(), rows_of(x));
  require_count("gather_weighted", "weight", weight.size(), rows_of(x));
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < rows_of(in), "moefold: gather_weighted: row ", row[r], " of ", rows_of(in));
    const T* const from = in.data() + extent_t(row[r]) * (width + 1);
    copy_row(from, x.data() + extent_t(r) * width, width);
    weight.data()[r] = from[width];
  }
}

/// out[row[r]] = x[r] and weight[r].
template <class T>
void scatter_weighted(host_exec, input<T> x, input<T> weight, std::span<const std::int32_t> row, view<T> out) {
  const extent_t width = cols_of(x);
  detail::require_weighted("scatter_weighted", out, width);
  require_count("scatter_weighted", "row", row.size(), rows_of(x));
  require_count("scatter_weighted", "weight", weight.size(), rows_of(x));
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < rows_of(out), "moefold: scatter_weighted: row ", row[r], " of ", rows_of(out));
    T* const to = out.data() + extent_t(row[r]) * (width + 1);
    copy_row(x.data() + extent_t(r) * width, to, width);
    to[width] = weight.data()[r];
  }
}

/// y[t] = sum over slots in slot order of rows[row_of_slot[t, j]], accumulated in accumulate_t; weight[t, j] = that row's own. Dropped slots (-1)
/// add nothing and have weight 0.
template <class T>
void combine_weighted(host_exec, input<T> rows, view<const std::int32_t> row_of_slot, view<T> y, view<T> weight) {
  const extent_t width = cols_of(y), n = rows_of(y), k = cols_of(row_of_slot);
  detail::require_weighted("combine_weighted", rows, width);
  require_matrix("combine_weighted", "row_of_slot", row_of_slot, n, k);
  require_matrix("combine_weighted", "weight", weight, n, k);
  for (extent_t t = 0; t < n; ++t) {
    const std::int32_t* const row = row_of_slot.data() + t * k;
    for (extent_t j = 0; j < k; ++j) {
      require(row[j] < rows_of(rows), "moefold: combine_weighted: token ", t, " asks for row ", row[j], " of ", rows_of(rows));
      weight.data()[t * k + j] = row[j] < 0 ? T(0) : rows.data()[row[j] * (width + 1) + width];
    }
    sum_rows(
        width, k, [&](extent_t j) { return row[j] < 0 ? nullptr : rows.data() + row[j] * (width + 1); }, y.data() + t * width);
  }
}

}  // namespace moefold
