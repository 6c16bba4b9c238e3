#pragma once
// Softmax of every row, shifted by the row's maximum.
//
//   x [rows, n]  ->  y = exp(x - max) / sum exp(x - max)          dx = y * (dy - sum(dy y))
#include <moefold/ops/exp.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

template <class T>
void softmax_forward(host_exec, input<T> x, view<T> y) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(y), n = cols_of(y);
  require_matrix("softmax_forward", "x", x, rows, n);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const in = x.data() + r * n;
    T* const out = y.data() + r * n;
    const A top = lane_max<A>(n, [=](extent_t c) { return in[c]; });
    if constexpr (std::is_same_v<T, A>) {
      for (extent_t c = 0; c < n; ++c) out[c] = exp_of(in[c] - top);
      const A inverse = A(1) / lane_sum<A>(n, [=](extent_t c) { return out[c]; });
      for (extent_t c = 0; c < n; ++c) out[c] *= inverse;
    } else {  // out cannot hold the exponentials: they are made twice and rounded once
      const A inverse = A(1) / lane_sum<A>(n, [=](extent_t c) { return exp_of(A(in[c]) - top); });
      for (extent_t c = 0; c < n; ++c) out[c] = T(exp_of(A(in[c]) - top) * inverse);
    }
  }
}

template <class T>
void softmax_backward(host_exec, input<T> dy, input<T> y, view<T> dx) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), n = cols_of(dx);
  require_matrix("softmax_backward", "dy", dy, rows, n);
  require_matrix("softmax_backward", "y", y, rows, n);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const d = dy.data() + r * n;
    const T* const p = y.data() + r * n;
    T* const out = dx.data() + r * n;
    const A along = lane_sum<A>(n, [=](extent_t c) { return A(d[c]) * A(p[c]); });
    for (extent_t c = 0; c < n; ++c) out[c] = T(A(p[c]) * (A(d[c]) - along));
  }
}

}  // namespace moefold
