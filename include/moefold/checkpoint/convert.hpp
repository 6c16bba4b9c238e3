#pragma once
// Numbers of one floating type as numbers of another: what a file holds as what a rank computes with, and back. Widening is exact, narrowing rounds to
// nearest even; the same type is copied bit by bit.
//
//   from  F64 F32 F16 BF16     to  F64 F32 BF16          F64 -> BF16 goes through F32
#include <moefold/checkpoint/safetensors.hpp>
#include <moefold/core/scalar.hpp>

namespace moefold {

/// IEEE half precision, as files hold it.
struct stored_half {
  std::uint16_t bits = 0;
  operator float() const {
    const std::uint32_t rest = std::uint32_t(bits & 0x7fffu) << 13, sign = std::uint32_t(bits & 0x8000u) << 16;
    if ((bits & 0x7c00u) == 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | rest);
    return std::bit_cast<float>(sign |
                                std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) * 0x1p112f));  // the other bias; subnormals too
  }
};

/// The type of a file that holds numbers of this type as they are. Throws config_error for those that only travel between ranks.
constexpr file_dtype file_dtype_of(dtype type) {
  switch (type) {
    case dtype::fp64: return file_dtype::f64;
    case dtype::fp32: return file_dtype::f32;
    case dtype::bf16: return file_dtype::bf16;
    case dtype::int64: return file_dtype::i64;
    case dtype::int32: return file_dtype::i32;
    case dtype::uint8: return file_dtype::u8;
    case dtype::fp8_e4m3: return file_dtype::f8_e4m3;
    case dtype::fp8_e5m2: return file_dtype::f8_e5m2;
  }
  throw config_error("moefold: no file type for an unknown dtype");
}

constexpr bool converts(file_dtype from, file_dtype to) {
  const auto floats = [](file_dtype t) { return t == file_dtype::f64 || t == file_dtype::f32 || t == file_dtype::bf16; };
  return from == to || ((floats(from) || from == file_dtype::f16) && floats(to));
}

namespace detail {

template <class From, class To>
void convert_blocks(std::span<const std::byte> from, std::span<std::byte> to) {
  constexpr std::size_t most = 1024;
  std::array<From, most> in;
  std::array<To, most> out;
  const std::size_t all = from.size() / sizeof(From);
  for (std::size_t first = 0; first < all; first += most) {
    const std::size_t n = std::min(most, all - first);
    load_all(from.subspan(first * sizeof(From), n * sizeof(From)), std::span(in).first(n));
    for (std::size_t i = 0; i < n; ++i) {
      if constexpr (std::same_as<To, double> || std::same_as<From, To>)
        out[i] = To(in[i]);
      else
        out[i] = To(float(in[i]));
    }
    store_all(to.subspan(first * sizeof(To), n * sizeof(To)), std::span<const To>(out).first(n));
  }
}
template <class From>
void convert_from(std::span<const std::byte> from, file_dtype type, std::span<std::byte> to) {
  switch (type) {
    case file_dtype::f64: return convert_blocks<From, double>(from, to);
    case file_dtype::f32: return convert_blocks<From, float>(from, to);
    default: return convert_blocks<From, bf16>(from, to);
  }
}

}  // namespace detail

/// Converts all numbers of `from` into `to`, which has room for exactly as many. The types convert.
inline void convert(std::span<const std::byte> from, file_dtype from_type, std::span<std::byte> to, file_dtype to_type) {
  require(converts(from_type, to_type), "moefold: ", name_of(from_type), " is not read as ", name_of(to_type), "; use F64, F32 or BF16");
  require(from.size() % bytes_of(from_type) == 0 && from.size() / bytes_of(from_type) * bytes_of(to_type) == to.size(),
          "moefold: ", from.size(), " bytes of ", name_of(from_type), " do not fill ", to.size(), " bytes of ", name_of(to_type));
  if (from_type == to_type) return load_all(from, to);
  switch (from_type) {
    case file_dtype::f64: return detail::convert_from<double>(from, to_type, to);
    case file_dtype::f32: return detail::convert_from<float>(from, to_type, to);
    case file_dtype::f16: return detail::convert_from<stored_half>(from, to_type, to);
    default: return detail::convert_from<bf16>(from, to_type, to);
  }
}

}  // namespace moefold
