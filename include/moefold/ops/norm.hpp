#pragma once
// Root-mean-square normalisation of every row, with a gain per column.
//
//   x [rows, H]  gain [H]  ->  rstd [rows] = 1 / sqrt(mean(x^2) + eps)    y [rows, H] = x * rstd * gain
//   backward:  g = dy * gain;   dx = rstd * (g - x * rstd^2 * mean(g x));   dgain += sum over rows of dy * x * rstd
//
// Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

template <class T>
void rms_norm_forward(host_exec, input<T> x, input<T> gain, double eps, view<T> y, view<accumulate_t<T>> rstd) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_matrix("rms_norm_forward", "x", x, rows, width);
  require_count("rms_norm_forward", "gain", gain.size(), width);
  require_count("rms_norm_forward", "rstd", rstd.size(), rows);
  const T* const g = gain.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T* const in = x.data() + r * width;
    T* const out = y.data() + r * width;
    const A squares = lane_sum<A>(width, [=](extent_t c) { return A(in[c]) * A(in[c]); });
    const A s = A(1) / std::sqrt(squares / A(width) + A(eps));
    for (extent_t c = 0; c < width; ++c) out[c] = T(A(in[c]) * s * A(g[c]));
    rstd.data()[r] = s;
  }
}

template <class T, class G>
void rms_norm_backward(host_exec e, input<T> dy, input<T> x, input<T> gain, input<accumulate_t<T>> rstd, view<T> dx, view<G> dgain) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_matrix("rms_norm_backward", "dy", dy, rows, width);
  require_matrix("rms_norm_backward", "x", x, rows, width);
  require_count("rms_norm_backward", "gain", gain.size(), width);
  require_count("rms_norm_backward", "dgain", dgain.size(), width);
  require_count("rms_norm_backward", "rstd", rstd.size(), rows);
  scratch<host_exec> local(e);
  A* MOEFOLD_RESTRICT const sum = local.take<A>(width).data();  // this call's share of dgain, rounded to G once
  std::fill_n(sum, width, A(0));
  const T* const g = gain.data();
  for (extent_t r = 0; r < rows; ++r) {
    const T* const in = x.data() + r * width;
    const T* const d = dy.data() + r * width;
    T* const out = dx.data() + r * width;
    const A s = rstd.data()[r];
    const A along = lane_sum<A>(width, [=](extent_t c) { return A(d[c]) * A(g[c]) * A(in[c]); }) * s * s / A(width);
    for (extent_t c = 0; c < width; ++c) sum[c] += A(d[c]) * A(in[c]) * s;  // before dx: dx may be dy's memory
    for (extent_t c = 0; c < width; ++c) out[c] = T(s * (A(d[c]) * A(g[c]) - A(in[c]) * along));
  }
  for (extent_t c = 0; c < width; ++c) dgain.data()[c] = G(A(dgain.data()[c]) + sum[c]);
}

}  // namespace moefold
