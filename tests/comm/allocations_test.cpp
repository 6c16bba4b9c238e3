#include <moefold/comm/thread.hpp>

#include "../support/run_ranks.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <new>

// All allocations of this test binary, to show that calls make none. Sanitizers bring their own operator new.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#endif
static std::atomic<std::size_t> allocations{0};
#if !defined(SANITIZED)
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* block = std::malloc(bytes)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept { std::free(block); }
#endif

using namespace moefold;

TEST_SUITE("comm/allocations") {
  TEST_CASE("after the first round no call allocates") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      const int right = (world.rank() + 1) % 4, left = (world.rank() + 3) % 4;
      for (std::size_t count : {8u, 5000u}) {
        std::vector<float> in(4 * count), out(4 * count);
        const std::vector<std::size_t> counts(4, count);
        const std::span<const float> part = std::span(in).first(count);
        const std::span<float> out_part = std::span(out).first(count);
        const auto round = [&] {
          world.barrier(e);
          world.broadcast(e, out, 1);
          world.reduce(e, in, out, sum{}, 2);
          world.all_reduce(e, in, out, max{});
          world.all_gather(e, part, out);
          world.all_gather_v(e, part, counts, out);
          world.reduce_scatter(e, in, out_part, sum{});
          world.reduce_scatter_v(e, in, counts, out_part, sum{});
          world.all_to_all(e, in, out);
          world.all_to_all_v(e, in, counts, out, counts);
          for (int i = 0; i < 3; ++i) world.send(e, part, right);
          for (int i = 0; i < 3; ++i) world.recv(e, out_part, left);
          auto window = world.expose(e, in);
          window.close();
        };
        for (int i = 0; i < 3; ++i) round();
        world.barrier(e);
        const std::size_t before = allocations;
        world.barrier(e);
        for (int i = 0; i < 20; ++i) round();
        world.barrier(e);
        const std::size_t after = allocations;
        world.barrier(e);
        CHECK(after - before == 0);
      }
    });
  }
  TEST_CASE("after the first round issuing to an apart communicator allocates nothing, and neither does its helper") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm beside = world.apart("beside");
      const int right = (world.rank() + 1) % 4, left = (world.rank() + 3) % 4;
      std::vector<float> in(4 * 5000), out(4 * 5000), letter(5000);
      const std::vector<std::size_t> counts(4, 5000);
      const std::span<float> part = std::span(out).first(5000);
      const auto round = [&] {
        beside.reduce_scatter(e, in, part, sum{});
        beside.reduce_scatter_v(e, in, counts, part, sum{});
        beside.all_gather(e, std::span(in).first(5000), out);
        beside.all_reduce(e, in, in, max{});
        beside.send(e, std::span(in).first(5000), right);
        beside.recv(e, letter, left);
        beside.barrier(e).wait(e);
      };
      for (int i = 0; i < 3; ++i) round();
      world.barrier(e);
      const std::size_t before = allocations;
      world.barrier(e);
      for (int i = 0; i < 20; ++i) round();
      world.barrier(e);
      const std::size_t after = allocations;
      world.barrier(e);
      CHECK(after - before == 0);
    });
  }
}
