#pragma once
// How far apart two tensors are, in the two measures of the numerical contract: relative to the largest element, and by norm.
//
//   largest_error   max |a - b| / max |b|        fp64 mappings and twins
//   norm_error      |a - b|_2 / |b|_2            fp32 mappings: one element near zero does not decide
// Both are absolute where b is zero everywhere, infinite if the sizes differ or anything is not finite.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

namespace moefold::test {

struct distance {
  double difference = 0, size = 0;
  double relative() const { return size > 0 ? difference / size : difference; }
};

template <class A, class B, class Join>
double compare(const A& a, const B& b, Join join) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  distance d;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = double(a[i]), y = double(b[i]);
    if (x == y) {  // equal infinities are equal
      if (std::isfinite(y)) join(d.size, std::abs(y));
      continue;
    }
    if (!std::isfinite(x) || !std::isfinite(y)) return std::numeric_limits<double>::infinity();
    join(d.difference, std::abs(x - y));
    join(d.size, std::abs(y));
  }
  return d.relative();
}

template <class A, class B>
double largest_error(const A& a, const B& b) {
  return compare(a, b, [](double& most, double x) { most = std::max(most, x); });
}
template <class A, class B>
double norm_error(const A& a, const B& b) {
  return compare(a, b, [](double& norm, double x) { norm = std::hypot(norm, x); });
}

/// What rounding alone may do to a short computation in T.
template <class T>
inline constexpr double rounding = 64.0 * double(std::numeric_limits<T>::epsilon());

}  // namespace moefold::test
