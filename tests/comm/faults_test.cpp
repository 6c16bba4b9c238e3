#include "../support/over_threads.hpp"

// The fault matrix over threads.
using namespace moefold;

TEST_SUITE("comm/faults") {
  TEST_CASE("F01: when a rank throws at a call, all others learn of it, of the culprit and of nothing else") {
    faults::f01<faults::over_threads>();
  }
  TEST_CASE("F04: when a rank does not arrive, all others time out at the deadline and list who arrived and who is missing") {
    faults::f04<faults::over_threads>();
  }
  TEST_CASE("F06: ranks that make different calls all get a signature mismatch, and no data is written") {
    faults::f06<faults::over_threads>();
  }
  TEST_CASE("F07: ranks that disagree on count, type, root, reduction or splits all get a signature mismatch, and no data is written") {
    faults::f07<faults::over_threads>();
  }
  TEST_CASE("F08: when one rank calls on one axis and the others on another, all learn who waits for whom long before the deadline") {
    faults::f08<faults::over_threads>();
  }
}
