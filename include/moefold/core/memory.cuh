#pragma once
// Device memory under the same two names as host memory, so that tensors, arenas and scratch take either; and the one way a CUDA
// error becomes an exception that says what was being done.
#include <moefold/core/memory.hpp>

#include <cuda_runtime.h>

#include <mutex>
#include <unordered_map>

namespace moefold {

/// A CUDA call that failed. Errors of kernels are reported by whichever call comes next; `what` says which one that was.
class cuda_error : public error {
 public:
  using error::error;
};

/// Throws cuda_error unless `result` is cudaSuccess. what: the call and what it was for, with the numbers that matter (rank, shape).
template <class... What>
inline void cuda_check(cudaError_t result, const What&... what) {
  if (result == cudaSuccess) return;
  (void)cudaGetLastError();  // what is not sticky is not told twice
  require<cuda_error>(false, "moefold: CUDA failed in ", what..., ": ", cudaGetErrorName(result), ", ", cudaGetErrorString(result));
}

/// Where device tensors live: on the device that is current for the calling thread. cudaMalloc aligns to at least 256 bytes: the widest load and one
/// memory transaction. Bytes are charged to the calling thread's memory_scope, as on the host.
struct device_memory {
  static constexpr std::size_t alignment = 256;

  static void* allocate(std::size_t bytes) {
    constexpr const char* mend = "use a smaller micro-batch, more recomputation or more devices";
    const memory_ledger::charge& charge = memory_scope::current();
    void* block = nullptr;
    const cudaError_t result = failing_allocation::now() ? cudaErrorMemoryAllocation : cudaMalloc(&block, std::max<std::size_t>(bytes, 1));
    if (result == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // not sticky: later calls may succeed
      detail::refuse_memory(charge, bytes, "device", mend);
    }
    cuda_check(result, "cudaMalloc of ", bytes, " bytes");
    if (!charge.add(bytes)) {
      (void)cudaFree(block);
      detail::refuse_memory(charge, bytes, "device", mend);
    }
    allocations_.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard lock(guard());
    charges().emplace(block, charged{bytes, charge});
    return block;
  }
  static void deallocate(void* block) noexcept {
    if (block == nullptr) return;
    {
      const std::lock_guard lock(guard());
      if (const auto at = charges().find(block); at != charges().end()) {
        at->second.to.remove(at->second.bytes);
        charges().erase(at);
      }
    }
    (void)cudaFree(block);
  }

  static std::size_t allocations() { return allocations_.load(std::memory_order_relaxed); }

 private:
  struct charged {  // the host cannot write in front of a device block, so what is charged is kept aside
    std::size_t bytes;
    memory_ledger::charge to;
  };
  static std::mutex& guard() {
    static std::mutex only;
    return only;
  }
  static std::unordered_map<void*, charged>& charges() {
    static std::unordered_map<void*, charged> all;
    return all;
  }
  inline static std::atomic<std::size_t> allocations_{0};
};

}  // namespace moefold
