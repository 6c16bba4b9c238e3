#pragma once
// Element types: the storage type bf16, a run-time name for every element type that travels between ranks (dtype),
// and accumulate_t<T>, the type in which arithmetic on T is done. The same bits on host and device.
#include <moefold/core/error.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace moefold {

/// bfloat16 as 16 bits of storage: the upper half of an IEEE float. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  MOEFOLD_HD constexpr explicit bf16(float value) : bits(round(std::bit_cast<std::uint32_t>(value))) {}
  MOEFOLD_HD constexpr operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

 private:
  MOEFOLD_HD static constexpr std::uint16_t round(std::uint32_t wide) {
    if ((wide & 0x7fffffffu) > 0x7f800000u) return std::uint16_t((wide >> 16) | 0x0040u);  // a quiet NaN of the same sign
    return std::uint16_t((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
  }
};

enum class dtype : std::uint8_t { fp64, fp32, bf16, int64, int32, uint8, fp8_e4m3, fp8_e5m2 };

constexpr const char* name_of(dtype type) {
  switch (type) {
    case dtype::fp64: return "fp64";
    case dtype::fp32: return "fp32";
    case dtype::bf16: return "bf16";
    case dtype::int64: return "int64";
    case dtype::int32: return "int32";
    case dtype::uint8: return "uint8";
    case dtype::fp8_e4m3: return "fp8_e4m3";  // core/fp8.hpp
    case dtype::fp8_e5m2: return "fp8_e5m2";
  }
  return "?";
}

/// Bytes of one element.
constexpr std::size_t size_of(dtype type) {
  switch (type) {
    case dtype::fp64:
    case dtype::int64: return 8;
    case dtype::fp32:
    case dtype::int32: return 4;
    case dtype::bf16: return 2;
    case dtype::uint8:
    case dtype::fp8_e4m3:
    case dtype::fp8_e5m2: return 1;
  }
  return 0;
}

template <class T>
struct dtype_traits;
template <>
struct dtype_traits<double> {
  static constexpr dtype value = dtype::fp64;
  using accumulate = double;
};
template <>
struct dtype_traits<float> {
  static constexpr dtype value = dtype::fp32;
  using accumulate = float;
};
template <>
struct dtype_traits<bf16> {
  static constexpr dtype value = dtype::bf16;
  using accumulate = float;
};
template <>
struct dtype_traits<std::int64_t> {
  static constexpr dtype value = dtype::int64;
  using accumulate = std::int64_t;
};
template <>
struct dtype_traits<std::int32_t> {
  static constexpr dtype value = dtype::int32;
  using accumulate = std::int32_t;
};
template <>
struct dtype_traits<std::uint8_t> {
  static constexpr dtype value = dtype::uint8;
  using accumulate = std::uint8_t;
};

template <class T>
inline constexpr dtype dtype_of = dtype_traits<std::remove_const_t<T>>::value;

/// The type in which sums over T are made: fp32 for bf16 and fp32, fp64 in an fp64 run, an integer for itself.
template <class T>
using accumulate_t = typename dtype_traits<std::remove_const_t<T>>::accumulate;

/// Types a communicator carries.
template <class T>
concept element = requires {
  dtype_traits<std::remove_const_t<T>>::value;
};

}  // namespace moefold
