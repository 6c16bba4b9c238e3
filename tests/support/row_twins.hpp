#pragma once
// What the tests of device code that moves rows share: choices to sort, and a tensor that is on the host and on the device at once.
#include "device.hpp"

namespace moefold::test {

/// Choices [n, k] at random: some of them dropped, some experts without any.
inline tensor<std::int32_t> choices(extent_t n, extent_t k, extent_t experts, bool drop) {
  tensor<std::int32_t> index({n, k});
  const random_stream numbers(7, "choices");
  for (std::size_t s = 0; s < index.size(); ++s)
    index[s] = drop && numbers.bits(s) % 5 == 0 ? -1 : std::int32_t(numbers.bits(s) / 7 % std::uint64_t(experts) / 2 * 2 % experts);
  return index;
}

template <class A, class B>
bool same(const A& a, const B& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}
template <class T>
bool same(const tensor<T>& a, const tensor<T>& b) {
  return same(a.view(), b.view());
}

template <class T>
inline constexpr double limit = std::is_same_v<T, bf16>  ? 2e-2
                              : std::is_same_v<T, float> ? 1e-5
                                                         : 1e-12;

/// `rows` x `width` elements at random on host and device; `shifted`: there they begin one element behind an aligned address.
template <class T>
struct pair_of {
  tensor<T> host;
  device_tensor<T> memory;
  extent_t shift;

  pair_of(shape s, std::uint64_t seed, bool shifted) : host(random_tensor<T>(s, seed)), memory({s.size() + 1}), shift(shifted) {
    settle(cudaMemcpy(memory.data() + shift, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "a test input");
  }
  pair_of(shape s, bool shifted)
      : host(s, T(std::numeric_limits<float>::quiet_NaN())), memory(poisoned<T>({s.size() + 1})), shift(shifted) {}
  view<T> device() { return {memory.data() + shift, host.shape()}; }
  double error(both_execs& on) { return norm_error(to_host<T>(on.device, device()), host); }
};

}  // namespace moefold::test
