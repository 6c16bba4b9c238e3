#include "../support/fault_matrix.hpp"
#include "../support/run_ranks.hpp"

// The fault matrix over threads (support/fault_matrix.hpp).
using namespace moefold;

namespace {

struct threads {
  using comm = thread_comm;
  static constexpr const char* name = "threads";
  template <class F>
  static void run(int ranks, F&& f, faults::deadlines limits) {
    run_ranks(ranks, f, {.first_deadline = limits.first, .deadline = limits.later});
  }
};

}  // namespace

TEST_SUITE("comm/faults") {
  TEST_CASE("F01: when a rank throws at a call, all others learn of it, of the culprit and of nothing else") { faults::f01<threads>(); }
  TEST_CASE("F04: when a rank does not arrive, all others time out at the deadline and list who arrived and who is missing") {
    faults::f04<threads>();
  }
  TEST_CASE("F06: ranks that make different calls all get a signature mismatch, and no data is written") { faults::f06<threads>(); }
  TEST_CASE("F07: ranks that disagree on count, type, root, reduction or splits all get a signature mismatch, and no data is written") {
    faults::f07<threads>();
  }
  TEST_CASE("F08: when one rank calls on one axis and the others on another, all learn who waits for whom long before the deadline") {
    faults::f08<threads>();
  }
}
