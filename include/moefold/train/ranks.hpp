#pragma once
// Where the ranks of a program live and what they compute on. run_program (train/program.hpp) takes one of these; train/ranks.cuh has those with a GPU.
//
//   host_ranks      threads of this process, each computing on the host
//   cuda_ranks      threads of this process, each on a device, or several on one
//   process_ranks   one rank per process, as torchrun, mpirun or srun started them, each computing on the host (train/process_ranks.hpp)
//   nccl_ranks      the same, with a device each
// Each has comm_type, exec_type, one_process; world(asked, smallest); text(world); speaks(), whether rank 0 is in this process; device_of(rank);
// run(world, f) and alone(f), which call f(comm) on every rank that lives here, or on a world of one.
#include <moefold/comm/thread.hpp>
#include <moefold/core/exec.hpp>

#include <string>

namespace moefold {

struct host_ranks {
  using comm_type = thread_comm;
  using exec_type = host_exec;
  static constexpr bool one_process = true;  // all ranks see the same memory

  extent_t world(extent_t asked, extent_t smallest) const { return asked > 0 ? asked : smallest; }
  std::string text(extent_t world) const { return sentence(world, world == 1 ? " rank" : " ranks as threads"); }
  bool speaks() const { return true; }
  int device_of(int /*rank*/) const { return 0; }
  template <class F>
  void run(extent_t world, F f) const {
    run_threads(int(world), f);
  }
  template <class F>
  void alone(F f) const {
    run_threads(1, f);
  }
};

}  // namespace moefold
