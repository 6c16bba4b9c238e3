#pragma once
// Sequence parallelism over tp. Between blocks each rank holds its own rows; a column-parallel layer first gathers them, a row-parallel layer
// ends by summing partial results and scattering the rows back. The two are each other's backward. A group of one rank moves nothing.
//
//   tp rank 0 [T/TP, H] \                                           / [T/TP, H] tp rank 0
//                        gather -> [T, H] -> columns | rows -> sum +
//   tp rank 1 [T/TP, H] /                                           \ [T/TP, H] tp rank 1
#include <moefold/comm/communicator.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

/// All rows of the group, in rank order: x [rows, width] -> [size * rows, width]. Collective over tp. Sends (n-1) * bytes of x.
template <class T, class Exec, class Comm>
view<const T> gather_rows_of_group(Exec e, Comm& tp, view<const T> x, scratch<Exec>& local) {
  if (tp.size() == 1) return x;
  view<T> all = local.template take<T>(x.extent(0) * tp.size(), x.row_size());
  tp.all_gather(e, x.span(), all.span()).wait(e);
  return all;
}

/// Where a row-parallel product goes before its sum: straight into y in a group of one, else scratch of size * rows.
template <class T, class Exec, class Comm>
view<T> partial_rows(Comm& tp, view<T> y, scratch<Exec>& local) {
  return tp.size() == 1 ? y : local.template take<T>(y.extent(0) * tp.size(), y.row_size());
}

/// Sums `partial` [size * rows, width] over the group and leaves this rank's rows in y [rows, width]. Collective over tp.
template <class T, class Exec, class Comm>
void sum_and_scatter_rows(Exec e, Comm& tp, view<const T> partial, view<T> y) {
  if (tp.size() > 1) tp.reduce_scatter(e, partial.span(), y.span(), sum{}).wait(e);
}

}  // namespace moefold
