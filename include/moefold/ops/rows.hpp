#pragma once
// What the row-wise operations share: how a view is read as a matrix, how its extents are checked, and sums and maxima in a fixed order
// that the compiler may vectorise although floating-point addition is not associative.
//
//   view [S, B, H]   rows_of = S * B, cols_of = H          the last extent is a row, the leading ones are flattened
//   lane_sum:        terms 0 1 2 .. 31 | 32 33 ..          term i goes to lane i % 32; the lanes are then added pairwise:
//                                                          the same bits on every call, whatever the vector width
#include <moefold/tensor/arena.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace moefold {

/// An input of an operation on T. Not deduced: T follows from the output, so views of const and of non-const T are both welcome.
template <class T>
using input = std::type_identity_t<view<const T>>;
/// A further output of an operation whose first output says what T is.
template <class T>
using output = std::type_identity_t<view<T>>;

template <class T>
constexpr extent_t cols_of(view<T> x) {
  return x.rank() == 0 ? 1 : x.extent(x.rank() - 1);
}
template <class T>
constexpr extent_t rows_of(view<T> x) {
  extent_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.extent(i);
  return rows;
}

/// Throws unless x is a matrix [rows, cols] (leading extents flattened). Costs two comparisons when it is.
template <class T>
constexpr void require_matrix(const char* op, const char* name, view<T> x, extent_t rows, extent_t cols) {
  require(rows_of(x) == rows && cols_of(x) == cols, "moefold: ", op, " needs ", name, " [", rows, ", ", cols,
          "] to fit its other arguments, given [", rows_of(x), ", ", cols_of(x), "]; pass a view of that many rows and columns");
}
inline constexpr void require_count(const char* op, const char* name, std::size_t given, extent_t needed) {
  require(extent_t(given) == needed, "moefold: ", op, " needs ", needed, " elements in ", name, " to fit its other arguments, given ",
          given);
}

/// term(0) + ... + term(n - 1), accumulated in A in a fixed order.
template <class A, class Term>
inline A lane_sum(extent_t n, Term term) {
  constexpr extent_t lanes = 128 / sizeof(A);
  A sum[lanes] = {};
  extent_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (extent_t l = 0; l < lanes; ++l) sum[l] += A(term(i + l));
  for (extent_t l = 0; i + l < n; ++l) sum[l] += A(term(i + l));
  for (extent_t half = lanes / 2; half > 0; half /= 2)
    for (extent_t l = 0; l < half; ++l) sum[l] += sum[l + half];
  return sum[0];
}

/// The largest term(i), -inf if there is none.
template <class A, class Term>
inline A lane_max(extent_t n, Term term) {
  constexpr extent_t lanes = 64 / sizeof(A);
  A most[lanes];
  for (A& m : most) m = -std::numeric_limits<A>::infinity();
  extent_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (extent_t l = 0; l < lanes; ++l) most[l] = most[l] < A(term(i + l)) ? A(term(i + l)) : most[l];
  for (extent_t l = 0; i + l < n; ++l) most[l] = most[l] < A(term(i + l)) ? A(term(i + l)) : most[l];
  for (extent_t half = lanes / 2; half > 0; half /= 2)
    for (extent_t l = 0; l < half; ++l) most[l] = most[l] < most[l + half] ? most[l + half] : most[l];
  return most[0];
}

}  // namespace moefold
