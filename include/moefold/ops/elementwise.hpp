#pragma once
// One element at a time: sums, scaling, filling, copies, casts, and the sum of squares behind a gradient norm. Shapes may differ as
// long as the number of elements agrees; an output may be the same memory as an input.
//
//   add          out = a + b           scale   x = s x            copy   out = in
//   accumulate   out += in             fill    x = value          cast   out = U(in)          sum_of_squares   out[0] = sum of x^2, in double
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

template <class T>
void add(host_exec, input<T> a, input<T> b, view<T> out) {
  using A = accumulate_t<T>;
  require_count("add", "a", a.size(), extent_t(out.size()));
  require_count("add", "b", b.size(), extent_t(out.size()));
  const T* const x = a.data();
  const T* const y = b.data();
  T* const z = out.data();
  for (std::size_t i = 0; i < out.size(); ++i) z[i] = T(A(x[i]) + A(y[i]));
}

template <class T, class U>
void accumulate(host_exec, view<T> in, view<U> out) {
  using A = accumulate_t<U>;
  require_count("accumulate", "in", in.size(), extent_t(out.size()));
  const T* const x = in.data();
  U* const y = out.data();
  for (std::size_t i = 0; i < out.size(); ++i) y[i] = U(A(y[i]) + A(x[i]));
}

template <class T>
void scale(host_exec, view<T> x, accumulate_t<T> s) {
  for (T& element : x) element = T(accumulate_t<T>(element) * s);
}

template <class T>
void fill(host_exec, view<T> x, std::type_identity_t<T> value) {
  std::fill_n(x.data(), x.size(), value);
}

template <class T>
void copy(host_exec, input<T> in, view<T> out) {
  require_count("copy", "in", in.size(), extent_t(out.size()));
  if (in.size() > 0) std::memmove(out.data(), in.data(), in.bytes());
}

template <class T>
void copy(host_exec e, std::type_identity_t<std::span<const T>> in, std::span<T> out) {
  copy(e, view<const T>(in), view<T>(out));
}

template <class T, class U>
void cast(host_exec, view<T> in, view<U> out) {
  require_count("cast", "in", in.size(), extent_t(out.size()));
  const T* const x = in.data();
  U* const y = out.data();
  for (std::size_t i = 0; i < out.size(); ++i) y[i] = U(accumulate_t<T>(x[i]));
}

/// Squares are made and summed in double, in a fixed order: the same bits for the same elements. The number stays where the exec works (`out`, one
/// element, assigned); on the host it may also be returned.
template <class T>
double sum_of_squares(host_exec, std::span<T> x) {
  const T* const in = x.data();
  return lane_sum<double>(extent_t(x.size()), [=](extent_t i) { return double(in[i]) * double(in[i]); });
}
template <class T>
double sum_of_squares(host_exec e, view<T> x) {
  return sum_of_squares(e, x.span());
}
template <class T>
void sum_of_squares(host_exec e, std::span<T> x, view<double> out) {
  require_count("sum_of_squares", "out", out.size(), 1);
  out[0] = sum_of_squares(e, x);
}
template <class T>
void sum_of_squares(host_exec e, view<T> x, view<double> out) {
  sum_of_squares(e, x.span(), out);
}

}  // namespace moefold
