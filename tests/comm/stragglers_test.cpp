#include <moefold/comm/stragglers.hpp>

#include <moefold/comm/self.hpp>

#include "../support/run_ranks.hpp"

#include <doctest/doctest.h>

#include <thread>

using namespace moefold;
using namespace std::chrono_literals;

TEST_SUITE("comm/stragglers") {
  TEST_CASE("the slowest rank is the one that others waited for longest, not the one that was last most often") {
    straggler_table table(4);
    CHECK(slowest(table.counts()) == -1);
    for (int i = 0; i < 10; ++i) table.add(1, 1ms);
    table.add(3, 50ms);
    table.add(2, 0ms);  // came with the others
    CHECK(table[1] == straggler_count{10, 10ms});
    CHECK(table[2] == straggler_count{});
    CHECK(slowest(table.counts()) == 3);
    table.clear();
    CHECK(slowest(table.counts()) == -1);
  }

  TEST_CASE("the report names a rank that cost more than its share, and nobody when ranks are late in turns") {
    straggler_table table(4);
    table.add(3, 5s);
    table.add(3, 2500ms);
    table.add(1, 1s);
    CHECK(straggler_report(table.counts(), 100s) ==
          "the others waited 7.5 s for rank 3 (7.5 % of 100 s, in 2 calls); see what its core or card does besides");
    CHECK(straggler_report(table.counts(), 200s).empty());
    CHECK_FALSE(straggler_report(table.counts(), 200s, 0.01).empty());
    table.add(0, 6s);
    CHECK(straggler_report(table.counts(), 100s).empty());
    CHECK(straggler_report(std::vector<straggler_count>(4), 10s, 0).empty());
    straggler_table brief(2);
    brief.add(1, 900ms);
    CHECK(straggler_report(brief.counts(), 1s).empty());  // too short to say anything
  }

  TEST_CASE("a watch reports of its own stretch, alike on all ranks, and nothing of a communicator that counts nothing") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      const auto wait_for = [&](int rank, std::chrono::milliseconds time) {
        if (world.rank() == rank) std::this_thread::sleep_for(time);
        world.barrier(e);
      };
      wait_for(0, 1300ms);
      const straggler_watch<thread_comm> watch(world);
      wait_for(2, 1100ms);
      const std::string text = watch.report(world, e);
      CHECK(text.find(" s for rank 2 (") != std::string::npos);
    });
    host_context context;
    self_comm alone;
    CHECK(straggler_watch<self_comm>(alone).report(alone, host_exec(context)).empty());
  }

  TEST_CASE("threads add at the same time and nothing is lost") {
    straggler_table table(2);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 10000; ++i) table.add(t % 2, 3ns);
      });
    for (std::thread& t : threads) t.join();
    CHECK(table[0] == straggler_count{20000, 60000ns});
    CHECK(table[1] == straggler_count{20000, 60000ns});
  }
}
