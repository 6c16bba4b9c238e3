#include <moefold/core/fp8.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace moefold;

namespace {

/// A number of the format by its definition: sign, exponent and mantissa as text-book arithmetic.
double by_definition(int code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, exponent = (code & 0x7f) >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
  const double sign = code & 0x80 ? -1 : 1;
  return exponent == 0 ? sign * std::ldexp(mantissa, 1 - bias - mantissa_bits)
                       : sign * std::ldexp(1 + std::ldexp(mantissa, -mantissa_bits), exponent - bias);
}

template <class F>
F from_bits(int code) {
  F f;
  f.bits = std::uint8_t(code);
  return f;
}

/// The nearest of all finite codes, ties to the even one, by search.
template <class F>
int nearest(double value, int largest) {
  const double magnitude = std::abs(value);
  int best = 0;
  for (int code = 1; code <= largest; ++code) {
    const double here = std::abs(double(float(from_bits<F>(code))) - magnitude),
                 there = std::abs(double(float(from_bits<F>(best))) - magnitude);
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return best | (std::signbit(value) ? 0x80 : 0);
}

template <class F>
void check_format(int exponent_bits, int mantissa_bits, int largest) {
  for (int code = 0; code < 256; ++code) {
    CAPTURE(code);
    const float value = float(from_bits<F>(code));
    if ((code & 0x7f) <= largest) {
      CHECK(double(value) == by_definition(code, exponent_bits, mantissa_bits));
      CHECK(std::signbit(value) == (code >= 128));
      CHECK(F(value).bits == code);
    }
  }
  CHECK(float(from_bits<F>(largest)) == F::largest);
  // Everything between two neighbours: both halves, the middle, and a float beside each.
  std::vector<float> values;
  for (int code = 0; code < largest; ++code) {
    const float a = float(from_bits<F>(code)), b = float(from_bits<F>(code + 1)), middle = 0.5f * (a + b);
    for (const float v : {a, b, middle, 0.75f * a + 0.25f * b, 0.25f * a + 0.75f * b})
      for (const float towards : {-1e9f, 0.0f, 1e9f}) values.push_back(towards == 0 ? v : std::nextafter(v, towards));
  }
  for (const float v : values)
    for (const float value : {v, -v}) {
      CAPTURE(value);
      CHECK(int(F(value).bits) == nearest<F>(value, largest));
    }
  for (const float value : {F::largest * 1.01f, F::largest * 2, 1e30f, std::numeric_limits<float>::infinity()}) {
    CHECK(float(F(value)) == F::largest);
    CHECK(float(F(-value)) == -F::largest);
  }
  for (const float tiny : {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(), 1e-20f}) {
    CHECK(F(tiny).bits == 0);
    CHECK(F(-tiny).bits == 0x80);
  }
  CHECK(std::isnan(float(F(std::nanf("")))));
  CHECK(std::isnan(float(F(-std::nanf("")))));
}

}  // namespace

TEST_SUITE("core/fp8") {
  TEST_CASE("every code of e4m3 is the number of its definition, and every float goes to the nearest") {
    check_format<fp8_e4m3>(4, 3, 0x7e);
    CHECK(std::isnan(float(from_bits<fp8_e4m3>(0x7f))));
    CHECK(std::isnan(float(from_bits<fp8_e4m3>(0xff))));
  }
  TEST_CASE("every code of e5m2 is the number of its definition, and every float goes to the nearest") {
    check_format<fp8_e5m2>(5, 2, 0x7b);
    CHECK(float(from_bits<fp8_e5m2>(0x7c)) == std::numeric_limits<float>::infinity());
    CHECK(float(from_bits<fp8_e5m2>(0xfc)) == -std::numeric_limits<float>::infinity());
    for (const int code : {0x7d, 0x7e, 0x7f, 0xfd, 0xfe, 0xff}) CHECK(std::isnan(float(from_bits<fp8_e5m2>(code))));
  }
  TEST_CASE("conversions are constant expressions, and communicators may carry the types") {
    static_assert(fp8_e4m3(448.0f).bits == 0x7e && float(fp8_e4m3(0.3f)) == 0.3125f && fp8_e5m2(1.0f).bits == 0x3c);
    static_assert(sizeof(fp8_e4m3) == 1 && element<fp8_e4m3> && element<fp8_e5m2>);
    static_assert(std::is_same_v<accumulate_t<fp8_e4m3>, float> && fp8_format<fp8_e5m2> && !fp8_format<bf16>);
    CHECK(std::string(name_of(dtype_of<fp8_e4m3>)) == "fp8_e4m3");
    CHECK(std::string(name_of(dtype_of<fp8_e5m2>)) == "fp8_e5m2");
  }
}
