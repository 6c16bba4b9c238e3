#pragma once
// Ranks as processes with a device each, as torchrun, mpirun or srun started them (comm/bootstrap.hpp), over NCCL. Include by name; link NCCL::nccl.
#include <moefold/comm/bootstrap.hpp>
#include <moefold/comm/nccl.cuh>
#include <moefold/train/ranks.hpp>

namespace moefold {

class nccl_ranks {
 public:
  using comm_type = nccl_comm;
  using exec_type = cuda_exec;
  static constexpr bool one_process = false;

  /// Local. Throws config_error where this process sees no device.
  explicit nccl_ranks(const launch_info& me) : me_(me) {
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess) devices = 0;
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    device_ = moefold::device_of(me.local_rank, devices, visible ? visible : "");
    cuda_check(cudaSetDevice(device_), "cudaSetDevice(", device_, ") of rank ", me.rank);
  }

  /// As many as were launched; the run's fold says whether that fits.
  extent_t world(extent_t asked, extent_t /*smallest*/) const {
    require<config_error>(asked == 0 || asked == me_.size, "moefold: ", name_of(me_.by), " started ", me_.size,
                          " processes and --ranks asks for ", asked, "; leave out --ranks, or start that many");
    return me_.size;
  }
  std::string text(extent_t world) const {
    return sentence(world, world == 1 ? " rank as a process (" : " ranks as processes (", name_of(me_.by), "), rank 0 on device ", device_);
  }
  bool speaks() const { return me_.rank == 0; }
  int device_of(int /*rank*/) const { return device_; }
  template <class F>
  void run(extent_t /*world*/, F f) const {
    nccl_comm world = join_nccl(me_);
    f(world);
  }
  /// Every process for itself.
  template <class F>
  void alone(F f) const {
    nccl_comm world(ncclUniqueId{}, 0, 1);
    f(world);
  }

 private:
  launch_info me_;
  int device_ = 0;
};

}  // namespace moefold
