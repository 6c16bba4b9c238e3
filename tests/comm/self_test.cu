#include <moefold/comm/self.cuh>

#include "../support/device_place.hpp"

#include <moefold/comm/recording.hpp>

#include <doctest/doctest.h>

using namespace moefold;

static_assert(communicator<recording<device_self_comm>, cuda_exec> && overlapping<recording<device_self_comm>, cuda_exec>);

static_assert(communicator<device_self_comm> && communicator<device_self_comm, cuda_exec>);  // over all element types

TEST_SUITE("comm/self") {
  TEST_CASE("one rank is a communicator over device memory, and over host memory") {
    device_self_comm c;
    cuda_context context;
    const test::in_device_memory at{cuda_exec(context)};
    check_communicator<float, bf16, std::int64_t>(c, at);
    check_communicator<float>(c);
    device_self_comm beside = c.apart("beside");
    CHECK(beside.label() == comm_label("beside"));
    CHECK(c.split(0, 0).label() == comm_label("world"));
    check_communicator<float>(beside, at);
  }
  TEST_CASE("what it writes comes after what the stream does before, and a ticket orders another stream") {
    device_self_comm c;
    cuda_context context;
    const test::in_device_memory at{cuda_exec(context)};
    const cuda_stream other;
    const test::in_device_memory there{at.e.on(other)};
    auto in = there.put(std::vector<float>(100, 2.0f)), out = there.room(100, 0.0f);
    c.all_reduce(there.e, in, out, sum{}).wait(at.e);
    CHECK(all_equal(at.get(out), [](std::size_t) { return 2.0f; }));
  }
  TEST_CASE("rooms of letters are used again") {
    device_self_comm c;
    cuda_context context;
    const test::in_device_memory at{cuda_exec(context)};
    auto in = at.put(std::vector<float>(100, 2.0f)), out = at.room(100, 0.0f);
    std::size_t before = 0;
    for (int i = 0; i < 20; ++i) {
      c.send(at.e, in, 0), c.send(at.e, in, 0);
      c.recv(at.e, out, 0), c.recv(at.e, out, 0);
      if (i == 0) before = device_memory::allocations();
    }
    CHECK(device_memory::allocations() == before);
    CHECK(all_equal(at.get(out), [](std::size_t) { return 2.0f; }));
  }
  TEST_CASE("a recv from itself without a send, and sizes that contradict each other, are errors") {
    device_self_comm c;
    cuda_context context;
    const test::in_device_memory at{cuda_exec(context)};
    auto three = at.room(3, 0.0f), two = at.room(2, 0.0f);
    CHECK_THROWS_WITH_AS(c.recv(at.e, two, 0), doctest::Contains("send first"), error);
    CHECK_THROWS_WITH_AS(c.all_reduce(at.e, three, two, sum{}), doctest::Contains("3 elements in and room for 2"), error);
    CHECK_THROWS_AS(c.broadcast(at.e, two, 1), error);
    c.send(at.e, three, 0);
    CHECK_THROWS_WITH_AS(c.recv(at.e, two, 0), doctest::Contains("meets a send of 12 bytes"), error);
  }
}
