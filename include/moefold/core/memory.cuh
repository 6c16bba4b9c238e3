#pragma once
// Device memory under the same two names as host memory, so that tensors, arenas and scratch take either; and the one way a CUDA
// error becomes an exception that says what was being done.
#include <moefold/core/memory.hpp>

#include <cuda_runtime.h>

namespace moefold {

/// Throws moefold::error unless `result` is cudaSuccess: cuda_check(cudaGetLastError(), "swiglu_forward launch").
inline void cuda_check(cudaError_t result, const char* what) {
  require(result == cudaSuccess, "moefold: CUDA failed in ", what, ": ", cudaGetErrorName(result), ", ", cudaGetErrorString(result));
}

/// Where device tensors live. cudaMalloc aligns to at least 256 bytes: the widest load and one memory transaction.
struct device_memory {
  static constexpr std::size_t alignment = 256;

  static void* allocate(std::size_t bytes) {
    void* block = nullptr;
    const cudaError_t result = cudaMalloc(&block, bytes);
    if (result == cudaErrorMemoryAllocation) (void)cudaGetLastError();  // not sticky: later calls may succeed
    require<out_of_memory>(result == cudaSuccess, "moefold: could not allocate ", bytes, " bytes of device memory (",
                           cudaGetErrorString(result), "); use a smaller micro-batch, more recomputation or more devices");
    allocations_.fetch_add(1, std::memory_order_relaxed);
    return block;
  }
  static void deallocate(void* block) noexcept { (void)cudaFree(block); }

  static std::size_t allocations() { return allocations_.load(std::memory_order_relaxed); }

 private:
  inline static std::atomic<std::size_t> allocations_{0};
};

}  // namespace moefold
