#pragma once
// The exec of one rank on a CUDA device: operations called with it launch kernels on its stream and return at once. An operation named in
// ops/<name>.hpp has its overload for cuda_exec in ops/<name>.cuh.
#include <moefold/core/exec.hpp>
#include <moefold/core/memory.cuh>

namespace moefold {

/// What one rank keeps on its device for its whole life: a stream of its own, and scratch that operations on that stream borrow. What one
/// operation gives back another may take while the first still runs: both run in the stream's order.
struct cuda_context {
  cudaStream_t stream = nullptr;
  memory_stack<device_memory> scratch;

  cuda_context() { cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a rank's stream"); }
  ~cuda_context() { (void)cudaStreamDestroy(stream); }
  cuda_context(const cuda_context&) = delete;
  cuda_context& operator=(const cuda_context&) = delete;
};

/// Passed by value to every operation. Points at the context of the calling rank; never shared between ranks.
struct cuda_exec {
  using memory = device_memory;
  cuda_context* context;
  cudaStream_t stream;

  explicit cuda_exec(cuda_context& owner) : context(&owner), stream(owner.stream) {}
  memory_stack<device_memory>& scratch() const { return context->scratch; }
  void wait() const { cuda_check(cudaStreamSynchronize(stream), "waiting for a stream"); }
};

}  // namespace moefold
