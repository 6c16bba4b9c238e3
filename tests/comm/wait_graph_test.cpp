#include <moefold/comm/wait_graph.hpp>

#include <doctest/doctest.h>

#include <numeric>
#include <random>

using namespace moefold;

namespace {

waiting in_call(int rank, std::vector<int> missing, const char* label = "ep", operation op = operation::all_reduce, std::uint64_t seq = 0) {
  waiting w;
  w.rank = rank, w.label = label, w.what.op = op, w.what.seq = seq, w.missing = std::move(missing);
  return w;
}
waiting on_lane(int lane, waiting w) {
  w.lane = lane;
  return w;
}
std::vector<int> ranks_of(const std::vector<waiting>& cycle) {
  std::vector<int> ranks;
  for (const waiting& w : cycle) ranks.push_back(w.rank);
  return ranks;
}

/// By the definition: take away, again and again, whoever waits for nobody that is left. What remains is stuck.
bool stuck(std::vector<waiting> all) {
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      bool waits = false;
      for (const waiting& other : all)
        for (const int m : all[i].missing)
          waits = waits || (other.rank == m && other.lane == (m == all[i].rank ? 1 - all[i].lane : all[i].lane));
      if (waits) continue;
      all.erase(all.begin() + std::ptrdiff_t(i--));
      changed = true;
    }
  }
  return !all.empty();
}

}  // namespace

TEST_SUITE("comm/wait_graph") {
  TEST_CASE("ranks that wait for ranks that run are no cycle") {
    std::vector<waiting> chain{in_call(2, {1}), in_call(1, {0}), in_call(4, {2, 3})};
    CHECK(find_cycle(chain).empty());
    std::vector<waiting> nobody;
    CHECK(find_cycle(nobody).empty());
  }

  TEST_CASE("a cycle is found with its ranks in order, the most awaited first, and put into words") {
    std::vector<waiting> all{in_call(3, {1}, "ep", operation::all_reduce, 4), in_call(1, {0, 2, 3}, "world", operation::barrier, 7),
                             in_call(2, {1}, "ep", operation::all_reduce, 4)};
    const auto cycle = find_cycle(all);
    CHECK(ranks_of(cycle) == std::vector{1, 2});
    CHECK(describe(cycle) == "rank 1 waits in barrier #7 on world for rank 2; rank 2 waits in all_reduce #4 on ep for rank 1");
    std::vector<waiting> ring{in_call(5, {6}), in_call(6, {7}), in_call(7, {5}), in_call(0, {5})};
    CHECK(ranks_of(find_cycle(ring)) == std::vector{5, 6, 7});
  }

  TEST_CASE("a rank's two lanes are two nodes: its helper may wait while it runs, and it may wait for its helper") {
    std::vector<waiting> beside{on_lane(1, in_call(0, {1}, "grads")), in_call(1, {0}, "tp")};  // helper of 1 and thread of 0 run
    CHECK(find_cycle(beside).empty());

    // 0 waits for its helper, which waits for the helper of 1, which has nothing to do until 1 comes out of its call with 0.
    std::vector<waiting> across{in_call(0, {0}), on_lane(1, in_call(0, {1}, "grads")), in_call(1, {0}, "tp"), on_lane(1, in_call(1, {1}))};
    const auto cycle = find_cycle(across);
    REQUIRE(cycle.size() == 4);
    CHECK(across[0].for_other_lane());
    CHECK(describe(cycle) ==
          "rank 0 waits for its helper; the helper of rank 0 waits in all_reduce #0 on grads for rank 1; "
          "the helper of rank 1 has nothing to do until rank 1 goes on; rank 1 waits in all_reduce #0 on tp for rank 0");
    std::vector<waiting> runs{across.begin(), across.end() - 1};  // the helper of rank 1 is at work
    CHECK(find_cycle(runs).empty());
  }

  TEST_CASE("why a rank does not come is told up to the rank that runs") {
    std::vector<waiting> all{in_call(0, {1}, "tp"), on_lane(1, in_call(1, {3}, "grads")), in_call(1, {1}), in_call(2, {4})};
    CHECK(find_cycle(all).empty());
    CHECK(ranks_of(waits_behind(all, 0, 0)) == std::vector{0, 1, 1});
    CHECK(describe_chain(waits_behind(all, 0, 0)) ==
          "rank 0 waits in all_reduce #0 on tp for rank 1; rank 1 waits for its helper; the helper of rank 1 waits in all_reduce #0 on "
          "grads for rank 3");
    CHECK(waits_behind(all, 3, 0).empty());
  }

  TEST_CASE("a cycle is unbroken only if every wait in it is the same wait for the same rank") {
    std::vector<waiting> all{in_call(0, {1}), in_call(1, {0})};
    const auto cycle = find_cycle(all);
    CHECK(unbroken(cycle, all));
    auto later = all;
    later[1].call = 1;  // looks the same, but rank 1 has been out of its call meanwhile
    CHECK_FALSE(unbroken(cycle, later));
    later = all;
    later[0].missing = {2};
    CHECK_FALSE(unbroken(cycle, later));
    later = all;
    later.pop_back();
    CHECK_FALSE(unbroken(cycle, later));
    CHECK_FALSE(unbroken({}, all));
  }

  TEST_CASE("in 20000 random graphs a cycle is found exactly if some ranks can never go on, and each waits for the next") {
    std::mt19937 random(1);
    int cycles = 0, agreed = 0, rings = 0;
    for (int i = 0; i < 20000; ++i) {
      std::vector<waiting> all;
      for (int rank = 0; rank < 6; ++rank)
        for (int lane = 0; lane < 2; ++lane) {
          if (random() % 3 == 0) continue;
          waiting w = on_lane(lane, in_call(rank, {}));
          for (int m = 0; m < 6; ++m)
            if (random() % 5 == 0) w.missing.push_back(m);
          all.push_back(std::move(w));
        }
      const bool expected = stuck(all);
      const auto cycle = find_cycle(all);
      agreed += expected == !cycle.empty();
      cycles += !cycle.empty();
      rings += !cycle.empty() && unbroken(cycle, all);
    }
    CHECK(agreed == 20000);
    CHECK(rings == cycles);
    CHECK(cycles > 2000);
    CHECK(cycles < 18000);
  }
}
