#include "../support/communicator_suite.hpp"
#include "../support/run_processes.hpp"

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("comm/process") {
  TEST_CASE("The communicator suite, for 1 to 8 ranks") {
    for (int ranks : {1, 2, 3, 5, 8}) {
      CAPTURE(ranks);
      run_processes(ranks, [](process_comm& world) { check_communicator<float, bf16>(world); });
    }
  }
}
