#pragma once
// What tests of device code share: tensors moved to the device and back, outputs that hold NaN until somebody writes them, and whether the device is the
// emulator (tests/emulator), where shapes should be small.
#include "close.hpp"
#include "random.hpp"

#include <moefold/tensor/copy.cuh>

#include <vector>

namespace moefold::test {

#if defined(MOEFOLD_EMULATED)
inline constexpr bool emulated = true;
#else
inline constexpr bool emulated = false;
#endif

template <class T>
using device_tensor = tensor<T, device_memory>;

/// cudaMemcpy to the device, and cudaMemset, may return before the device has done them, and the stream of a rank does not wait for the default one: without
/// this wait an operation under test may read what is not there yet, or have its results poisoned.
inline void settle(cudaError_t begun, const char* what) {
  cuda_check(begun, what);
  cuda_check(cudaDeviceSynchronize(), what);
}

/// A copy of x on the device, there when the call returns.
template <class T>
device_tensor<T> to_device(const tensor<T>& x) {
  device_tensor<T> out(x.shape());
  settle(cudaMemcpy(out.data(), x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice), "copying a test input");
  return out;
}
template <class T>
device_tensor<T> to_device(const std::vector<T>& x) {
  device_tensor<T> out({extent_t(x.size())});
  settle(cudaMemcpy(out.data(), x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice), "copying a test input");
  return out;
}
/// What the device holds when everything issued on e is done.
template <class T>
tensor<T> to_host(cuda_exec e, std::type_identity_t<view<const T>> x) {
  e.wait();
  tensor<T> out(x.shape());
  cuda_check(cudaMemcpy(out.data(), x.data(), x.size() * sizeof(T), cudaMemcpyDeviceToHost), "copying a test result");
  return out;
}
template <class T>
tensor<T> to_host(cuda_exec e, const device_tensor<T>& x) {
  return to_host<T>(e, x.view());
}

/// Memory on the device in which every byte is 0xff: NaN, or -1. What an operation leaves unwritten shows.
template <class T>
device_tensor<T> poisoned(const shape& s) {
  device_tensor<T> out(s);
  settle(cudaMemset(out.data(), 0xff, out.size() * sizeof(T)), "poisoning a test output");
  return out;
}

/// One rank on the host and one on the device.
struct both_execs {
  host_context here;
  cuda_context there;
  host_exec host{here};
  cuda_exec device{there};
};

}  // namespace moefold::test
