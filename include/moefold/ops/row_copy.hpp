#pragma once
// Single rows of elements, as permutations and dispatchers move them: copy one, clear one, add several up in a fixed order.
//
//   copy_row   to = from        zero_row   to = 0        sum_rows   out = row_of(0) + row_of(1) + .. , a null pointer adds nothing
//   put_wide   a number of accumulate_t<T> into wide_lanes<T> elements of a row, bit by bit; get_wide reads it back. Such elements are only moved,
//              never added: in bf16 a number takes two elements, in fp32 and fp64 one, which is the number itself.
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

template <class T>
inline void copy_row(const T* from, T* to, extent_t width) {
  std::memcpy(to, from, std::size_t(width) * sizeof(T));
}
template <class T>
inline void zero_row(T* to, extent_t width) {
  for (extent_t c = 0; c < width; ++c) to[c] = T(0);
}

/// Elements of T that hold one number of accumulate_t<T>.
template <class T>
inline constexpr extent_t wide_lanes = extent_t(sizeof(accumulate_t<T>) / sizeof(T));
template <class T>
MOEFOLD_HD inline void put_wide(accumulate_t<T> value, T* to) {
  std::memcpy(static_cast<void*>(to), &value, sizeof value);
}
template <class T>
MOEFOLD_HD inline accumulate_t<T> get_wide(const T* from) {
  accumulate_t<T> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// out = sum of the rows row_of(0) .. row_of(k - 1), in that order, in accumulate_t; a null pointer adds nothing. Two rows at a time into out where
/// it can hold the sum (nothing is faster on the host); else column block by column block in registers.
template <class T, class RowOf>
inline void sum_rows(extent_t width, extent_t k, RowOf row_of, T* out) {
  using A = accumulate_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    extent_t j = 0;
    const auto next = [&]() -> const T* {
      const T* row = nullptr;
      while (row == nullptr && j < k) row = row_of(j++);
      return row;
    };
    const T *a = next(), *b = next();
    if (a == nullptr) return zero_row(out, width);
    if (b == nullptr) return copy_row(a, out, width);
    for (extent_t c = 0; c < width; ++c) out[c] = a[c] + b[c];
    while ((a = next()) != nullptr) {
      if ((b = next()) != nullptr)
        for (extent_t c = 0; c < width; ++c) out[c] = (out[c] + a[c]) + b[c];
      else
        for (extent_t c = 0; c < width; ++c) out[c] += a[c];
    }
  } else {
    constexpr extent_t block = 256 / sizeof(A);
    for (extent_t first = 0; first < width; first += block) {
      const extent_t count = std::min(block, width - first);
      A sum[block] = {};
      for (extent_t j = 0; j < k; ++j)
        if (const T* const in = row_of(j))
          for (extent_t c = 0; c < count; ++c) sum[c] += A(in[first + c]);
      for (extent_t c = 0; c < count; ++c) out[first + c] = T(sum[c]);
    }
  }
}

}  // namespace moefold
