#include <moefold/train/ranks.hpp>

#include <doctest/doctest.h>

#include <atomic>

using namespace moefold;

TEST_SUITE("train/ranks") {
  TEST_CASE("host ranks are threads: as many as asked for, or the smallest world of the run") {
    const host_ranks ranks;
    CHECK(ranks.world(0, 8) == 8);
    CHECK(ranks.world(16, 8) == 16);
    CHECK(ranks.text(1) == "1 rank");
    CHECK(ranks.text(4) == "4 ranks as threads");
    CHECK(ranks.speaks());
    std::atomic<int> seen{0}, size{0};
    ranks.run(3, [&](thread_comm& world) { seen |= 1 << world.rank(), size = world.size(); });
    CHECK(seen == 7);
    CHECK(size == 3);
    ranks.alone([&](thread_comm& world) { size = world.size(); });
    CHECK(size == 1);
  }
}
