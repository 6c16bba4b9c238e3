#include <moefold/comm/stragglers.hpp>

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
    table.add(3, 500ms);
    table.add(3, 250ms);
    table.add(1, 100ms);
    CHECK(straggler_report(table.counts(), 10s) ==
          "the others waited 0.75 s for rank 3 (7.5 % of 10 s, in 2 calls); see what its core or card does besides");
    CHECK(straggler_report(table.counts(), 20s).empty());
    CHECK_FALSE(straggler_report(table.counts(), 20s, 0.01).empty());
    table.add(0, 600ms);
    CHECK(straggler_report(table.counts(), 10s).empty());
    CHECK(straggler_report(std::vector<straggler_count>(4), 10s, 0).empty());
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
