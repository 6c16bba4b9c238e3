#include <moefold/core/stream.cuh>

#include <moefold/core/launch.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {
namespace kernel {
__global__ void add_one(int* x) { *x += 1; }
__global__ void twice(int* x) { *x *= 2; }
}  // namespace kernel
}  // namespace

TEST_SUITE("core/stream") {
  TEST_CASE("what comes after an event on another stream sees what came before it") {
    test::both_execs on;
    const cuda_stream side;
    const cuda_event first, second;
    auto x = test::to_device(std::vector<int>{5});
    launch(on.device, "add_one", kernel::add_one, 1, 1, 0, x.data());
    first.record(on.device.stream);
    first.before(side);
    launch(on.device.on(side), "twice", kernel::twice, 1, 1, 0, x.data());
    second.record(side);
    second.before(on.device.stream);
    launch(on.device, "add_one", kernel::add_one, 1, 1, 0, x.data());
    CHECK(test::to_host(on.device, x)[0] == 13);
    second.wait();
    side.wait();
  }
  TEST_CASE("streams and events can be moved, and only their last owner closes them") {
    cuda_stream a, b(std::move(a));
    a = std::move(b);
    a.wait();
    cuda_event c, d(std::move(c));
    c = std::move(d);
    c.record(a);
    c.wait();
  }
}
