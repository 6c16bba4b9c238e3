#pragma once
// Quantisation of a whole tensor to 8 bits by one scale, and back: q = F(x * scale), x' = q / scale. The host reference of a device kernel that
// multiplies the 8-bit values: scales are powers of two and a quantised value fits any wider type, so products of x' are the same numbers.
//
//   x any shape, T fp32, bf16 or fp64    q the same shape, F fp8_e4m3 or fp8_e5m2    scale: core/scaling.hpp
#include <moefold/core/scaling.hpp>
#include <moefold/ops/rows.hpp>

#include <cmath>

namespace moefold {

/// Largest magnitude in x; 0 of nothing. NaN is passed over: the quantised tensor carries it on.
template <class T>
float amax_of(host_exec, view<const T> x) {
  float most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float magnitude = std::abs(float(x[i]));
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

template <fp8_format F, class T>
void quantise(host_exec, view<const T> x, float scale, view<F> q) {
  require(q.size() == x.size(), "moefold: quantise needs as many elements to write as to read, given ", q.size(), " and ", x.size());
  for (std::size_t i = 0; i < x.size(); ++i) q[i] = F(float(x[i]) * scale);
}

template <fp8_format F, class T>
void dequantise(host_exec, view<const F> q, float scale, view<T> x) {
  require(q.size() == x.size(), "moefold: dequantise needs as many elements to write as to read, given ", x.size(), " and ", q.size());
  const float back = 1 / scale;
  for (std::size_t i = 0; i < q.size(); ++i) x[i] = T(float(q[i]) * back);
}

/// x' = F(x * scale) / scale in one pass: what the product of 8-bit values sees of x. x and rounded may be the same memory.
template <fp8_format F, class T>
void round_to(host_exec, view<const T> x, float scale, view<T> rounded) {
  require(rounded.size() == x.size(), "moefold: round_to needs as many elements to write as to read, given ", rounded.size(), " and ",
          x.size());
  const float back = 1 / scale;
  for (std::size_t i = 0; i < x.size(); ++i) rounded[i] = T(float(F(float(x[i]) * scale)) * back);
}

}  // namespace moefold
