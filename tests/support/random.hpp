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

}  // namespace moefold::test
