#pragma once
// What a projection adds to every row. It is put down first and the product adds to it (beta = 1): one rounding, and no pass of its own over y.
//
//   forward    y [rows, width] = bias [width] in every row              then   gemm_nt(e, x, w, y, 1)
//   backward   dbias [width] += sum over rows of dy [rows, width]
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

/// y is assigned.
template <class T>
void bias_forward(host_exec, input<T> bias, view<T> y) {
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_count("bias_forward", "bias", bias.size(), width);
  for (extent_t r = 0; r < rows; ++r) std::copy_n(bias.data(), width, y.data() + r * width);
}

/// dbias is accumulated: the rows' sum in accumulate_t, in the order of the rows, rounded to G once.
template <class T, class G>
void bias_backward(host_exec e, view<T> dy, view<G> dbias) {
  using A = accumulate_t<std::remove_const_t<T>>;
  const extent_t rows = rows_of(dy), width = cols_of(dy);
  require_count("bias_backward", "dbias", dbias.size(), width);
  scratch<host_exec> local(e);
  A* MOEFOLD_RESTRICT const sum = local.take<A>(width).data();
  std::fill_n(sum, width, A(0));
  for (extent_t r = 0; r < rows; ++r) {
    const T* const d = dy.data() + r * width;
    for (extent_t c = 0; c < width; ++c) sum[c] += A(d[c]);
  }
  for (extent_t c = 0; c < width; ++c) dbias.data()[c] = G(A(dbias.data()[c]) + sum[c]);
}

}  // namespace moefold
