#include <moefold/train/ranks.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

#include <atomic>

using namespace moefold;

TEST_SUITE("train/ranks") {
  TEST_CASE("cuda ranks are threads on the devices there are, in turn") {
    const cuda_ranks ranks;
    int devices = 0;
    cuda_check(cudaGetDeviceCount(&devices), "counting devices");
    CHECK(ranks.device_of(0) == 0);
    CHECK(ranks.device_of(devices) == 0);
    CHECK(ranks.device_of(devices - 1) == devices - 1);
    CHECK(ranks.world(0, 8) == 8);
    CHECK(ranks.text(1).starts_with("1 rank on 1 device ("));
    CHECK(ranks.text(8).starts_with("8 ranks as threads on "));
    std::atomic<int> seen{0};
    ranks.run(3, [&](device_thread_comm& world) { seen |= 1 << world.rank(); });
    CHECK(seen == 7);
    ranks.alone([&](device_thread_comm& world) { seen = world.size(); });
    CHECK(seen == 1);
  }
}
