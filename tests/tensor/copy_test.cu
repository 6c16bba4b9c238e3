#include <moefold/tensor/copy.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

#include <numeric>

using namespace moefold;

TEST_SUITE("tensor/copy") {
  TEST_CASE("what is uploaded comes back, and the source may change at once") {
    test::both_execs on;
    basic_arena<device_memory> keep;
    std::vector<int> x(1000);
    std::iota(x.begin(), x.end(), 1);
    const view<const int> there = on_exec(on.device, view<const int>(x.data(), {1000}), keep);
    std::fill(x.begin(), x.end(), 0);
    const view<const int> back = on_host(on.device, there, keep);
    for (int i = 0; i < 1000; ++i) CHECK(back[std::size_t(i)] == i + 1);
    const auto mark = keep.mark();
    const int* const host = keep.take_host<int>(5).data();
    keep.release(mark);
    CHECK(keep.take_host<int>(5).data() == host);
  }
#if defined(MOEFOLD_EMULATED)
  TEST_CASE("the source may change at once where the device reads it in place") {
    test::both_execs on;
    auto there = test::poisoned<int>({3});
    std::vector<int> x{1, 2, 3};
    emulator::reads_pageable_memory() = true;
    upload(on.device, view<const int>(x.data(), {3}), there.view());
    emulator::reads_pageable_memory() = false;
    x = {0, 0, 0};
    download(on.device, there.view(), view<int>(x.data(), {3}));
    CHECK(x == std::vector<int>{1, 2, 3});
  }
#endif
  TEST_CASE("copies of different sizes are refused, empty ones do nothing") {
    test::both_execs on;
    auto x = test::poisoned<float>({4});
    CHECK_THROWS_WITH_AS(upload(on.device, view<const float>(), x.view()), "moefold: upload of 0 elements into 4", error);
    CHECK_THROWS_AS(download(on.device, x.view(), view<float>()), error);
    upload(on.device, view<const float>(), view<float>());
    download(on.device, view<const float>(), view<float>());
  }
}
