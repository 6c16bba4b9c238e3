#pragma once
// What is checked under a real mpirun: compiled once, run over each MPI library that is there (tests/mpi/main.cpp).
#include <moefold/comm/process.hpp>

#include <functional>

namespace moefold {

/// run_mpi of the library at hand, collective over the processes of the test.
using process_function = std::function<void(process_comm&)>;
void run_over_mpi(const process_function& f, const process_options& options);

/// For F03: works in collectives until the rank `victim` ends as `how` says.
void work_until_death(process_comm& world, int victim, const char* how);

}  // namespace moefold
