#pragma once
// Root-mean-square normalisation of every row, with a gain per column; alone, or of a sum that is kept too (the residual stream of a block).
//
//   x [rows, H]  gain [H]  ->  rstd [rows] = 1 / sqrt(mean(x^2) + eps)    y [rows, H] = x * rstd * gain
//   backward:  g = dy * gain;   dx = rstd * (g - x * rstd^2 * mean(g x));   dgain += sum over rows of dy * x * rstd
//   residual:  sum = x + y, rounded;   normed = the same of sum
//
// Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467.
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

/// 1 / root mean square of a row of `width` elements, of which `squares` is the sum of squares.
template <class A>
MOEFOLD_HD inline A rms_norm_rstd(A squares, extent_t width, A eps) {
  return A(1) / std::sqrt(squares / A(width) + eps);
}
template <class A>
MOEFOLD_HD inline A rms_norm_value(A x, A rstd, A gain) {
  return x * rstd * gain;
}
/// How much of x there is in the row's gradient, of which `sum` is the sum of dy * gain * x.
template <class A>
MOEFOLD_HD inline A rms_norm_along(A sum, A rstd, extent_t width) {
  return sum * rstd * rstd / A(width);
}
template <class A>
MOEFOLD_HD inline A rms_norm_slope(A dy, A x, A gain, A rstd, A along) {
  return rstd * (dy * gain - x * along);
}

/// y may be the memory of x.
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
    const A s = rms_norm_rstd(squares, width, A(eps));
    for (extent_t c = 0; c < width; ++c) out[c] = T(rms_norm_value(A(in[c]), s, A(g[c])));
    rstd.data()[r] = s;
  }
}

/// sum = x + y, and normed is its norm. sum may be the memory of x or of y.
template <class T>
void residual_rms_norm_forward(host_exec e, input<T> x, input<T> y, input<T> gain, double eps, view<T> sum, output<T> normed,
                               view<accumulate_t<T>> rstd) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(sum), width = cols_of(sum);
  require_matrix("residual_rms_norm_forward", "x", x, rows, width);
  require_matrix("residual_rms_norm_forward", "y", y, rows, width);
  require_matrix("residual_rms_norm_forward", "normed", normed, rows, width);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const a = x.data() + r * width;
    const T* const b = y.data() + r * width;
    T* const out = sum.data() + r * width;
    for (extent_t c = 0; c < width; ++c) out[c] = T(A(a[c]) + A(b[c]));
  }
  rms_norm_forward(e, view<const T>(sum), gain, eps, normed, rstd);
}

/// dx may be the memory of dy.
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
    const A along = rms_norm_along(lane_sum<A>(width, [=](extent_t c) { return A(d[c]) * A(g[c]) * A(in[c]); }), s, width);
    for (extent_t c = 0; c < width; ++c) sum[c] += A(d[c]) * A(in[c]) * s;  // before dx: dx may be dy's memory
    for (extent_t c = 0; c < width; ++c) out[c] = T(rms_norm_slope(A(d[c]), A(in[c]), A(g[c]), s, along));
  }
  for (extent_t c = 0; c < width; ++c) dgain.data()[c] = G(A(dgain.data()[c]) + sum[c]);
}

}  // namespace moefold
