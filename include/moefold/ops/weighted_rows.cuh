#pragma once
// The CUDA twin of ops/weighted_rows.hpp: one launch each, by the kernels of ops/row_copy.cuh. Rows of H + w elements begin on 4 bytes at best, so they
// move in words of 4 bytes; the lanes of a warp still make whole lines of them.
//
//   permute_weighted with row_of_slot: a token is read once and written to its k rows, its weights behind them
#include <moefold/ops/permute.cuh>
#include <moefold/ops/weighted_rows.hpp>

namespace moefold {

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void permute_weighted(cuda_exec e, input<T> x, input<accumulate_t<T>> weight, std::span<const std::int32_t> slot_of_row, view<T> out,
                      view<const std::int32_t> row_of_slot = {}) {
  const extent_t width = cols_of(x), k = cols_of(weight);
  detail::require_weighted("permute_weighted", out, width);
  require_matrix("permute_weighted", "weight", weight, rows_of(x), k);
  require_count("permute_weighted", "slot_of_row", slot_of_row.size(), rows_of(out));
  detail::require_inverse("permute_weighted", row_of_slot, rows_of(x), k);
  detail::spread<T, Tune>(e, "permute_weighted", {x.data(), width}, rows_of(x), weight.data(), slot_of_row, row_of_slot, k,
                          {out.data(), width + wide_lanes<T>}, width);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void pack_weighted(cuda_exec e, input<T> rows, input<accumulate_t<T>> weight, view<T> packed) {
  const extent_t width = cols_of(rows), stride = width + wide_lanes<T>;
  detail::require_weighted("pack_weighted", packed, width);
  require_count("pack_weighted", "weight", weight.size(), rows_of(rows));
  require_matrix("pack_weighted", "packed", packed, rows_of(rows), stride);
  detail::scatter<T, Tune>(e, "pack_weighted", {rows.data(), width}, rows_of(rows), nullptr, rows_of(rows), {packed.data(), stride}, width,
                           weight.data());
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void gather_weighted(cuda_exec e, input<T> in, std::span<const std::int32_t> row, view<T> x, output<accumulate_t<T>> weight) {
  const extent_t width = cols_of(x);
  detail::require_weighted("gather_weighted", in, width);
  require_count("gather_weighted", "row", row.size(), rows_of(x));
  require_count("gather_weighted", "weight", weight.size(), rows_of(x));
  detail::gather<T, Tune>(e, "gather_weighted", {in.data(), width + wide_lanes<T>}, row, 1, rows_of(in), false, {x.data(), width}, width,
                          nullptr, weight.data());
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void scatter_weighted(cuda_exec e, input<T> x, input<accumulate_t<T>> weight, std::span<const std::int32_t> row, view<T> out) {
  const extent_t width = cols_of(x);
  detail::require_weighted("scatter_weighted", out, width);
  require_count("scatter_weighted", "row", row.size(), rows_of(x));
  require_count("scatter_weighted", "weight", weight.size(), rows_of(x));
  detail::scatter<T, Tune>(e, "scatter_weighted", {x.data(), width}, rows_of(x), row.data(), rows_of(out),
                           {out.data(), width + wide_lanes<T>}, width, weight.data());
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void combine_weighted(cuda_exec e, input<T> rows, view<const std::int32_t> row_of_slot, view<T> y, output<accumulate_t<T>> weight) {
  const extent_t width = cols_of(y), n = rows_of(y), k = cols_of(row_of_slot);
  detail::require_weighted("combine_weighted", rows, width);
  require_matrix("combine_weighted", "row_of_slot", row_of_slot, n, k);
  require_matrix("combine_weighted", "weight", weight, n, k);
  detail::combine<T, Tune>(e, "combine_weighted", {rows.data(), width + wide_lanes<T>}, rows_of(rows), row_of_slot, {y.data(), width},
                           width, {nullptr, weight.data(), k});
}

}  // namespace moefold
