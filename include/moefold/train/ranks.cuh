#pragma once
// Ranks as threads of one process that compute on its devices: rank r on device r modulo their number. With one device every folding still runs on it,
// each rank with a stream of its own.
#include <moefold/comm/thread.cuh>
#include <moefold/core/exec.cuh>
#include <moefold/train/ranks.hpp>

namespace moefold {

class cuda_ranks {
 public:
  using comm_type = device_thread_comm;
  using exec_type = cuda_exec;
  static constexpr bool one_process = true;

  /// Throws config_error where there is no device.
  cuda_ranks() {
    const cudaError_t found = cudaGetDeviceCount(&devices_);
    require<config_error>(found == cudaSuccess && devices_ > 0, "moefold: no CUDA device was found (",
                          found == cudaSuccess ? "none is visible" : cudaGetErrorString(found),
                          "); use a machine with an NVIDIA GPU and its driver, or --device host");
  }

  extent_t world(extent_t asked, extent_t smallest) const { return asked > 0 ? asked : smallest; }
  std::string text(extent_t world) const {
    cudaDeviceProp properties{};
    cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties of device 0");
    const extent_t used = std::min<extent_t>(world, devices_);
    return sentence(world, world == 1 ? " rank on " : " ranks as threads on ", used, used == 1 ? " device (" : " devices (",
                    properties.name, ")");
  }
  bool speaks() const { return true; }
  int device_of(int rank) const { return rank % devices_; }
  template <class F>
  void run(extent_t world, F f) const {
    run_device_threads(int(world), f);
  }
  template <class F>
  void alone(F f) const {
    run_device_threads(1, f);
  }

 private:
  int devices_ = 0;
};

}  // namespace moefold
