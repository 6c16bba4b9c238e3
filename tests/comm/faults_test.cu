#include <moefold/comm/chaos.cuh>
#include <moefold/comm/thread.cuh>

#include "../support/device_place.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <string>

// Thread ranks over device memory fail as those over host memory do: the same classes, the same root cause on every rank, the same sentences.
using namespace moefold;
using namespace std::chrono_literals;

namespace {

constexpr int ranks = 3;
constexpr std::array calls{
    operation::barrier,      operation::broadcast,      operation::reduce,           operation::all_reduce, operation::all_gather,
    operation::all_gather_v, operation::reduce_scatter, operation::reduce_scatter_v, operation::all_to_all, operation::all_to_all_v,
    operation::send};

/// Room for every operation, in some place; `out` holds -1 until something is written.
template <class Place>
struct buffers {
  const Place& at;
  std::size_t count = 200;  // per peer
  decltype(at.put(std::vector<float>())) in = at.put(std::vector<float>(count * ranks, 1.0f)),
                                         out = at.put(std::vector<float>(count * ranks, -1.0f));
  std::vector<std::size_t> counts = std::vector<std::size_t>(ranks, count);

  explicit buffers(const Place& place) : at(place) {}
  std::span<const float> part() { return span_of(in).first(count); }
  std::span<float> out_part() { return span_of(out).first(count); }
  bool clean() {
    return all_equal(at.get(out), [](std::size_t) { return -1.0f; });
  }
};

template <class C, class Place>
void make_call(C& c, operation op, buffers<Place>& b) {
  const auto e = b.at.e;
  switch (op) {
    case operation::barrier: c.barrier(e).wait(e); break;
    case operation::broadcast: c.broadcast(e, b.out_part(), 0).wait(e); break;
    case operation::reduce: c.reduce(e, b.part(), b.out_part(), sum{}, 0).wait(e); break;
    case operation::all_reduce: c.all_reduce(e, b.part(), b.out_part(), sum{}).wait(e); break;
    case operation::all_gather: c.all_gather(e, b.part(), b.out).wait(e); break;
    case operation::all_gather_v: c.all_gather_v(e, b.part(), b.counts, b.out).wait(e); break;
    case operation::reduce_scatter: c.reduce_scatter(e, b.in, b.out_part(), sum{}).wait(e); break;
    case operation::reduce_scatter_v: c.reduce_scatter_v(e, b.in, b.counts, b.out_part(), sum{}).wait(e); break;
    case operation::all_to_all: c.all_to_all(e, b.in, b.out).wait(e); break;
    case operation::all_to_all_v: c.all_to_all_v(e, b.in, b.counts, b.out, b.counts).wait(e); break;
    default: c.send(e, b.part(), (c.rank() + 1) % c.size()).wait(e); c.recv(e, b.out_part(), (c.rank() + c.size() - 1) % c.size()).wait(e);
  }
}

/// f(world, place) on device ranks, each with a context that outlives what fails.
template <class F>
void on_device(F&& f, thread_options options = {}) {
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
template <class F>
void on_host(F&& f, thread_options options = {}) {
  run_threads(
      ranks,
      [&](thread_comm& world) {
        host_context context;
        f(world, in_host_memory{host_exec(context)});
      },
      options);
}

/// What a world that fails throws to its caller, in words.
template <class World, class F>
std::string failure_of(World world, F&& f) {
  try {
    world(f);
  } catch (const signature_mismatch& e) {
    return e.what();
  }
  return "nothing failed";
}
template <class F>
void same_sentence(F&& f) {
  const std::string host = failure_of([](auto&g) { on_host(g); }, f), device = failure_of([](auto&g) { on_device(g); }, f);
  CHECK(host.find("ranks disagree on") != host.npos);
  CHECK(device == host);
}

}  // namespace

TEST_SUITE("comm/faults") {
  TEST_CASE("a rank that throws in any operation, before, inside or after it, ends all ranks with one root cause") {
    for (const char* phase : {"before", "inside", "after"})
      for (const operation op : calls)
        for (int victim = 0; victim < ranks; victim += 2) {
          CAPTURE(phase);
          CAPTURE(name_of(op));
          const auto plan = parse_faults(sentence("rank=", victim, " axis=tp op=", name_of(op), " seq=1 do=throw phase=", phase));
          std::atomic<int> told{0};
          CHECK_THROWS_AS(on_device([&](device_thread_comm& inner, const auto& at) {
                            chaos<device_thread_comm> world(std::move(inner), plan);
                            auto tp = world.split(0, world.rank(), "tp");
                            buffers<test::in_device_memory> b(at);
                            try {
                              for (int i = 0; i < 3; ++i) make_call(tp, op, b);
                              tp.barrier(at.e);
                            } catch (const peer_failed& failure) {
                              CHECK(failure.cause().rank == victim);
                              ++told;
                              throw;
                            }
                          }),
                          injected_fault);
          CHECK(told == ranks - 1);
        }
  }
  TEST_CASE("the same on the helper's lane: the ticket throws") {
    for (const operation op : {operation::all_reduce, operation::all_to_all_v}) {
      const auto plan = parse_faults(sentence("rank=1 axis=grads op=", name_of(op), " seq=1 do=throw phase=inside"));
      std::atomic<int> told{0};
      CHECK_THROWS_AS(on_device([&](device_thread_comm& inner, const auto& at) {
                        chaos<device_thread_comm> world(std::move(inner), plan);
                        auto grads = world.apart("grads");
                        buffers<test::in_device_memory> b(at);
                        try {
                          for (int i = 0; i < 3; ++i) make_call(grads, op, b);
                        } catch (const peer_failed& failure) {
                          CHECK(failure.cause().rank == 1);
                          ++told;
                          throw;
                        }
                      }),
                      injected_fault);
      CHECK(told == ranks - 1);
    }
  }
  TEST_CASE("ranks that call different operations are told so in the words of host ranks, and no data is written") {
    for (std::size_t i = 0; i + 2 < calls.size(); ++i) {
      CAPTURE(name_of(calls[i]));
      same_sentence([&](auto& world, const auto& at) {
        buffers<std::remove_cvref_t<decltype(at)>> b(at);
        try {
          make_call(world, calls[i + (world.rank() == 1)], b);
        } catch (const signature_mismatch&) {
          CHECK(b.clean());
          throw;
        }
      });
    }
  }
  TEST_CASE("counts, types, roots and reductions that differ are told in the words of host ranks") {
    same_sentence([](auto& world, const auto& at) {
      auto in = at.put(std::vector<float>(world.rank() == 2 ? 5 : 4)), out = at.room(world.rank() == 2 ? 5 : 4, 0.0f);
      world.all_reduce(at.e, in, out, sum{});
    });
    same_sentence([](auto& world, const auto& at) {
      auto floats = at.put(std::vector<float>(4));
      auto integers = at.put(std::vector<std::int32_t>(4));
      if (world.rank() == 0)
        world.broadcast(at.e, floats, 1);
      else
        world.broadcast(at.e, integers, 1);
    });
    same_sentence([](auto& world, const auto& at) {
      auto in = at.put(std::vector<float>(4));
      world.reduce(at.e, in, in, sum{}, world.rank() == 1);
    });
    same_sentence([](auto& world, const auto& at) {
      auto in = at.put(std::vector<float>(4));
      if (world.rank() == 1)
        world.all_reduce(at.e, in, in, moefold::max{});
      else
        world.all_reduce(at.e, in, in, sum{});
    });
    same_sentence([](auto& world, const auto& at) {
      std::vector<std::size_t> send(3, 2), recv(3, 2);
      if (world.rank() == 1) send = {2, 1, 3};
      auto in = at.put(std::vector<float>(6)), out = at.room(6, 0.0f);
      world.all_to_all_v(at.e, in, send, out, recv);
    });
    same_sentence([](auto& world, const auto& at) {  // letters
      auto in = at.put(std::vector<float>(3)), out = at.room(4, 0.0f);
      if (world.rank() == 0) world.send(at.e, in, 1);
      if (world.rank() == 1) world.recv(at.e, out, 0);
      world.barrier(at.e);
    });
  }
  TEST_CASE("a call on device memory and one on host memory do not meet") {
    CHECK_THROWS_WITH_AS(
        on_device([](device_thread_comm& world, const auto& at) {
          host_context context;
          std::vector<float> here(4);
          auto there = at.put(here);
          if (world.rank() == 1)
            world.all_reduce(host_exec(context), here, here, sum{});
          else
            world.all_reduce(at.e, there, there, sum{});
        }),
        doctest::Contains("all_reduce #0 of 4 x fp32, sum, in device memory (ranks 0, 2) but all_reduce #0 of 4 x fp32, sum (ranks 1)"),
        signature_mismatch);
    CHECK_THROWS_WITH_AS(on_device([](device_thread_comm& world, const auto& at) {
                           host_context context;
                           std::vector<float> here(4);
                           auto there = at.put(here);
                           if (world.rank() == 0) world.send(at.e, there, 1);
                           if (world.rank() == 1) world.recv(host_exec(context), here, 0);
                           world.barrier(at.e);
                         }),
                         doctest::Contains("send #0 of 4 x fp32, in device memory (rank 0) but recv #0"), signature_mismatch);
  }
  TEST_CASE("a rank that does not come is a timeout on the others; sizes that contradict each other are an error at once") {
    CHECK_THROWS_WITH_AS(on_device(
                             [](device_thread_comm& world, const auto& at) {
                               auto in = at.put(std::vector<float>(4));
                               if (world.rank() == 2) std::this_thread::sleep_for(600ms);
                               world.all_reduce(at.e, in, in, sum{});
                             },
                             {.first_deadline = 100ms}),
                         doctest::Contains("missing: 2"), timeout);
    CHECK_THROWS_WITH_AS(on_device([](device_thread_comm& world, const auto& at) {
                           auto three = at.put(std::vector<float>(3)), two = at.put(std::vector<float>(2));
                           world.all_reduce(at.e, three, two, sum{});
                         }),
                         "moefold: all_reduce got 3 elements in and room for 2; give both the same size", error);
  }
  TEST_CASE("lies about data, counts and types reach device memory") {
    for (const char* lie : {"count:+1", "count:-1", "dtype"}) {
      CAPTURE(lie);
      const auto plan = parse_faults(sentence("rank=1 op=all_to_all_v do=", lie));
      CHECK_THROWS_AS(on_device([&](device_thread_comm& inner, const auto& at) {
                        chaos<device_thread_comm> world(std::move(inner), plan);
                        buffers<test::in_device_memory> b(at);
                        make_call(world, operation::all_to_all_v, b);
                      }),
                      signature_mismatch);
    }
    for (const char* phase : {"before", "after"}) {
      const auto plan = parse_faults(sentence("rank=0 op=all_gather do=bitflip:payload phase=", phase));
      on_device([&](device_thread_comm& inner, const auto& at) {
        chaos<device_thread_comm> world(std::move(inner), plan);
        auto mine = at.put(std::vector<std::int32_t>(4, 8)), all = at.room(12, std::int32_t());
        world.all_gather(at.e, mine, all).wait(at.e);
        const auto got = at.get(all), kept = at.get(mine);
        const int wrong = int(std::count(got.begin(), got.end(), 9));
        CHECK(wrong == (phase == std::string_view("before") || world.rank() == 0 ? 1 : 0));
        CHECK(std::count(kept.begin(), kept.end(), 8) == 4);
      });
    }
  }
  TEST_CASE("after a failure inside an operation device ranks go on in a rebuilt world") {
    std::atomic<int> told{0}, right{0}, revoked{0};
    on_device([&](device_thread_comm& world, const test::in_device_memory& at) {
      for (int victim = 0; victim < ranks; ++victim) {
        auto numbers = at.put(std::vector<float>(300, 1.0f)), sums = at.room(300, 0.0f);
        device_thread_comm beside = world.apart("beside");  // destroyed before the data that its operations touch
        try {
          const auto in_flight = beside.all_reduce(at.e, numbers, sums, sum{});
          if (world.rank() == victim) throw injected_fault("moefold: injected fault");
          world.barrier(at.e).wait(at.e);
          in_flight.wait(at.e);
          world.barrier(at.e).wait(at.e);
        } catch (const injected_fault&) {
          world = world.rebuild();
        } catch (const peer_failed& f) {
          told += f.cause().rank == victim;
          world = world.rebuild();
        }
        try {
          beside.barrier(at.e).wait(at.e);
        } catch (const comm_revoked&) {
          ++revoked;
        }
        auto mine = at.put(std::vector<float>(300, float(world.rank() + 1))), all = at.room(300, 0.0f);
        world.all_reduce(at.e, mine, all, sum{}).wait(at.e);
        right += all_equal(at.get(all), [](std::size_t) { return 6.0f; });
      }
    });
    CHECK(told == ranks * (ranks - 1));
    CHECK(revoked == ranks * ranks);
    CHECK(right == ranks * ranks);
  }
}
