#pragma once
// Single elements by number, where the number itself is only known to the exec: what a search has found is read without a detour over the host.
//
//   out[i] = x[at[i]], and 0 where at[i] is no element of x
#include <moefold/ops/rows.hpp>

namespace moefold {

template <class T>
MOEFOLD_HD inline double picked(const T* x, std::int64_t size, std::int64_t at) {
  return at >= 0 && at < size ? double(accumulate_t<T>(x[at])) : 0.0;
}

template <class T>
void pick(host_exec, view<T> x, input<std::int64_t> at, view<double> out) {
  require_count("pick", "at", at.size(), extent_t(out.size()));
  for (std::size_t i = 0; i < out.size(); ++i) out.data()[i] = picked(x.data(), std::int64_t(x.size()), at.data()[i]);
}

}  // namespace moefold
