#pragma once
// The thread communicator as a Runner of the fault matrix (support/fault_matrix.hpp).
#include "fault_matrix.hpp"
#include "run_ranks.hpp"

namespace moefold::faults {

struct over_threads {
  using comm = thread_comm;
  static constexpr const char* name = "threads";
  template <class F>
  static void run(int size, F&& f, deadlines limits) {
    run_ranks(size, f, {.first_deadline = limits.first, .deadline = limits.later});
  }
};

}  // namespace moefold::faults
