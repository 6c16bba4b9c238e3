#include <moefold/core/memory.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/memory") {
  TEST_CASE("device memory is counted and charged to the ledger that is in scope, and given back") {
    memory_ledger ledger;
    const std::size_t before = device_memory::allocations();
    {
      const memory_scope mine(ledger);
      const memory_scope scope(memory_category::activations);
      const test::device_tensor<float> x({100});
      CHECK(device_memory::allocations() == before + 1);
      CHECK(ledger(memory_category::activations).now == 400);
    }
    CHECK(ledger(memory_category::activations).now == 0);
  }
  TEST_CASE("memory that cannot be had says how much was asked for") {
    CHECK_THROWS_AS((void)device_memory::allocate(std::size_t{1} << 50), out_of_memory);
    const test::device_tensor<float> still({10});
  }
  TEST_CASE("a stack of device memory hands out pieces on 256 bytes") {
    memory_stack<device_memory> stack;
    const auto mark = stack.mark();
    std::byte *const a = stack.take(1), *const b = stack.take(300);
    CHECK(b - a == 256);
    stack.release(mark);
    CHECK(stack.take(5) == a);
  }
}
