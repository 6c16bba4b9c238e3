#include <moefold/checkpoint/convert.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace moefold;

namespace {

template <class From, class To>
std::vector<To> converted(const std::vector<From>& from, file_dtype from_type, file_dtype to_type) {
  std::vector<To> to(from.size());
  convert(std::as_bytes(std::span(from)), from_type, std::as_writable_bytes(std::span(to)), to_type);
  return to;
}

}  // namespace

TEST_SUITE("checkpoint/convert") {
  TEST_CASE("every bf16 comes back from fp32 and fp64 as it was, over the edges of blocks too") {
    std::vector<std::uint16_t> all;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
      if ((bits & 0x7f80) != 0x7f80 || (bits & 0x7f) == 0 || (bits & 0x40) != 0) all.push_back(std::uint16_t(bits));  // no signalling NaN
    const auto wide = converted<std::uint16_t, float>(all, file_dtype::bf16, file_dtype::f32);
    CHECK(converted<float, std::uint16_t>(wide, file_dtype::f32, file_dtype::bf16) == all);
    const auto wider = converted<std::uint16_t, double>(all, file_dtype::bf16, file_dtype::f64);
    CHECK(converted<double, std::uint16_t>(wider, file_dtype::f64, file_dtype::bf16) == all);
    CHECK(converted<std::uint16_t, std::uint16_t>(all, file_dtype::bf16, file_dtype::bf16) == all);
  }
  TEST_CASE("every half is the number that its bits mean") {
    std::vector<std::uint16_t> all;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) all.push_back(std::uint16_t(bits));
    const auto wide = converted<std::uint16_t, float>(all, file_dtype::f16, file_dtype::f32);
    int wrong = 0;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
      const int exponent = int(bits >> 10 & 31), mantissa = int(bits & 1023);
      const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      const float found = wide[bits];
      const bool good = exponent == 31 ? (mantissa ? std::isnan(found) : std::isinf(found)) : double(std::abs(found)) == size;
      wrong += !(good && std::signbit(found) == (bits >= 0x8000));
    }
    CHECK(wrong == 0);
  }
  TEST_CASE("narrowing rounds to nearest, ties to even") {
    const std::vector<float> from{1.00390625f, 1.01171875f, 1e-45f, -1.0f, 3.4e38f};
    const auto to = converted<float, bf16>(from, file_dtype::f32, file_dtype::bf16);
    for (std::size_t i = 0; i < from.size(); ++i) CHECK(to[i].bits == bf16(from[i]).bits);
    CHECK(converted<double, float>({1 + 0x1p-24, 0.1}, file_dtype::f64, file_dtype::f32) == std::vector<float>{1.0f, 0.1f});
  }
  TEST_CASE("types that do not convert and spans that do not fit are refused") {
    const std::vector<float> one{1};
    std::vector<float> two(2);
    const auto call = [&](file_dtype from, file_dtype to, std::size_t n) {
      convert(std::as_bytes(std::span(one)), from, std::as_writable_bytes(std::span(two).first(n)), to);
    };
    CHECK_NOTHROW(call(file_dtype::f32, file_dtype::f32, 1));
    CHECK_NOTHROW(call(file_dtype::i32, file_dtype::i32, 1));
    CHECK_THROWS_WITH_AS(call(file_dtype::i32, file_dtype::f32, 1), doctest::Contains("I32 is not read as F32"), error);
    CHECK_THROWS_AS(call(file_dtype::f32, file_dtype::f16, 1), error);
    CHECK_THROWS_AS(call(file_dtype::f32, file_dtype::f32, 2), error);
    CHECK_THROWS_AS(call(file_dtype::f64, file_dtype::f32, 1), error);
    static_assert(file_dtype_of(dtype::bf16) == file_dtype::bf16 && file_dtype_of(dtype::int64) == file_dtype::i64);
    static_assert(converts(file_dtype::u8, file_dtype::u8) && !converts(file_dtype::bf16, file_dtype::f16));
  }
}
