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
  TEST_CASE("copies of different sizes are refused, empty ones do nothing") {
    test::both_execs on;
    auto x = test::poisoned<float>({4});
    CHECK_THROWS_WITH_AS(upload(on.device, view<const float>(), x.view()), "moefold: upload of 0 elements into 4", error);
    CHECK_THROWS_AS(download(on.device, x.view(), view<float>()), error);
    upload(on.device, view<const float>(), view<float>());
    download(on.device, view<const float>(), view<float>());
  }
}
