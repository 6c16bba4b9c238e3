#pragma once
// The two 8-bit floating formats of the OCP standard: storage types whose conversions are exact bit arithmetic, the same on host and device.
//
//   fp8_e4m3   s eeee mmm   bias 7    largest 448     smallest 2^-9    no infinity; NaN is s 1111 111       weights and activations
//   fp8_e5m2   s eeeee mm   bias 15   largest 57344   smallest 2^-16   infinity and NaN as in IEEE 754      gradients
// From float: to nearest, ties to even, subnormals included; what is too large, infinity too, becomes the largest number; NaN stays NaN.
// Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", arXiv 2209.05433.
#include <moefold/core/scalar.hpp>

namespace moefold {

namespace detail {

template <int Exponent, int Mantissa, std::uint8_t Largest>
struct small_float {
  static constexpr int bias = (1 << (Exponent - 1)) - 1;
  static constexpr std::uint32_t hidden = 1u << 23, mantissa_mask = hidden - 1;

  MOEFOLD_HD static constexpr std::uint8_t encode(float value) {
    const std::uint32_t wide = std::bit_cast<std::uint32_t>(value), magnitude = wide & 0x7fffffffu;
    const std::uint8_t sign = std::uint8_t((wide >> 24) & 0x80u);
    if (magnitude > 0x7f800000u) return std::uint8_t(sign | 0x7fu);
    const int below = 1 - bias - (int(magnitude >> 23) - 127);  // binades under the smallest normal number; 0 or less: a normal one
    std::uint32_t code = 0;
    if (below <= 0) {
      code = rounded(magnitude, 23 - Mantissa) - (std::uint32_t(127 - bias) << Mantissa);
    } else if (below <= Mantissa + 1) {
      code = rounded((magnitude & mantissa_mask) | hidden, 23 - Mantissa + below);
    }
    return std::uint8_t(sign | (code < Largest ? code : Largest));
  }
  MOEFOLD_HD static constexpr float decode(std::uint8_t bits) {
    const std::uint32_t sign = std::uint32_t(bits & 0x80u) << 24, code = bits & 0x7fu, exponent = code >> Mantissa;
    const std::uint32_t mantissa = code & ((1u << Mantissa) - 1);
    if (code > Largest) {  // e5m2 has an infinity, just above the largest number
      const bool infinity = Exponent == 5 && mantissa == 0;
      return std::bit_cast<float>(sign | (infinity ? 0x7f800000u : 0x7fc00000u));
    }
    if (exponent > 0) return std::bit_cast<float>(sign | ((exponent + std::uint32_t(127 - bias)) << 23) | (mantissa << (23 - Mantissa)));
    const float unit = std::bit_cast<float>(std::uint32_t(127 + 1 - bias - Mantissa) << 23);
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(float(mantissa) * unit));
  }

 private:
  /// Without its last `bits` bits, to nearest, ties to even.
  MOEFOLD_HD static constexpr std::uint32_t rounded(std::uint32_t x, int bits) {
    return (x + ((1u << (bits - 1)) - 1) + ((x >> bits) & 1u)) >> bits;
  }
};

}  // namespace detail

struct fp8_e4m3 {
  std::uint8_t bits = 0;
  static constexpr float largest = 448;

  fp8_e4m3() = default;
  MOEFOLD_HD constexpr explicit fp8_e4m3(float value) : bits(detail::small_float<4, 3, 0x7e>::encode(value)) {}
  MOEFOLD_HD constexpr operator float() const { return detail::small_float<4, 3, 0x7e>::decode(bits); }
};

struct fp8_e5m2 {
  std::uint8_t bits = 0;
  static constexpr float largest = 57344;

  fp8_e5m2() = default;
  MOEFOLD_HD constexpr explicit fp8_e5m2(float value) : bits(detail::small_float<5, 2, 0x7b>::encode(value)) {}
  MOEFOLD_HD constexpr operator float() const { return detail::small_float<5, 2, 0x7b>::decode(bits); }
};

template <>
struct dtype_traits<fp8_e4m3> {
  static constexpr dtype value = dtype::fp8_e4m3;
  using accumulate = float;
};
template <>
struct dtype_traits<fp8_e5m2> {
  static constexpr dtype value = dtype::fp8_e5m2;
  using accumulate = float;
};

/// A format to which the inputs of a product are quantised.
template <class F>
concept fp8_format = std::is_same_v<F, fp8_e4m3> || std::is_same_v<F, fp8_e5m2>;

}  // namespace moefold
