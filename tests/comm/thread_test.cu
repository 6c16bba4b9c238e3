#include <moefold/comm/thread.cuh>

#include "../support/device_place.hpp"

#include <moefold/comm/chaos.hpp>
#include <moefold/comm/recording.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

using namespace moefold;
using namespace std::chrono_literals;

static_assert(communicator<recording<device_thread_comm>, cuda_exec> && overlapping<recording<device_thread_comm>, cuda_exec>);
static_assert(fetching<recording<device_thread_comm>> && !fetching<recording<device_thread_comm>, cuda_exec>);
static_assert(communicator<chaos<device_thread_comm>, cuda_exec> && overlapping<chaos<device_thread_comm>, cuda_exec>);

namespace {

/// f(world, place) on ranks with a context each.
template <class F>
void on_device(int ranks, F&& f, thread_options options = {}) {
  run_device_threads(
      ranks,
      [&](device_thread_comm& world) {
        cuda_context context(0);
        const test::in_device_memory at{cuda_exec(context)};
        f(world, at);
        at.e.wait();
      },
      options);
}

template <class T>
bool all_are(const std::vector<T>& v, T wanted) {
  return all_equal(v, [&](std::size_t) { return wanted; });
}

}  // namespace

static_assert(communicator<device_thread_comm> && communicator<device_thread_comm, cuda_exec>);  // over all element types

