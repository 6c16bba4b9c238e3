#pragma once
// A gate for each row: one learned number, between 0 and 1, that scales the output of a layer by what the layer was given.
//
//   x, z [n, H]   w [1, H]   ->   opening [n] = sigmoid(x . w)      y = opening * z
//   backward: dz = opening * dy                        slope = (dy . z) opening (1 - opening)      dx += slope * w      dw += slope * x
#include <moefold/ops/exp.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

/// d loss / d (x . w), of a row where `along` is dy . z.
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
  require_matrix("row_gate_forward", "z", z, rows, width);
  require_count("row_gate_forward", "w", w.size(), width);
  require_count("row_gate_forward", "opening", opening.size(), rows);
  const T* const along = w.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T* const in = x.data() + r * width;
    const T* const from = z.data() + r * width;
    T* const to = y.data() + r * width;
    const A open = logistic(lane_sum<A>(width, [=](extent_t c) { return A(in[c]) * A(along[c]); }));
    for (extent_t c = 0; c < width; ++c) to[c] = T(open * A(from[c]));
    opening.data()[r] = open;
  }
}

/// out = opening * in, row by row: the gradient of z from that of y. out may be the memory of in.
template <class T>
void scale_rows(host_exec, input<T> in, input<accumulate_t<T>> opening, view<T> out) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("scale_rows", "in", in, rows, width);
  require_count("scale_rows", "opening", opening.size(), rows);
  for (extent_t r = 0; r < rows; ++r)
    for (extent_t c = r * width; c < (r + 1) * width; ++c) out.data()[c] = T(opening.data()[r] * A(in.data()[c]));
}

/// What x and w gain by the gate: dx and dw are added to.
template <class T, class G>
void row_gate_backward(host_exec, input<T> dy, input<T> z, input<T> x, input<T> w, input<accumulate_t<T>> opening, view<T> dx, view<G> dw) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_matrix("row_gate_backward", "dy", dy, rows, width);
  require_matrix("row_gate_backward", "z", z, rows, width);
  require_matrix("row_gate_backward", "x", x, rows, width);
  require_count("row_gate_backward", "w", w.size(), width);
  require_count("row_gate_backward", "opening", opening.size(), rows);
  require_count("row_gate_backward", "dw", dw.size(), width);
  const T* const gate = w.data();
  G* const to = dw.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T *const d = dy.data() + r * width, *const made = z.data() + r * width, *const in = x.data() + r * width;
    T* const out = dx.data() + r * width;
    const A along = lane_sum<A>(width, [=](extent_t c) { return A(d[c]) * A(made[c]); });
    const A slope = row_gate_slope(along, opening.data()[r]);
    for (extent_t c = 0; c < width; ++c) {
      out[c] = T(A(out[c]) + slope * A(gate[c]));
      to[c] += slope * A(in[c]);
    }
  }
}

}  // namespace moefold
