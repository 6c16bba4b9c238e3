#include <moefold/train/step_sums.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("train/step_sums") {
  TEST_CASE("CPU seconds and bytes are summed over the ranks, by axis, and all are ready only where each one is") {
    run_threads(3, [](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log sent;
      sent.add(sent.row(comm_label(group_set<thread_comm>::sets[0].name())), operation::all_reduce,
               {1, 2, std::uint64_t(100 * (world.rank() + 1))});
      step_sums sums;
      sums.add(e, world, 4, 1, sent, world.rank() != 1);
      CHECK(sums.share_of_collectives() == 0.25);
      CHECK(!sums.all_ready());
      REQUIRE(sums.bytes().size() == 1);
      CHECK(sums.bytes()[0].first == group_set<thread_comm>::sets[0].name());
      CHECK(sums.bytes()[0].second == 600);
      sums.add(e, world, 4, 1, sent, true);
      CHECK(sums.all_ready());
    });
  }
}
