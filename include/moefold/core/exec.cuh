#pragma once
// The exec of one rank on a CUDA device: operations called with it launch kernels on its stream and return at once. An operation named in
// ops/<name>.hpp has its overload for cuda_exec in ops/<name>.cuh.
//
//   thread of the rank -> cuda_context { device, stream, scratch on the device and on the host, libraries, faults } <- cuda_exec, by value
#include <moefold/core/exec.hpp>
#include <moefold/core/fault.cuh>
#include <moefold/core/stream.cuh>

#include <memory>

namespace moefold {

struct cuda_exec;

/// What one rank keeps on its device for its whole life: a stream of its own, and scratch that operations on that stream borrow. What one
/// operation gives back another may take while the first still runs: both run in the stream's order. Made by the thread of the rank, which
/// makes `device` its current one.
struct cuda_context {
  int device;
  cuda_stream stream;
  memory_stack<device_memory> scratch;
  memory_stack<host_memory> host_scratch;  // for the few numbers the host must read
  device_faults faults;
  deferred_products_of<cuda_exec>* deferred = nullptr;
  std::shared_ptr<void> blas;  // handle and workspace, made by the first matrix product (ops/gemm.cuh)

  explicit cuda_context(int device_ = 0) : device(made_current(device_)) {}
  cuda_context(const cuda_context&) = delete;
  cuda_context& operator=(const cuda_context&) = delete;

 private:
  static int made_current(int device) {
    cuda_check(cudaSetDevice(device), "cudaSetDevice(", device, ")");
    return device;
  }
};

/// Passed by value to every operation. Points at the context of the calling rank; never shared between ranks.
struct cuda_exec {
  using memory = device_memory;
  cuda_context* context;
  cudaStream_t stream;

  explicit cuda_exec(cuda_context& owner) : context(&owner), stream(owner.stream) {}
  /// The same rank on another of its streams: the caller orders them by events, scratch included.
  cuda_exec on(cudaStream_t other) const {
    cuda_exec e = *this;
    e.stream = other;
    return e;
  }
  memory_stack<device_memory>& scratch() const { return context->scratch; }
  memory_stack<host_memory>& host_scratch() const { return context->host_scratch; }
  deferred_products_of<cuda_exec>*& deferred() const { return context->deferred; }
  /// The host waits for the stream, and throws what kernels have complained of since the last time (core/fault.cuh).
  void wait() const {
    cuda_check(cudaStreamSynchronize(stream), "waiting for a rank's stream");
    context->faults.check();
  }
};

}  // namespace moefold
