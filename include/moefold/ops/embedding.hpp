#pragma once
// Rows of a table by number, for a table whose rows may be split over ranks: this rank holds rows first_row .. first_row + rows - 1, and a
// number outside that range gives a zero row, so that the sum over ranks is the full table's answer.
//
//   table [rows, H]   ids [n]   ->   out [n, H]            backward: dtable[id - first_row] += dout[i], in token order
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

template <class T>
void embedding_forward(host_exec, input<T> table, std::span<const std::int32_t> ids, std::int64_t first_row, view<T> out) {
  const extent_t rows = rows_of(table), width = cols_of(table);
  require_matrix("embedding_forward", "out", out, extent_t(ids.size()), width);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    T* const to = out.data() + extent_t(i) * width;
    const extent_t row = ids[i] - first_row;
    if (row >= 0 && row < rows)
      std::copy_n(table.data() + row * width, width, to);
    else
      std::fill_n(to, width, T(0));
  }
}

template <class T, class G>
void embedding_backward(host_exec, view<T> dout, std::span<const std::int32_t> ids, std::int64_t first_row, view<G> dtable) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dtable), width = cols_of(dtable);
  require_matrix("embedding_backward", "dout", dout, extent_t(ids.size()), width);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const extent_t row = ids[i] - first_row;
    if (row < 0 || row >= rows) continue;
    const T* MOEFOLD_RESTRICT const from = dout.data() + extent_t(i) * width;
    G* MOEFOLD_RESTRICT const to = dtable.data() + row * width;
    for (extent_t c = 0; c < width; ++c) to[c] = G(A(to[c]) + A(from[c]));
  }
}

}  // namespace moefold
