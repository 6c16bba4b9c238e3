#include <moefold/core/memory.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>

using namespace moefold;

// Under a sanitizer too, memory that cannot be had is to be null, not the end of the program.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

/// A memory that keeps books and may run out.
struct booked {
  static constexpr std::size_t alignment = 64;
  static inline int live = 0, made = 0, left = 1000;

  static void open(int allowed = 1000) { live = made = 0, left = allowed; }
  static void* allocate(std::size_t bytes) {
    require<out_of_memory>(left > 0, "moefold: booked out");
    ++live, ++made, --left;
    return ::operator new (bytes, std::align_val_t{alignment});
  }
  static void deallocate(void* block) noexcept {
    --live;
    ::operator delete (block, std::align_val_t{alignment});
  }
};
using stack = memory_stack<booked>;

}  // namespace

TEST_SUITE("core/memory") {
  TEST_CASE("host memory is aligned to a cache line and counts its allocations") {
    const std::size_t before = host_memory::allocations();
    void* blocks[3];
    for (void*& block : blocks) {
      block = host_memory::allocate(7);
      CHECK(std::uintptr_t(block) % 64 == 0);
    }
    for (void* block : blocks) host_memory::deallocate(block);
    host_memory::deallocate(nullptr);
    CHECK(host_memory::allocations() == before + 3);
  }
  TEST_CASE("memory that cannot be had is an error that says how much was asked for, and is not counted") {
    const std::size_t before = host_memory::allocations(), all = std::numeric_limits<std::size_t>::max() / 2;
    CHECK_THROWS_WITH_AS(host_memory::allocate(all), doctest::Contains("could not allocate 9223372036854775807 bytes of host memory; use"),
                         out_of_memory);
    CHECK(host_memory::allocations() == before);
  }

  TEST_CASE("the n-th allocation of a thread fails when told to, once, as if the system had none left, and nothing is charged") {
    memory_ledger ledger(3);
    const memory_scope rank(ledger, memory_category::optimizer);
    failing_allocation::arm(2);
    CHECK(failing_allocation::left() == 2);
    std::thread([] { host_memory::deallocate(host_memory::allocate(1)); }).join();  // another's do not count
    void* const first = host_memory::allocate(10);
    const std::size_t before = host_memory::allocations(), bytes = host_memory::bytes_of_this_thread();
    try {
      host_memory::deallocate(host_memory::allocate(20));
      FAIL("it did not fail");
    } catch (const out_of_memory& e) {
      CHECK(e.what() ==
            std::string("moefold: could not allocate 20 bytes of host memory for optimizer of rank 3; use fewer ranks per machine, a "
                        "smaller micro-batch or a smaller model"));
      CHECK(e.rank() == 3);
      CHECK(e.need() == 20);
      CHECK(e.have() == 0);
      CHECK(e.what_for() == memory_category::optimizer);
    }
    CHECK(failing_allocation::left() == 0);
    CHECK(host_memory::allocations() == before);
    CHECK(host_memory::bytes_of_this_thread() == bytes);
    CHECK(ledger.total().now == 10);
    host_memory::deallocate(host_memory::allocate(30));
    host_memory::deallocate(first);
  }

  TEST_CASE("pieces are aligned, neighbours, and apart; zero bytes give a valid pointer of their own") {
    booked::open();
    stack s;
    std::byte* a = s.take(1);
    std::byte* b = s.take(0);
    std::byte* c = s.take(65);
    std::byte* d = s.take(64);
    for (std::byte* piece : {a, b, c, d}) CHECK(std::uintptr_t(piece) % 64 == 0);
    CHECK((b == a + 64 && c == b + 64 && d == c + 128));
    CHECK(s.peak() == 5 * 64);
    CHECK(booked::made == 1);
  }
  TEST_CASE("a released mark hands the same bytes out again, inner marks first") {
    booked::open();
    stack s;
    s.take(100);
    const auto outer = s.mark();
    std::byte* a = s.take(100);
    const auto inner = s.mark();
    std::byte* b = s.take(100);
    s.release(inner);
    CHECK(s.take(10) == b);
    s.release(outer);
    CHECK(s.take(300) == a);
    s.clear();
    CHECK(s.take(1) == a - 128);
    CHECK(booked::made == 1);
  }
  TEST_CASE("a full chunk is followed by the next, pointers stay valid, and a piece larger than a chunk gets one of its size") {
    booked::open();
    stack s(128);
    CHECK(s.capacity() == 128);
    std::byte* first = s.take(100);
    std::memset(first, 1, 100);
    std::byte* second = s.take(100);  // does not fit behind the first: a chunk of at least 1 MiB
    std::memset(second, 2, 100);
    CHECK((booked::made == 2 && s.capacity() == 128 + mib));
    std::byte* large = s.take(3 * mib);
    std::memset(large, 3, 3 * mib);
    CHECK((booked::made == 3 && s.capacity() == 128 + 4 * mib));
    CHECK((first[99] == std::byte{1} && second[0] == std::byte{2} && large[3 * mib - 1] == std::byte{3}));
  }
  TEST_CASE("a mark in one chunk releases the chunks behind it, and they are used again in the same order") {
    booked::open();
    stack s;
    s.take(mib / 2);
    const auto mark = s.mark();
    std::byte* second = s.take(mib);
    std::byte* third = s.take(2 * mib);
    s.release(mark);
    CHECK(s.take(mib) == second);
    CHECK(s.take(2 * mib) == third);
    CHECK(booked::made == 3);
  }
  TEST_CASE("what repeats allocates only the first time") {
    booked::open();
    stack s;
    const auto step = [&] {
      for (const std::size_t bytes : {100u, 700000u, 400000u, 64u, 2000000u, 1u}) {
        const auto mark = s.mark();
        s.take(bytes);
        s.take(bytes);
        if (bytes % 2 == 1) s.release(mark);
      }
      s.clear();
    };
    step();
    const int warm = booked::made;
    const std::size_t peak = s.peak(), capacity = s.capacity();
    for (int i = 0; i < 5; ++i) step();
    CHECK(booked::made == warm);
    CHECK((s.peak() == peak && s.capacity() == capacity));
  }
  TEST_CASE("the peak is the most that was in use at once, whatever the chunks' ends left over") {
    booked::open();
    stack s;
    s.take(mib / 2);
    s.take(mib);  // the second half of chunk 0 stays empty
    const auto mark = s.mark();
    CHECK(s.peak() == mib / 2 + mib);
    s.release(mark);
    s.take(64);
    CHECK(s.peak() == mib / 2 + mib + 64);
    s.clear();
    s.take(2 * mib);
    CHECK(s.peak() == 2 * mib);
  }
  TEST_CASE("reserved memory is made at once, and what fits into it needs no more") {
    booked::open();
    stack s;
    s.reserve(0);
    CHECK(booked::made == 0);
    s.reserve(5 * mib + 1);
    CHECK((booked::made == 1 && s.capacity() == 5 * mib + 64));
    for (int i = 0; i < 5; ++i) s.take(mib);
    s.take(64);
    CHECK(booked::made == 1);
    s.take(1);
    CHECK(booked::made == 2);
  }
  TEST_CASE("a stack moves with its memory, and gives all of it back at its end") {
    booked::open();
    {
      stack a(100), c(100);
      std::byte* piece = a.take(10);
      const auto mark = a.mark();
      a.take(10);
      stack b(std::move(a));
      b.release(mark);
      CHECK(b.take(1) == piece + 64);
      CHECK(a.capacity() == 0);
      c = std::move(b);
      CHECK((c.capacity() == 128 && c.peak() == 128 && b.capacity() == 0));
      CHECK(booked::live == 1);
      b.take(1);  // what was moved from is an empty stack
      CHECK(booked::live == 2);
    }
    CHECK(booked::live == 0);
  }
  TEST_CASE("a stack that could not grow goes on with what it has") {
    booked::open(1);
    {
      stack s(128);
      const auto mark = s.mark();
      std::byte* first = s.take(64);
      CHECK_THROWS_AS(s.take(mib), out_of_memory);
      s.release(mark);
      CHECK(s.take(128) == first);
    }
    CHECK(booked::live == 0);
  }
}
