#include <moefold/core/memory_ledger.hpp>

#include <doctest/doctest.h>

#include <moefold/core/memory.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

using namespace moefold;
using enum memory_category;

TEST_SUITE("core/memory_ledger") {
  TEST_CASE("bytes are charged by category, peaks stay, and outside any scope nothing is charged") {
    memory_ledger ledger;
    void* const before = host_memory::allocate(1000);
    void *a = nullptr, *b = nullptr, *c = nullptr;
    {
      const memory_scope rank(ledger, parameters);
      a = host_memory::allocate(100);
      {
        const memory_scope part(activations);
        b = host_memory::allocate(200);
        c = host_memory::allocate(0);
      }
      host_memory::deallocate(host_memory::allocate(50));
    }
    void* const after = host_memory::allocate(1000);
    CHECK(ledger(parameters).now == 100);
    CHECK(ledger(parameters).peak == 150);
    CHECK(ledger(activations).now == 200);
    CHECK(ledger(gradients).peak == 0);
    CHECK(ledger.total().now == 300);
    CHECK(ledger.total().peak == 350);
    for (void* block : {before, a, b, c, after}) host_memory::deallocate(block);
    CHECK(ledger.total().now == 0);
    CHECK(ledger(activations).peak == 200);
  }
  TEST_CASE("a stack is charged where it was first used, also when it grows later") {
    memory_ledger ledger;
    memory_stack<> stack;
    {
      const memory_scope part(ledger, scratch);
      stack.reserve(4096);
    }
    CHECK(ledger(scratch).now == 4096);
    stack.take(std::size_t{3} << 20);
    CHECK(ledger(scratch).now == 4096 + (std::size_t{3} << 20));
    memory_stack<> moved = std::move(stack);
    moved.take(std::size_t{5} << 20);
    CHECK(ledger(scratch).now == 4096 + (std::size_t{8} << 20));
    moved = memory_stack<>();
    CHECK(ledger.total().now == 0);
  }
  TEST_CASE("each thread has its own scope; a block may be freed by another thread and outlive its ledger") {
    std::vector<void*> blocks(8);
    {
      memory_ledger ledger;
      std::vector<std::thread> threads;
      for (std::size_t t = 0; t < blocks.size(); ++t)
        threads.emplace_back([&, t] {
          host_memory::deallocate(host_memory::allocate(77));  // not charged
          const memory_scope rank(ledger, t % 2 ? optimizer : gradients);
          for (int i = 0; i < 100; ++i) host_memory::deallocate(host_memory::allocate(10));
          blocks[t] = host_memory::allocate(1000);
        });
      for (std::thread& t : threads) t.join();
      CHECK(ledger(optimizer).now == 4000);
      CHECK(ledger(gradients).now == 4000);
      CHECK(ledger.total().now == 8000);
      host_memory::deallocate(blocks[0]);
      CHECK(ledger(gradients).now == 3000);
    }
    for (std::size_t t = 1; t < blocks.size(); ++t) host_memory::deallocate(blocks[t]);
  }
  TEST_CASE("a stack that outlives its ledger may still grow") {
    memory_stack<> stack;
    {
      const memory_ledger ledger;
      const memory_scope part(ledger, scratch);
      stack.reserve(64);
    }
    stack.take(std::size_t{2} << 20);
  }
  TEST_CASE("memory that cannot be had is not charged") {
    memory_ledger ledger;
    const memory_scope rank(ledger);
    CHECK_THROWS_AS(host_memory::allocate(std::numeric_limits<std::size_t>::max() - 10), out_of_memory);
    CHECK(ledger.total().peak == 0);
  }
  TEST_CASE("a budget allows its last byte and refuses the next, says what is left, and gets back what is freed") {
    memory_ledger ledger(1, 1000);
    const memory_scope rank(ledger, gradients);
    void* const most = host_memory::allocate(600);
    void* const rest = host_memory::allocate(400);
    CHECK_THROWS_WITH_AS(host_memory::allocate(1),
                         doctest::Contains("1 bytes of host memory for gradients of rank 1, of whose budget 0 are left; use"),
                         out_of_memory);
    host_memory::deallocate(rest);
    {
      const memory_scope part(scratch);
      try {
        host_memory::deallocate(host_memory::allocate(401));
        FAIL("it is over the budget");
      } catch (const out_of_memory& e) {
        CHECK(e.rank() == 1);
        CHECK(e.need() == 401);
        CHECK(e.have() == 400);
        CHECK(e.what_for() == scratch);
      }
    }
    CHECK(ledger.total().now == 600);
    CHECK(ledger.total().peak == 1000);
    CHECK(ledger(scratch).peak == 0);
    host_memory::deallocate(host_memory::allocate(400));
    host_memory::deallocate(most);
    CHECK_THROWS_AS(host_memory::allocate(std::numeric_limits<std::size_t>::max() - 100), out_of_memory);  // no overflow
    CHECK(ledger.total().now == 0);
  }
  TEST_CASE("a report is the ledger at its moment, every category by its name, and changes no more") {
    memory_ledger ledger;
    std::vector<void*> blocks;
    for (std::size_t i = 0; i < memory_categories; ++i) {
      const memory_scope part(ledger, memory_category(i));
      blocks.push_back(host_memory::allocate(100 * (i + 1)));
      host_memory::deallocate(host_memory::allocate(7));
    }
    const memory_report report = ledger.report();
    for (void* block : blocks) host_memory::deallocate(block);
    for (std::size_t i = 0; i < memory_categories; ++i) {
      CHECK(report(memory_category(i)).now == 100 * (i + 1));
      CHECK(report(memory_category(i)).peak == 100 * (i + 1) + 7);
      CHECK(ledger(memory_category(i)).now == 0);
    }
    CHECK(report.total.now == 2800);
    CHECK(report.total.peak == 2807);  // the seven peaks did not coincide
    CHECK(name_of(scratch) == std::string("scratch"));
    CHECK(name_of(other) == std::string("other"));
    static_assert(std::is_trivially_copyable_v<memory_report>);
  }
  TEST_CASE("blocks stay aligned and whole under a ledger, whichever thread frees them, while others allocate") {
    memory_ledger ledger;
    constexpr int threads = 4, rounds = 400;
    std::vector<std::atomic<unsigned char*>> handed(threads);
    std::atomic<int> wrong{0};
    std::vector<std::thread> ranks;
    for (int t = 0; t < threads; ++t)
      ranks.emplace_back([&, t] {
        const memory_scope rank(ledger, memory_category(t));
        for (int i = 0; i < rounds; ++i) {
          const std::size_t bytes = std::size_t(1 + (i * 37 + t) % 300);
          auto* const mine = static_cast<unsigned char*>(host_memory::allocate(bytes));
          if (std::uintptr_t(mine) % 64 != 0) ++wrong;
          std::fill_n(mine, bytes, static_cast<unsigned char>(t));
          unsigned char* const theirs = handed[std::size_t((t + 1) % threads)].exchange(nullptr);  // a neighbour's block, freed here
          if (theirs != nullptr && *theirs != (t + 1) % threads) ++wrong;
          host_memory::deallocate(theirs);
          host_memory::deallocate(handed[std::size_t(t)].exchange(mine));
        }
      });
    for (std::thread& rank : ranks) rank.join();
    for (auto& block : handed) host_memory::deallocate(block.load());
    CHECK(wrong == 0);
    CHECK(ledger.total().now == 0);
    for (int t = 0; t < threads; ++t) {
      CHECK(ledger(memory_category(t)).now == 0);
      CHECK(ledger(memory_category(t)).peak >= 300);
    }
    CHECK(ledger(other).peak == 0);
  }
}
