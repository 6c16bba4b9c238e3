// The full counts of what load_test, save_test and checkpoint_test try a sample of.
#include "../support/checkpoint_faults.hpp"

using namespace moefold;
using namespace moefold::test;
using namespace moefold::testing;

TEST_SUITE("checkpoint/faults_soak") {
  TEST_CASE("cut at every byte") {
    for (const int ranks : {1, 2, 4}) MESSAGE(cut_files(ranks, 1), " cuts, all refused");
  }
  TEST_CASE("one bit of every byte, and 100,000 of what the tensors hold") {
    for (const int ranks : {1, 2, 4}) MESSAGE(flip_bits(ranks, 1), " bits, all found");
    MESSAGE(flip_payload(2, 100'000, 7), " bits of payload, all found");
  }
  TEST_CASE("every call fails, in every way") {
    for (const int ranks : {1, 2, 4})
      for (const bool apart : {false, true})
        for (const fault_plan& kind :
             {fault_plan{.code = EIO}, fault_plan{.code = ENOSPC, .half = true}, fault_plan{.code = EIO, .half = true, .for_ever = true}})
          MESSAGE(fail_calls(ranks, 1, apart, kind), " calls of ", ranks, " ranks");
  }
  TEST_CASE("what a power failure may leave after every call") {
    for (const int ranks : {1, 2, 4})
      for (const bool first : {false, true}) MESSAGE(crash_states(ranks, first, 243, std::uint64_t(ranks)), " states");
  }
  TEST_CASE("1,000 kills") { kill_savers(1000, 42); }
  TEST_CASE("all ordered pairs of 26 foldings") {
    const std::vector<mapping> all = many_mappings();
    int pairs = 0;
    for (const bool tied : {false, true})
      for (const mapping& from : all) {
        memory_storage disk;
        save_step(disk, "c", from.fold, odd_model(tied), 1, 2, tied);
        for (const mapping& to : all) {
          CAPTURE(from.name);
          CAPTURE(to.name);
          CHECK(load_step(disk, "c", to.fold, odd_model(tied)) == 1);
          ++pairs;
        }
      }
    MESSAGE(pairs, " pairs");
  }
}
