#pragma once
// Rows that travel together with their weight: H elements of the token, then its weight in full precision (w elements: wide_lanes<T>, 1 or, in
// bf16, 2), so that one exchange carries both, and both gradients on the way back. The four ways between separate tensors and weighted rows;
// the plain ones stand in ops/permute.hpp.
//
//   permute_weighted   x [n, H], weight [n, k]   -> rows [R, H + w] in expert order        combine_weighted  rows -> y [n, H], weight [n, k]
//   gather_weighted    rows [*, H + w]           -> x [R, H], weight [R]                   scatter_weighted  x, weight -> rows [*, H + w]
//   pack_weighted      x [R, H], weight [R]      -> rows [R, H + w], row by row
#include <moefold/ops/permute.hpp>

namespace moefold {

namespace detail {

template <class T>
void require_weighted(const char* op, view<T> wide, extent_t width) {
  require(cols_of(wide) == width + wide_lanes<T>, "moefold: ", op, " needs weighted rows of ", width, " + ", wide_lanes<T>,
          " elements, given ", cols_of(wide));
}

}  // namespace detail

/// out[r] = x[t] and weight[t, j] of the slot t * k + j = slot_of_row[r]; zeros for a filler (-1). row_of_slot [n, k]: the inverse, or left out.
template <class T>
void permute_weighted(host_exec e, input<T> x, input<accumulate_t<T>> weight, std::span<const std::int32_t> slot_of_row, view<T> out,
                      view<const std::int32_t> row_of_slot = {}) {
  const extent_t width = cols_of(x), k = cols_of(weight);
  detail::require_weighted("permute_weighted", out, width);
  require_matrix("permute_weighted", "weight", weight, rows_of(x), k);
  require_count("permute_weighted", "slot_of_row", slot_of_row.size(), rows_of(out));
  detail::require_inverse("permute_weighted", row_of_slot, rows_of(x), k);
  detail::require_slots("permute_weighted", slot_of_row, rows_of(x) * k);
  detail::for_rows_by_token(e, slot_of_row, row_of_slot, k, rows_of(x), [&](extent_t row, extent_t token, extent_t slot) {
    T* const to = out.data() + row * (width + wide_lanes<T>);
    if (slot < 0) return zero_row(to, width + wide_lanes<T>);
    copy_row(x.data() + token * width, to, width);
    put_wide<T>(weight.data()[slot], to + width);
  });
}

/// packed[r] = rows[r] and weight[r].
template <class T>
void pack_weighted(host_exec, input<T> rows, input<accumulate_t<T>> weight, view<T> packed) {
  const extent_t width = cols_of(rows), stride = width + wide_lanes<T>;
  detail::require_weighted("pack_weighted", packed, width);
  require_count("pack_weighted", "weight", weight.size(), rows_of(rows));
  require_matrix("pack_weighted", "packed", packed, rows_of(rows), stride);
  for (extent_t r = 0; r < rows_of(rows); ++r) {
    copy_row(rows.data() + r * width, packed.data() + r * stride, width);
    put_wide<T>(weight.data()[r], packed.data() + r * stride + width);
  }
}

/// x[r] and weight[r] = in[row[r]].
template <class T>
void gather_weighted(host_exec, input<T> in, std::span<const std::int32_t> row, view<T> x, output<accumulate_t<T>> weight) {
  const extent_t width = cols_of(x);
  detail::require_weighted("gather_weighted", in, width);
  require_count("gather_weighted", "row", row.size(), rows_of(x));
  require_count("gather_weighted", "weight", weight.size(), rows_of(x));
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < rows_of(in), "moefold: gather_weighted: row ", row[r], " of ", rows_of(in));
    const T* const from = in.data() + extent_t(row[r]) * (width + wide_lanes<T>);
    copy_row(from, x.data() + extent_t(r) * width, width);
    weight.data()[r] = get_wide(from + width);
  }
}

/// out[row[r]] = x[r] and weight[r].
template <class T>
void scatter_weighted(host_exec, input<T> x, input<accumulate_t<T>> weight, std::span<const std::int32_t> row, view<T> out) {
  const extent_t width = cols_of(x);
  detail::require_weighted("scatter_weighted", out, width);
  require_count("scatter_weighted", "row", row.size(), rows_of(x));
  require_count("scatter_weighted", "weight", weight.size(), rows_of(x));
  for (std::size_t r = 0; r < row.size(); ++r) {
    require(row[r] >= 0 && row[r] < rows_of(out), "moefold: scatter_weighted: row ", row[r], " of ", rows_of(out));
    T* const to = out.data() + extent_t(row[r]) * (width + wide_lanes<T>);
    copy_row(x.data() + extent_t(r) * width, to, width);
    put_wide<T>(weight.data()[r], to + width);
  }
}

/// y[t] = sum over slots in slot order of rows[row_of_slot[t, j]], accumulated in accumulate_t; weight[t, j] = that row's own. Dropped slots (-1)
/// add nothing and have weight 0.
template <class T>
void combine_weighted(host_exec, input<T> rows, view<const std::int32_t> row_of_slot, view<T> y, output<accumulate_t<T>> weight) {
  const extent_t width = cols_of(y), stride = width + wide_lanes<T>, n = rows_of(y), k = cols_of(row_of_slot);
  detail::require_weighted("combine_weighted", rows, width);
  require_matrix("combine_weighted", "row_of_slot", row_of_slot, n, k);
  require_matrix("combine_weighted", "weight", weight, n, k);
  for (extent_t t = 0; t < n; ++t) {
    const std::int32_t* const row = row_of_slot.data() + t * k;
    for (extent_t j = 0; j < k; ++j) {
      require(row[j] < rows_of(rows), "moefold: combine_weighted: token ", t, " asks for row ", row[j], " of ", rows_of(rows));
      weight.data()[t * k + j] = row[j] < 0 ? accumulate_t<T>(0) : get_wide(rows.data() + row[j] * stride + width);
    }
    sum_rows(
        width, k, [&](extent_t j) { return row[j] < 0 ? nullptr : rows.data() + row[j] * stride; }, y.data() + t * width);
  }
}

}  // namespace moefold
