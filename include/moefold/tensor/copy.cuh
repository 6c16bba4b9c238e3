#pragma once
// The CUDA twin of tensor/copy.hpp. An upload from pageable memory is staged by the driver before the call returns, so the source is free again at once;
// a device that reads pageable memory where it lies (Grace Hopper; Linux with HMM) needs no staging, and CUDA promises none: there upload waits.
#include <moefold/core/exec.cuh>
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/tensor.hpp>

namespace moefold {

template <class T>
void upload(cuda_exec e, std::type_identity_t<view<const T>> from, view<T> to) {
  require(from.size() == to.size(), "moefold: upload of ", from.size(), " elements into ", to.size());
  if (from.empty()) return;
  cuda_check(cudaMemcpyAsync(to.data(), from.data(), from.bytes(), cudaMemcpyHostToDevice, e.stream), "upload of ", from.bytes(), " bytes");
  int in_place = 0;
  cuda_check(cudaDeviceGetAttribute(&in_place, cudaDevAttrPageableMemoryAccess, e.context->device), "cudaDeviceGetAttribute");
  if (in_place != 0) cuda_check(cudaStreamSynchronize(e.stream), "waiting for an upload of ", from.bytes(), " bytes");
}
template <class T>
void download(cuda_exec e, std::type_identity_t<view<const T>> from, view<T> to) {
  require(from.size() == to.size(), "moefold: download of ", from.size(), " elements into ", to.size());
  if (!from.empty())
    cuda_check(cudaMemcpyAsync(to.data(), from.data(), from.bytes(), cudaMemcpyDeviceToHost, e.stream), "download of ", from.bytes(),
               " bytes");
  e.wait();
}

}  // namespace moefold
