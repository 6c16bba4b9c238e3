#pragma once
// Numbers that no gradient has: whether one is an infinity, a NaN, or so large (2^64) that fp32 does not hold its square, which element is the first, and
// their removal. One pass over the bits, without a branch per element, so that looking at every gradient of every step costs less than summing it.
//
//   fp32   s eeeeeeee m..m     all e set: infinity or NaN     (bits & exponent) + lowest exponent bit carries into s exactly then
//                              e >= 191: beyond 2^64          (bits & exponent) + 65 * lowest exponent bit likewise
#include <moefold/core/exec.hpp>
#include <moefold/core/scalar.hpp>
#include <moefold/core/shape.hpp>
#include <moefold/tensor/view.hpp>

#include <algorithm>
#include <bit>
#include <span>
#include <string>

namespace moefold {

/// What to do about gradients that are not bounded (is_bounded). A run can do without the look (`ignore`), know of them before they are summed (`find`: the
/// caller stops or skips the step; parameters and optimizer state are untouched until update is called), or go on without them (`zero`).
enum class bad_gradients : std::uint8_t { ignore, find, zero };

/// The first element that is not bounded, of one rank's own gradients of a step.
struct bad_gradient {
  std::size_t entry = 0;  // of the parameter store
  std::string parameter;
  extent_t index = 0;  // within this rank's part of the parameter
  double value = 0;
  extent_t count = 0;  // bad elements of this rank, in all parameters
};

namespace detail {

template <std::size_t Bytes>
struct float_bits;
template <>
struct float_bits<2> {  // bf16
  using word = std::uint16_t;
  static constexpr word exponent = 0x7f80u, lowest = 0x0080u, beyond = 0x2080u;
};
template <>
struct float_bits<4> {
  using word = std::uint32_t;
  static constexpr word exponent = 0x7f800000u, lowest = 0x00800000u, beyond = 0x20800000u;
};
template <>
struct float_bits<8> {
  using word = std::uint64_t;
  static constexpr word exponent = 0x7ff0000000000000u, lowest = 0x0010000000000000u, beyond = 0x3c10000000000000u;
};

/// The sign bit is set if the exponent of x and `carry` together reach it.
template <class T>
constexpr auto carried(T x, typename float_bits<sizeof(T)>::word carry) {
  using bits = float_bits<sizeof(T)>;
  using word = typename bits::word;
  return word((std::bit_cast<word>(x) & bits::exponent) + carry);
}
/// It is set if x is not bounded.
template <class T>
constexpr auto bad_bit(T x) {
  return carried(x, float_bits<sizeof(T)>::beyond);
}

}  // namespace detail

/// Also under compilers that are told to assume finite numbers.
template <class T>
constexpr bool is_finite(T x) {
  using word = typename detail::float_bits<sizeof(T)>::word;
  return (detail::carried(x, detail::float_bits<sizeof(T)>::lowest) >> (8 * sizeof(word) - 1)) == 0;
}
/// Finite, and smaller than 2^64 in magnitude.
template <class T>
constexpr bool is_bounded(T x) {
  using word = typename detail::float_bits<sizeof(T)>::word;
  return (detail::bad_bit(x) >> (8 * sizeof(word) - 1)) == 0;
}

inline void require_bad_out(view<std::int64_t> out) {
  require(out.size() == 2, "moefold: find_bad needs 2 elements in out, the first index and the count, given ", out.size());
}

/// Index of the first element that is not bounded, or x.size().
template <class T>
std::size_t first_bad(host_exec, std::span<const T> x) {
  using word = typename detail::float_bits<sizeof(T)>::word;
  constexpr std::size_t block = 1024;
  for (std::size_t at = 0; at < x.size(); at += block) {
    const std::size_t end = std::min(at + block, x.size());
    const T* const in = x.data();
    word any = 0;
    for (std::size_t i = at; i < end; ++i) any = word(any | detail::bad_bit(in[i]));
    if ((any >> (8 * sizeof(word) - 1)) == 0) continue;
    while (is_bounded(in[at])) ++at;
    return at;
  }
  return x.size();
}

/// Elements that are not bounded.
template <class T>
extent_t count_bad(host_exec, std::span<const T> x) {
  return extent_t(std::count_if(x.begin(), x.end(), [](T v) { return !is_bounded(v); }));
}

/// Both at once, kept where the exec works: out[0] = first_bad, out[1] = count_bad; what a device has found the host reads when it waits anyway.
template <class T>
void find_bad(host_exec e, std::span<T> x, view<std::int64_t> out) {
  require_bad_out(out);
  const std::span<const T> in = x;
  const std::size_t first = first_bad(e, in);
  out[0] = std::int64_t(first), out[1] = count_bad(e, in.subspan(first));
}
template <class T>
void find_bad(host_exec e, view<T> x, view<std::int64_t> out) {
  find_bad(e, x.span(), out);
}

/// Makes them 0.
template <class T>
void zero_bad(host_exec, std::span<T> x) {
  for (T& v : x)
    if (!is_bounded(v)) v = T(0);
}

}  // namespace moefold
