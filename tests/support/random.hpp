#pragma once
// Reproducible inputs for tests: a tensor of standard normal numbers that depend on its seed alone.
#include <moefold/core/rng.hpp>
#include <moefold/tensor/tensor.hpp>

namespace moefold::test {

template <class T>
tensor<T> random_tensor(const shape& extents, std::uint64_t seed, double scale = 1.0) {
  tensor<T> out(extents);
  const random_stream numbers(seed, "random_tensor");
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = T(scale * numbers.normal(i));
  return out;
}

template <class T>
tensor<std::remove_const_t<T>> copy_of(view<T> x) {
  tensor<std::remove_const_t<T>> out(x.shape());
  std::copy(x.begin(), x.end(), out.begin());
  return out;
}

/// Every element as U: a bf16 tensor's floats, or floats rounded to bf16.
template <class U, class T>
tensor<U> converted(const tensor<T>& x) {
  tensor<U> out(x.shape());
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = U(accumulate_t<T>(x[i]));
  return out;
}
/// How many elements of `narrow` are not the rounding of `wide`, bit for bit: 0 where an operation works in fp32 and rounds its result once.
inline std::size_t not_rounded_once(const tensor<bf16>& narrow, const tensor<float>& wide) {
  std::size_t wrong = narrow.size() != wide.size();
  for (std::size_t i = 0; i < wide.size() && i < narrow.size(); ++i) wrong += narrow[i].bits != bf16(wide[i]).bits;
  return wrong;
}

}  // namespace moefold::test
