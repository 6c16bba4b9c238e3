#include <moefold/core/scalar.hpp>

#include <moefold/core/rng.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

using namespace moefold;

namespace {

bf16 from_bits(unsigned bits) {
  bf16 x;
  x.bits = std::uint16_t(bits);
  return x;
}
bool is_nan(unsigned bits) { return (bits & 0x7fffu) > 0x7f80u; }

/// Nearest bf16 by comparing distances: the candidates are the truncation and its neighbour away from zero.
std::uint16_t nearest(float value) {
  const unsigned below = std::bit_cast<std::uint32_t>(value) >> 16, above = below + 1;
  const auto magnitude = [](unsigned bits) {  // what comes after the largest finite number counts as 2^128
    return (bits & 0x7fffu) == 0x7f80u ? 0x1p128 : std::abs(double(float(from_bits(bits))));
  };
  const double x = std::abs(double(value)), down = x - magnitude(below), up = magnitude(above) - x;
  if (down == up) return std::uint16_t(below % 2 == 0 ? below : above);
  return std::uint16_t(down < up ? below : above);
}

}  // namespace

TEST_SUITE("core/scalar") {
  TEST_CASE("each of the 65536 bf16 values survives the way through float; NaN stays a NaN of its sign") {
    std::size_t wrong = 0, nans = 0;
    for (unsigned bits = 0; bits < 0x10000u; ++bits) {
      const bf16 back(float(from_bits(bits)));
      if (is_nan(bits)) {
        ++nans;
        wrong += !is_nan(back.bits) || (back.bits & 0x8000u) != (bits & 0x8000u) || !std::isnan(float(back));
      } else {
        wrong += back.bits != bits;
      }
    }
    CHECK(wrong == 0);
    CHECK(nans == 2 * 127);
  }
  TEST_CASE("halfway between two neighbours the even one wins, a step beside it the nearer one: for every pair of finite neighbours") {
    std::size_t wrong = 0;
    for (unsigned sign : {0u, 0x8000u})
      for (unsigned low = 0; low < 0x7f80u; ++low) {  // up to the pair (largest finite, infinity)
        const std::uint32_t half = ((sign | low) << 16) | 0x8000u;
        const unsigned high = low + 1, even = low % 2 == 0 ? low : high;
        wrong += bf16(std::bit_cast<float>(half)).bits != (sign | even);
        wrong += bf16(std::bit_cast<float>(half - 1)).bits != (sign | low);
        wrong += bf16(std::bit_cast<float>(half + 1)).bits != (sign | high);
      }
    CHECK(wrong == 0);
  }
  TEST_CASE("200000 random floats of all magnitudes round to the nearest bf16 by distance") {
    const random_stream numbers(1, "bf16");
    std::size_t wrong = 0;
    for (std::uint64_t i = 0; i < 200000; ++i) {
      const float value = std::bit_cast<float>(std::uint32_t(numbers.bits(i)));
      if (std::isfinite(value)) wrong += bf16(value).bits != nearest(value);
    }
    CHECK(wrong == 0);
  }
  TEST_CASE("the ends: signed zeros, infinity, overflow to infinity, the smallest NaN payload") {
    CHECK(bf16(0.0f).bits == 0);
    CHECK(bf16(-0.0f).bits == 0x8000u);
    CHECK(bf16(std::numeric_limits<float>::infinity()).bits == 0x7f80u);
    CHECK(bf16(-std::numeric_limits<float>::infinity()).bits == 0xff80u);
    CHECK(bf16(std::numeric_limits<float>::max()).bits == 0x7f80u);
    CHECK(is_nan(bf16(std::bit_cast<float>(0x7f800001u)).bits));  // its upper half alone would be infinity
    CHECK(is_nan(bf16(std::bit_cast<float>(0xffffffffu)).bits));  // rounding up would wrap to zero
  }
  TEST_CASE("conversion is a constant expression") {
    static_assert(bf16(1.0f).bits == 0x3f80u && float(bf16(1.00390625f)) == 1.0f && float(bf16(1.01171875f)) == 1.015625f);
    static_assert(sizeof(bf16) == 2);
  }

  TEST_CASE("every element type has its name, its run-time value and the type of its sums") {
    static_assert(dtype_of<double> == dtype::fp64 && dtype_of<const float> == dtype::fp32 && dtype_of<bf16> == dtype::bf16);
    static_assert(dtype_of<std::int64_t> == dtype::int64 && dtype_of<std::int32_t> == dtype::int32 &&
                  dtype_of<std::uint8_t> == dtype::uint8);
    static_assert(std::is_same_v<accumulate_t<const bf16>, float> && std::is_same_v<accumulate_t<float>, float>);
    static_assert(std::is_same_v<accumulate_t<double>, double> && std::is_same_v<accumulate_t<std::int32_t>, std::int32_t>);
    static_assert(element<bf16> && element<const double> && !element<char> && !element<void*> && !element<long double>);
    std::string names;
    for (const dtype type : {dtype::fp64, dtype::fp32, dtype::bf16, dtype::int64, dtype::int32, dtype::uint8})
      names += sentence(name_of(type), ' ');
    CHECK(names == "fp64 fp32 bf16 int64 int32 uint8 ");
  }
}
