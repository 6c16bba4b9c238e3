#pragma once
// The CUDA twin of comm/chaos.hpp: what a fault plan changes in device memory goes through the host. chaos<device_thread_comm> is chaotic with both execs.
#include <moefold/comm/chaos.hpp>
#include <moefold/core/exec.cuh>

namespace moefold {

inline void read_bytes(cuda_exec e, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, e.stream), "reading ", bytes, " bytes for a fault");
  e.wait();
}
inline void write_bytes(cuda_exec e, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, e.stream), "writing ", bytes, " bytes for a fault");
}

}  // namespace moefold
