#pragma once
// Tensors on the device that may begin off 16 bytes: an operation then takes its path in single elements. What lies in front of them is poison.
#include "device.hpp"

#include <cstring>

namespace moefold::test {

template <class T>
class shifted {
 public:
  /// Poisoned, `skip` elements behind an aligned address.
  shifted(const shape& extents, extent_t skip) : memory_(poisoned<T>({extents.size() + skip})), extents_(extents), skip_(skip) {}
  /// A copy of x.
  shifted(const tensor<T>& x, extent_t skip) : shifted(x.shape(), skip) {
    settle(cudaMemcpy(memory_.data() + skip, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice), "copying a test input");
  }
  moefold::view<T> view() { return {memory_.data() + skip_, extents_}; }
  moefold::view<const T> in() const { return {memory_.data() + skip_, extents_}; }
  operator moefold::view<T>() { return view(); }
  operator moefold::view<const T>() const { return in(); }

 private:
  device_tensor<T> memory_;
  shape extents_;
  extent_t skip_;
};
template <class T>
shifted(const tensor<T>&, extent_t) -> shifted<T>;

template <class T>
tensor<T> to_host(cuda_exec e, const shifted<T>& x) {
  return to_host<T>(e, x.in());
}

template <class T>
bool same_bits(const tensor<T>& a, const tensor<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace moefold::test