TEST_SUITE("comm/thread") {
  TEST_CASE("thread ranks over device memory are a communicator, whatever their number") {
    for (int ranks : {1, 2, 4}) {
      CAPTURE(ranks);
      on_device(ranks, [&](device_thread_comm& world, const auto& at) {
        if (ranks == 2)
          check_communicator(world, at);
        else
          check_communicator<float, bf16>(world, at);
      });
    }
  }
  TEST_CASE("over host memory they are the communicator they were") {
    run_device_threads(3, [](device_thread_comm& world) { check_communicator<float, std::int64_t>(world); });
  }
  TEST_CASE("apart from its caller, a communicator over device memory is a communicator, over host memory too") {
    for (int ranks : {1, 3}) {
      CAPTURE(ranks);
      on_device(ranks, [](device_thread_comm& world, const auto& at) {
        device_thread_comm beside = world.apart("beside");
        CHECK(beside.label() == comm_label("beside"));
        check_communicator<float, bf16>(beside, at);
        check_communicator<float>(beside);
        device_thread_comm further = beside.apart();
        check_communicator<bf16>(further, at);
      });
    }
  }
  TEST_CASE("sums have the bits of host ranks, at any alignment, in place and not") {
    std::vector<std::vector<float>> in;
    for (int r = 0; r < 5; ++r) {
      const auto values = test::random_tensor<float>({3001}, std::uint64_t(r), r == 1 ? 1e4 : 1.0);
      in.emplace_back(values.begin(), values.end());
    }
    std::vector<float> sums(3001);
    run_threads(5, [&](thread_comm& world) {
      host_context context;
      std::vector<float> out(3001);
      world.all_reduce(host_exec(context), in[std::size_t(world.rank())], out, sum{});
      if (world.rank() == 0) sums = out;
    });
    on_device(5, [&](device_thread_comm& world, const auto& at) {
      for (std::size_t skip : {0u, 1u, 4u}) {
        const std::vector<float>& mine = in[std::size_t(world.rank())];
        auto whole = at.put(mine), out = at.room(mine.size(), 0.0f);
        const auto part = span_of(whole).subspan(skip);
        world.all_reduce(at.e, part, span_of(out).subspan(skip), sum{});
        world.all_reduce(at.e, part, part, sum{});
        const auto separate = at.get(span_of(out).subspan(skip)), in_place = at.get(part);
        CHECK(all_equal(separate, [&](std::size_t i) { return sums[skip + i]; }));
        CHECK(all_equal(in_place, [&](std::size_t i) { return sums[skip + i]; }));
      }
    });
  }
  TEST_CASE("bf16 sums are made in fp32, in rank order, and rounded once") {
    on_device(4, [](device_thread_comm& world, const auto& at) {
      for (std::size_t count : {1u, 5000u}) {
        auto in = at.put(std::vector<bf16>(count, bf16(world.rank() == 0 ? 256.0f : 1.0f)));
        auto out = at.room(count, bf16());
        world.all_reduce(at.e, in, out, sum{});
        CHECK(all_are(at.get(out), bf16(259.0f)));
      }
    });
  }
  TEST_CASE("operations follow each other without the host waiting, each seeing what the one before wrote") {
    on_device(3, [](device_thread_comm& world, const auto& at) {
      auto a = at.put(std::vector<std::int64_t>(1000, 1)), b = at.room(1000, std::int64_t());
      for (int round = 0; round < 5; ++round) {
        world.all_reduce(at.e, a, b, sum{});  // 3^(2 round + 1)
        world.all_reduce(at.e, b, a, sum{});
        at.spoil(b);
      }
      CHECK(all_are(at.get(a), std::int64_t(59049)));
    });
  }
  TEST_CASE("a rank that is late on its device is waited for by the peers' devices") {
    on_device(2, [](device_thread_comm& world, const auto& at) {
      for (int late : {0, 1}) {
        auto in = at.put(std::vector<float>(256, 1.0f)), out = at.room(512, 0.0f), letter = at.room(256, 0.0f);
        for (int i = 0; world.rank() == late && i < 50; ++i) at.spoil(in), at.spoil(letter);  // its queue is long
        auto again = at.put(std::vector<float>(256, 7.0f));
        world.all_gather(at.e, again, out);
        world.send(at.e, again, 1 - world.rank());
        at.spoil(again);
        world.recv(at.e, letter, 1 - world.rank());
        CHECK(all_are(at.get(out), 7.0f));
        CHECK(all_are(at.get(letter), 7.0f));
      }
    });
  }
  TEST_CASE("a send waits for nobody, letters keep their order, and rooms are used again") {
    on_device(2, [](device_thread_comm& world, const auto& at) {
      const int peer = 1 - world.rank();
      std::size_t allocations = 0;
      for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 7; ++i) {
          auto letter = at.put(std::vector<std::int32_t>(std::size_t(i * 40), i + round));
          world.send(at.e, letter, peer);
          at.spoil(letter);
        }
        for (int i = 0; i < 7; ++i) {
          auto out = at.room(std::size_t(i * 40), std::int32_t());
          world.recv(at.e, out, peer);
          CHECK(all_are(at.get(out), std::int32_t(i + round)));
        }
        world.barrier(at.e);
        if (round == 0) allocations = device_memory::allocations();
      }
      world.barrier(at.e);
      CHECK(device_memory::allocations() - allocations <= 2 * 3 * 14);  // the test's own tensors, of both ranks
    });
  }
  TEST_CASE("after its first calls a communicator allocates nothing, of device memory") {
    on_device(3, [](device_thread_comm& world, const auto& at) {
      device_thread_comm beside = world.apart("grads");
      auto in = at.put(std::vector<float>(3 * 700, 1.0f)), out = at.room(3 * 700, 0.0f), part = at.room(700, 0.0f);
      const auto round = [&] {
        auto t = beside.all_reduce(at.e, in, out, sum{});
        world.reduce_scatter(at.e, in, part, sum{});
        world.send(at.e, part, (world.rank() + 1) % 3);
        world.recv(at.e, part, (world.rank() + 2) % 3);
        t.wait(at.e);
        world.all_gather(at.e, part, out);
        world.all_to_all(at.e, in, out);
      };
      round();
      world.barrier(at.e);
      const std::size_t before = device_memory::allocations();
      for (int i = 0; i < 10; ++i) round();
      world.barrier(at.e);
      CHECK(device_memory::allocations() == before);
      at.e.wait();
    });
  }
  TEST_CASE("apart operations go on beside the caller's stream, and a ticket orders the two") {
    on_device(3, [](device_thread_comm& world, const auto& at) {
      device_thread_comm pair = world.split(0, world.rank(), "pair");
      device_thread_comm all = world.apart("all"), two = pair.apart("two");
      auto a = at.put(std::vector<std::int64_t>(3000, 1)), b = at.room(3000, std::int64_t()), c = at.put(std::vector<std::int64_t>(300, 1));
      std::int64_t wanted = 1;
      for (int round = 0; round < 5; ++round) {
        const auto first = all.all_reduce(at.e, a, a, sum{});
        const auto second = two.all_reduce(at.e, a, b, sum{});  // reads what the first one wrote
        world.all_reduce(at.e, c, c, sum{});
        second.wait(at.e);
        wanted *= 3;
        CHECK(all_are(at.get(a), wanted));
        CHECK(all_are(at.get(b), 3 * wanted));
        CHECK(all_are(at.get(c), wanted));
        at.spoil(b);
        first.wait(at.e);
      }
    });
  }
  TEST_CASE("more operations in flight than a helper's ring holds end well, and the host can wait for one") {
    on_device(2, [](device_thread_comm& world, const auto& at) {
      device_thread_comm beside = world.apart("beside");
      host_context context;
      auto a = at.put(std::vector<std::int64_t>(10, 0)), one = at.put(std::vector<std::int64_t>(10, 1));
      std::vector<device_thread_comm::ticket> tickets;
      for (int i = 0; i < 300; ++i) tickets.push_back(beside.all_reduce(at.e, one, a, sum{}));
      tickets[3].wait(at.e);  // its place in the ring has been used again
      tickets.back().wait(host_exec(context));
      CHECK(all_are(at.get(a), std::int64_t(2)));
    });
  }
  TEST_CASE("apart, what the helper does while its caller waits for a peer cannot deadlock") {
    on_device(2, [](device_thread_comm& world, const auto& at) {  // rank 1 issues only when rank 0 has sent, after it has issued
      device_thread_comm beside = world.apart("beside");
      auto a = at.put(std::vector<float>(100, 1.0f)), b = at.room(100, 0.0f);
      if (world.rank() == 1) world.recv(at.e, b, 0);
      const auto t = beside.all_reduce(at.e, a, a, sum{});
      if (world.rank() == 0) world.send(at.e, a, 1);
      t.wait(at.e);
      if (world.rank() == 1) CHECK(all_are(at.get(a), 2.0f));
    });
  }
  TEST_CASE("a ticket orders another stream than the operation's too") {
    on_device(2, [](device_thread_comm& world, const auto& at) {
      const cuda_stream other;
      const test::in_device_memory there{at.e.on(other)};
      auto in = there.put(std::vector<float>(100, 1.0f)), out = there.room(100, 0.0f);
      world.all_reduce(there.e, in, out, sum{}).wait(at.e);
      CHECK(all_are(at.get(out), 2.0f));
      host_context context;
      world.all_reduce(there.e, out, in, sum{}).wait(host_exec(context));
      CHECK(all_are(at.get(in), 4.0f));
    });
  }
  TEST_CASE("calls on host and device memory alternate on one communicator") {
    on_device(3, [](device_thread_comm& world, const auto& at) {
      host_context context;
      const host_exec h(context);
      for (std::int64_t i = 0; i < 4; ++i) {
        std::vector<std::int64_t> number{i};
        world.all_reduce(h, number, number, sum{}).wait(h);
        CHECK(number[0] == 3 * i);
        auto on_device = at.put(std::vector<std::int64_t>(50, i));
        world.all_reduce(at.e, on_device, on_device, moefold::max{});
        CHECK(all_are(at.get(on_device), i));
      }
    });
  }
  TEST_CASE("ranks on several devices of one process are a communicator, apart too") {
    int devices = 0;
    cuda_check(cudaGetDeviceCount(&devices), "counting devices");
    if (devices < 2) return;
    run_device_threads(3, [](device_thread_comm& world) {
      cuda_context context(world.rank() % 2);
      const test::in_device_memory at{cuda_exec(context)};
      check_communicator<float>(world, at);
      device_thread_comm beside = world.apart("beside");
      check_communicator<float>(beside, at);
      at.e.wait();
    });
  }
  TEST_CASE("a recorded one counts what the rule says") {
    on_device(3, [](device_thread_comm& world, const auto& at) {
      traffic_log log;
      recording<device_thread_comm> c(std::move(world), log);
      check_communicator<float>(c, at);
      log.clear();
      auto nine = at.put(std::vector<float>(9, 1.0f)), three = at.room(3, 0.0f);
      c.all_reduce(at.e, nine, nine, sum{});
      c.reduce_scatter(at.e, nine, three, sum{});
      c.send(at.e, three, (c.rank() + 1) % 3);
      c.recv(at.e, three, (c.rank() + 2) % 3);
      const auto beside = c.apart("grads").reduce_scatter(at.e, nine, three, sum{});
      beside.wait(at.e);
      CHECK(log("world", operation::all_reduce) == traffic_count{1, 4, 2 * 2 * 3 * 4});
      CHECK(log("world", operation::reduce_scatter) == traffic_count{1, 2, 24});
      CHECK(log("world", operation::send) == traffic_count{1, 1, 12});
      CHECK(log("grads", operation::reduce_scatter) == traffic_count{1, 2, 24});
      CHECK(all_are(at.get(three), 9.0f));
      world = std::move(c.inner());
    });
  }
}
