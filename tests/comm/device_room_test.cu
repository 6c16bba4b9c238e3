#include <moefold/comm/device_room.cuh>

#include "../support/device_place.hpp"

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("comm/device_room") {
  TEST_CASE("a message that is filled on one stream and emptied on another arrives, and the next waits until the room is empty") {
    cuda_context context;
    const cuda_stream other;
    const test::in_device_memory at{cuda_exec(context)}, there{at.e.on(other)};
    device_room room(400, 1);
    auto first = at.put(std::vector<float>(100, 1.0f)), second = at.put(std::vector<float>(100, 2.0f));
    auto out = there.room(100, 0.0f), after = there.room(100, 0.0f);
    room.fill(at.e, first.data(), 400);
    at.spoil(first);
    room.empty(there.e, out.data(), 400);
    room.fill(at.e, second.data(), 400);
    at.e.wait();  // the sender runs ahead
    room.empty(there.e, after.data(), 400);
    CHECK(all_equal(there.get(out), [](std::size_t) { return 1.0f; }));
    CHECK(all_equal(there.get(after), [](std::size_t) { return 2.0f; }));
  }
  TEST_CASE("rooms go to messages of their size and peer, and are charged to nobody") {
    memory_ledger ledger;
    const memory_scope mine(ledger);
    device_rooms rooms;
    device_room& a = rooms.take(1000, 1);
    CHECK(ledger.total().now == 0);
    const std::size_t made = rooms.made();
    rooms.give_back(a);
    CHECK(&rooms.take(1000, 1) == &a);
    CHECK(rooms.take(1000, 2).peer == 2);
    CHECK(rooms.take(5000, 2).capacity >= 5000);
    CHECK(rooms.made() > made);
    rooms.take(0, 1);
  }
  TEST_CASE("a room is never too small, at most a quarter too large, and sizes repeat") {
    for (std::size_t bytes = 0; bytes < 70000; ++bytes) {
      const std::size_t capacity = device_rooms::capacity_for(bytes);
      const bool fits = capacity >= bytes && capacity >= 256 && capacity <= std::max<std::size_t>(512, bytes + bytes / 4 + 256) &&
                        device_rooms::capacity_for(capacity) == capacity;
      if (!fits) CHECK_MESSAGE(fits, "capacity_for(", bytes, ") is ", capacity);
    }
  }
  TEST_CASE("a ticket makes another stream wait, and the host") {
    cuda_context context;
    host_context host;
    const cuda_stream other;
    const test::in_device_memory at{cuda_exec(context)}, there{at.e.on(other)};
    auto x = there.room(100, 0.0f);
    auto ones = there.put(std::vector<float>(100, 1.0f));
    cuda_check(cudaMemcpyAsync(x.data(), ones.data(), 400, cudaMemcpyDeviceToDevice, other), "a test");
    stream_ticket(other).wait(at.e);
    CHECK(all_equal(at.get(x), [](std::size_t) { return 1.0f; }));
    stream_ticket(other).wait(host_exec(host));
    CHECK(cudaStreamQuery(other) == cudaSuccess);
    stream_ticket().wait(at.e);
  }
}
