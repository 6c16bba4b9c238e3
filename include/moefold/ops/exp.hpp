#pragma once
// exp and the logistic function as straight-line code: no branch, no table, no call, so a loop over them becomes vector instructions,
// and the same lines run on a device. Within 2 ulp of the true value for float and for double.
//
//   exp(x) = 2^n * exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2;  exp(r) by a polynomial, 2^n by its bits
//   results below 2^-125 (float) and 2^-1021 (double) become 0; beyond the largest number they become infinite; NaN stays NaN
//
// Source of the float polynomial: S. L. Moshier, Cephes Mathematical Library, expf.
#include <moefold/core/config.hpp>

#include <bit>
#include <cstdint>
#include <limits>

namespace moefold {

MOEFOLD_HD inline float exp_of(float x) {
  constexpr float low = -86.6f, high = 88.7228317f, round = 0x1.8p23f;  // adding and subtracting `round` rounds to an integer
  const float bounded = x < low ? low : x > high ? high : x;
  const float shifted = bounded * 1.44269504088896341f + round;  // the integer n in the lowest bits
  const float n = shifted - round;
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float half_scale = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 126u) << 23);  // 2^(n - 1): n = 128 fits too
  const float y = p * half_scale * 2.0f;
  return x < low ? 0.0f : x > high ? std::numeric_limits<float>::infinity() : y;
}

MOEFOLD_HD inline double exp_of(double x) {
  constexpr double low = -707.7, high = 709.782712893384, round = 0x1.8p52;
  const double bounded = x < low ? low : x > high ? high : x;
  const double shifted = bounded * 1.44269504088896340736 + round;
  const double n = shifted - round;
  const double r = (bounded - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800;  // Taylor to r^13 / 13!: |r|^14 / 14! < 5e-18
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r * r + r + 1.0;
  const double half_scale = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1022u) << 52);
  const double y = p * half_scale * 2.0;
  return x < low ? 0.0 : x > high ? std::numeric_limits<double>::infinity() : y;
}

/// 1 / (1 + exp(-x)).
template <class A>
MOEFOLD_HD inline A logistic(A x) {
  return A(1) / (A(1) + exp_of(-x));
}

}  // namespace moefold
