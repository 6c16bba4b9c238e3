#pragma once
// A gate of one number per row: how far a row's output is opened is learned from the row's input. The gate of a shared expert's output is one.
//
//   x, z [n, H]   w [1, H]   ->   opening [n] = sigmoid(x . w)     y = opening * z
//   backward, in two halves: what made z comes between them
//     dy, z        ->  dz = opening * dy      slope [n] = (dy . z) * opening * (1 - opening)
//     slope, x, w  ->  dx += slope * w        dw += sum over rows of slope * x
#include <moefold/ops/exp.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

/// d loss / d (x . w) of a row in which dy . z = along.
template <class A>
MOEFOLD_HD inline A row_gate_slope(A along, A opening) {
  return along * opening * (A(1) - opening);
}

/// y may be the memory of z.
template <class T>
void row_gate_forward(host_exec, input<T> x, input<T> w, input<T> z, view<accumulate_t<T>> opening, view<T> y) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_matrix("row_gate_forward", "x", x, rows, width);
  require_count("row_gate_forward", "w", w.size(), width);
  require_matrix("row_gate_forward", "z", z, rows, width);
  require_count("row_gate_forward", "opening", opening.size(), rows);
  const T* const gate = w.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T* const row = x.data() + r * width;
    const T* const in = z.data() + r * width;
    T* const out = y.data() + r * width;
    const A open = logistic(lane_sum<A>(width, [=](extent_t c) { return A(row[c]) * A(gate[c]); }));
    for (extent_t c = 0; c < width; ++c) out[c] = T(open * A(in[c]));
    opening.data()[r] = open;
  }
}

/// dz and slope are assigned. dz may be the memory of dy.
template <class T>
void row_gate_backward(host_exec, input<T> dy, input<T> z, input<accumulate_t<T>> opening, view<T> dz, view<accumulate_t<T>> slope) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dz), width = cols_of(dz);
  require_matrix("row_gate_backward", "dy", dy, rows, width);
  require_matrix("row_gate_backward", "z", z, rows, width);
  require_count("row_gate_backward", "opening", opening.size(), rows);
  require_count("row_gate_backward", "slope", slope.size(), rows);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const d = dy.data() + r * width;
    const T* const in = z.data() + r * width;
    T* const out = dz.data() + r * width;
    const A open = opening.data()[r];
    slope.data()[r] = row_gate_slope(lane_sum<A>(width, [=](extent_t c) { return A(d[c]) * A(in[c]); }), open);
    for (extent_t c = 0; c < width; ++c) out[c] = T(open * A(d[c]));
  }
}

/// dx and dw are accumulated.
template <class T, class G>
void row_gate_accumulate(host_exec, input<accumulate_t<T>> slope, input<T> x, input<T> w, view<T> dx, view<G> dw) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_count("row_gate_accumulate", "slope", slope.size(), rows);
  require_matrix("row_gate_accumulate", "x", x, rows, width);
  require_count("row_gate_accumulate", "w", w.size(), width);
  require_count("row_gate_accumulate", "dw", dw.size(), width);
  const T* const gate = w.data();
  G* const sum = dw.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T* const row = x.data() + r * width;
    T* const out = dx.data() + r * width;
    const A s = slope.data()[r];
    for (extent_t c = 0; c < width; ++c) {
      out[c] = T(A(out[c]) + s * A(gate[c]));
      sum[c] = G(A(sum[c]) + s * A(row[c]));
    }
  }
}

}  // namespace moefold
