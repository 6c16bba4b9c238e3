#include <moefold/comm/thread.hpp>

#include "../support/communicator_suite.hpp"
#include "../support/run_ranks.hpp"

#include <doctest/doctest.h>

#include <cstdlib>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

/// What a rank shows its peers in fetch_v: its elements, and where those for each of them begin.
struct basket {
  const std::int32_t* elements;
  const std::size_t* first;  // [ranks]
};
std::size_t for_peer(int from, int to) { return std::size_t(from + 2 * to) % 3; }
std::int32_t letter(int from, int to, std::size_t i, int round) { return ((round * 16 + from) * 16 + to) * 16 + std::int32_t(i); }

struct parcels {
  std::vector<std::size_t> send, recv, first;
  std::vector<std::int32_t> elements;

  parcels(const thread_comm& c, int round) {
    for (int p = 0; p < c.size(); ++p) {
      send.push_back(for_peer(c.rank(), p)), recv.push_back(for_peer(p, c.rank()));
      first.push_back(elements.size());
      for (std::size_t i = 0; i < send.back(); ++i) elements.push_back(letter(c.rank(), p, i, round));
    }
  }
  ~parcels() { std::fill(elements.begin(), elements.end(), -1); }  // seen by whoever reads too late
  basket show() const { return {elements.data(), first.data()}; }
};
bool mine_in(const basket& from, int peer, int me, int round) {
  bool same = true;
  for (std::size_t i = 0; i < for_peer(peer, me); ++i) same = same && from.elements[from.first[me] + i] == letter(peer, me, i, round);
  return same;
}

}  // namespace

static_assert(communicator<thread_comm>);  // over all element types

TEST_SUITE("comm/thread") {
  TEST_CASE("threads are a communicator, whatever their number") {
    for (int ranks : {1, 2, 3, 4, 8}) {
      CAPTURE(ranks);
      run_ranks(ranks, [](thread_comm& world) { check_communicator(world); });
    }
  }
  TEST_CASE("without the comparison of signatures the results are the same") {
    run_ranks(3, [](thread_comm& world) { check_communicator(world); }, {.check_signatures = false});
  }
  TEST_CASE("sums are made in rank order") {
    run_ranks<3>([](thread_comm& world) {  // 1e8 + 1 rounds to 1e8 in fp32, so (1e8 + 1) - 1e8 is 0 and no other order gives 0
      host_context context;
      const float values[] = {1e8f, 1.0f, -1e8f};
      for (std::size_t count : {1u, 5000u}) {
        const std::vector<float> in(count, values[world.rank()]);
        std::vector<float> out(count, 7.0f);
        world.all_reduce(host_exec(context), in, out, sum{});
        CHECK(all_equal(out, [](std::size_t) { return 0.0f; }));
      }
    });
  }
  TEST_CASE("bf16 sums are made in fp32 and rounded once") {
    run_ranks<4>([](thread_comm& world) {  // in bf16, 256 + 1 would stay 256 each time
      host_context context;
      for (std::size_t count : {1u, 5000u}) {
        const std::vector<bf16> in(count, bf16(world.rank() == 0 ? 256.0f : 1.0f));
        std::vector<bf16> out(count);
        world.all_reduce(host_exec(context), in, out, sum{});
        CHECK(all_equal(out, [](std::size_t) { return bf16(259.0f); }));
      }
    });
  }
  TEST_CASE("copies past the cache arrive whole, at any alignment") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const std::size_t count = (std::size_t{3} << 20) + 13;
      std::vector<std::int32_t> in(2 * count + 1), out(2 * count + 1);
      for (std::size_t i = 0; i < in.size(); ++i) in[i] = std::int32_t(i * 2 + std::size_t(world.rank()));
      world.all_to_all(host_exec(context), std::span(in).subspan(1), std::span(out).subspan(1));
      const auto me = std::size_t(world.rank());
      CHECK(all_equal(std::span(out).subspan(1), [&](std::size_t i) { return (me * count + i % count + 1) * 2 + i / count; }));
    });
  }
  TEST_CASE("a send does not wait for its recv, and letters keep their order") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      const int peer = 1 - world.rank();
      for (int round = 0; round < 3; ++round) {
        for (int i = 0; i < 20; ++i) world.send(e, std::vector<int>(std::size_t(i * i), i), peer);
        for (int i = 0; i < 20; ++i) {
          std::vector<int> out(std::size_t(i * i));
          world.recv(e, out, peer);
          CHECK(all_equal(out, [&](std::size_t) { return i; }));
        }
      }
    });
  }
  TEST_CASE("a rank's exception is thrown to the caller as it was") {
    struct my_error {
      int code;
    };
    int code = 0;
    try {
      run_ranks<4>([](thread_comm& world) {
        host_context context;
        world.barrier(host_exec(context));
        if (world.rank() == 2) throw my_error{42};
        world.barrier(host_exec(context));
      });
    } catch (const my_error& e) {
      code = e.code;
    }
    CHECK(code == 42);
  }
  TEST_CASE("the others learn culprit, axis and operation, and later calls are revoked") {
    std::atomic<int> past_the_pair{0}, checked{0};
    CHECK_THROWS_AS(run_ranks<4>([&](thread_comm& world) {
                      host_context context;
                      const host_exec e(context);
                      thread_comm pair = world.split(world.rank() / 2, 0, "tp");
                      pair.barrier(e);
                      if (world.rank() == 3) {  // the last to leave the pairs, so that all others are checked below
                        while (past_the_pair < 3) std::this_thread::yield();
                        throw std::runtime_error("disk on fire");
                      }
                      ++past_the_pair;
                      try {
                        world.barrier(e);
                        FAIL_CHECK("the barrier cannot pass");
                      } catch (const peer_failed& failure) {
                        const std::string text = failure.what();
                        CAPTURE(text);
                        CHECK(text.starts_with("moefold: barrier #1 on world, rank "));
                        CHECK(text.find("rank 3 failed after barrier #0 on tp: disk on fire") != text.npos);
                        CHECK(failure.cause().rank == 3);
                        CHECK(failure.cause().axis() == "tp");
                        CHECK(failure.cause().op == operation::barrier);
                        CHECK(failure.cause().seq == 0);
                      }
                      CHECK_THROWS_AS(pair.barrier(e), comm_revoked);
                      CHECK_THROWS_AS(world.split(0, 0), comm_revoked);
                      const std::vector<float> letter(3);
                      CHECK_THROWS_AS(pair.send(e, letter, 0), comm_revoked);
                      ++checked;
                    }),
                    std::runtime_error);
    CHECK(checked == 3);
  }
  TEST_CASE("a rank that returns while others wait for it is found out at once") {
    const auto begin = steady::now();
    CHECK_THROWS_WITH_AS(run_ranks<3>([](thread_comm& world) {
                           host_context context;
                           if (world.rank() == 1) return;
                           if (world.rank() == 0) std::this_thread::sleep_for(20ms);  // arrives after the return, rank 2 before it
                           world.barrier(host_exec(context));
                         }),
                         doctest::Contains("rank 1 finished early"), peer_failed);
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) {
                           host_context context;
                           std::vector<int> out(1);
                           if (world.rank() == 0) world.recv(host_exec(context), out, 1);
                         }),
                         doctest::Contains("waits for it in recv #0 of 1 x int32 on world"), peer_failed);
    CHECK(steady::now() - begin < 5s);
  }
  TEST_CASE("a timeout lists who arrived and who is missing") {
    CHECK_THROWS_WITH_AS(run_ranks<4>(
                             [](thread_comm& world) {
                               host_context context;
                               if (world.rank() == 1) std::this_thread::sleep_for(300ms);
                               world.barrier(host_exec(context));
                             },
                             {.first_deadline = 100ms}),
                         doctest::Contains("for rank 1 (arrived: 0, 2, 3; missing: 1)"), timeout);
  }
  TEST_CASE("a recv that nobody sends to times out, naming the peer") {
    CHECK_THROWS_WITH_AS(run_ranks<2>(
                             [](thread_comm& world) {
                               host_context context;
                               std::vector<int> out(1);
                               if (world.rank() == 0)
                                 world.recv(host_exec(context), out, 1);
                               else
                                 std::this_thread::sleep_for(300ms);
                             },
                             {.first_deadline = 100ms}),
                         doctest::Contains("missing: 1"), timeout);
  }
  TEST_CASE("sizes that contradict each other on one rank end all ranks") {
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) {
                           host_context context;
                           std::vector<float> in(2), out(world.rank() == 1 ? 5 : 4);
                           world.all_gather(host_exec(context), in, out);
                         }),
                         doctest::Contains("moefold: all_gather over 2 ranks"), error);
  }
  TEST_CASE("ranks of one colour that name their group differently are told so") {
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) { world.split(0, 0, world.rank() == 0 ? "tp" : "cp"); }),
                         doctest::Contains("name it tp and cp"), error);
  }
  TEST_CASE("leaving a window without close ends the peers, and the caller gets the exception") {
    CHECK_THROWS_WITH_AS(run_ranks<3>([](thread_comm& world) {
                           host_context context;
                           const std::vector<double> mine(1000, 1.0);
                           auto window = world.expose(host_exec(context), mine);
                           if (world.rank() == 1) throw std::runtime_error("in the window");
                           window.close();
                         }),
                         "in the window", std::runtime_error);
  }
  TEST_CASE("memory of a failing rank is not read any more when it unwinds") {
    for (int round = 0; round < 30; ++round)  // a large exchange that fails in the middle; ASan and TSan watch the freed buffers
      CHECK_THROWS(run_ranks<4>([&](thread_comm& world) {
        host_context context;
        const std::vector<double> in(1u << 18, 1.0);
        std::vector<double> out(in.size());
        auto failing = [](void* victim) {
          if (victim) throw std::runtime_error("inside");
        };
        world.all_to_all(host_exec(context), in, out);
        world.set_hook(failing, world.rank() == round % 4 ? &world : nullptr);
        if (round % 2 == 0)
          world.all_to_all(host_exec(context), in, out);
        else
          world.all_reduce(host_exec(context), in, out, sum{});
      }));
  }
  TEST_CASE("a world that has failed does not touch the next one") {
    for (int i = 0; i < 20; ++i) {
      CHECK_THROWS(run_ranks<4>([&](thread_comm& world) {
        host_context context;
        if (world.rank() == i % 4) throw std::runtime_error("x");
        world.barrier(host_exec(context));
      }));
      run_ranks<4>([](thread_comm& world) {
        host_context context;
        world.barrier(host_exec(context));
      });
    }
  }
  TEST_CASE("fetch_v: every rank reads its peers' memory, and its own, through the pointers they show") {
    for (const int ranks : {1, 2, 3, 5})
      run_ranks(ranks, [](thread_comm& world) {
        host_context context;
        for (int round = 0; round < 20; ++round) {
          const parcels own(world, round);
          int fetched = 0;
          world.fetch_v<std::int32_t>(host_exec(context), own.show(), own.send, own.recv, [&](auto&& peer) {
            for (int p = 0; p < world.size(); ++p) fetched += mine_in(peer(p), p, world.rank(), round);
            CHECK(peer(world.rank()).elements == own.elements.data());
          });
          CHECK(fetched == world.size());
        }
      });
  }
  TEST_CASE("fetch_v: what is shown is there until the slowest reader has fetched, though its owner clears it right after the call") {
    run_ranks<3>([](thread_comm& world) {
      host_context context;
      for (int round = 0; round < 6; ++round) {
        const parcels own(world, round);  // cleared at the end of the round
        int fetched = 0;
        world.fetch_v<std::int32_t>(host_exec(context), own.show(), own.send, own.recv, [&](auto&& peer) {
          if (world.rank() == round % 3) std::this_thread::sleep_for(20ms);
          for (int p = 0; p < world.size(); ++p) fetched += mine_in(peer(p), p, world.rank(), round);
        });
        CHECK(fetched == world.size());
      }
    });
  }
  TEST_CASE("fetch_v: a struct of the largest size is shown whole") {
    struct large {
      std::array<std::byte, most_shown> bytes;
    };
    run_ranks<3>([](thread_comm& world) {
      host_context context;
      const std::vector<std::size_t> none(3, 0);
      large mine;
      mine.bytes.fill(std::byte(world.rank() + 1));
      world.fetch_v<float>(host_exec(context), mine, none, none, [&](auto&& peer) {
        for (int p = 0; p < 3; ++p) CHECK(all_equal(peer(p).bytes, [&](std::size_t) { return std::byte(p + 1); }));
      });
    });
  }
  TEST_CASE("fetch_v: counts or types that disagree are a signature mismatch on every rank, and nobody fetches") {
    for (const bool types : {false, true}) {
      CAPTURE(types);
      std::atomic<int> caught{0}, fetched{0};
      CHECK_THROWS_WITH_AS(run_ranks<3>([&](thread_comm& world) {
                             host_context context;
                             const host_exec e(context);
                             const auto fetch = [&](auto&&) { ++fetched; };
                             std::vector<std::size_t> send(3, 4), recv(3, 4);
                             if (world.rank() == 1 && !types) send[2] = 5;  // rank 2 expects 4
                             try {
                               if (world.rank() == 1 && types)
                                 world.fetch_v<double>(e, 0, send, recv, fetch);
                               else
                                 world.fetch_v<float>(e, 0, send, recv, fetch);
                             } catch (const signature_mismatch& failure) {
                               CHECK(failure.cause().op == operation::all_to_all_v);
                               ++caught;
                               throw;
                             }
                           }),
                           doctest::Contains("all_to_all_v"), signature_mismatch);
      CHECK(caught == 3);
      CHECK(fetched == 0);
    }
  }
  TEST_CASE("fetch_v: an exception while fetching is thrown to the caller, and the peers learn who and where") {
    const auto begin = steady::now();
    for (int victim = 0; victim < 4; ++victim) {
      std::atomic<int> told{0};
      CHECK_THROWS_WITH_AS(run_ranks<4>([&](thread_comm& world) {
                             host_context context;
                             const host_exec e(context);
                             const parcels own(world, 0);
                             world.barrier(e);
                             try {
                               world.fetch_v<std::int32_t>(e, own.show(), own.send, own.recv, [&](auto&&) {
                                 if (world.rank() == victim) throw std::runtime_error("no room for these rows");
                               });
                             } catch (const peer_failed& failure) {
                               CHECK(failure.cause().rank == victim);
                               CHECK(failure.cause().op == operation::all_to_all_v);
                               CHECK(failure.cause().seq == 1);
                               CHECK(std::string(failure.what()).find("no room for these rows") != std::string::npos);
                               ++told;
                               throw;
                             }
                           }),
                           "no room for these rows", std::runtime_error);
      CHECK(told == 3);
    }
    CHECK(steady::now() - begin < 5s);
  }
  TEST_CASE("fetch_v: a rank that fails keeps its memory until nobody reads it any more") {
    std::atomic<int> wrong{0};
    for (int round = 0; round < 10; ++round) {
      std::atomic<int> reading{0}, read{0};
      CHECK_THROWS_WITH_AS(run_ranks<3>([&](thread_comm& world) {
                             host_context context;
                             const parcels own(world, round);  // cleared when the exception unwinds
                             world.fetch_v<std::int32_t>(host_exec(context), own.show(), own.send, own.recv, [&](auto&& peer) {
                               if (world.rank() == 0) {
                                 while (reading < 2) std::this_thread::yield();
                                 throw std::runtime_error("gone");
                               }
                               ++reading;
                               std::this_thread::sleep_for(5ms);
                               wrong += !mine_in(peer(0), 0, world.rank(), round);
                               ++read;
                             });
                           }),
                           "gone", std::runtime_error);
      CHECK(read == 2);
    }
    CHECK(wrong == 0);
  }
  TEST_CASE("fetch_v: a count for each rank, or an error that says how many") {
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) {
                           host_context context;
                           const std::vector<std::size_t> two(2), three(3);
                           world.fetch_v<float>(host_exec(context), 0, two, three, [](auto&&) {});
                         }),
                         "moefold: fetch_v needs a count for each of 2 ranks, given 2 to send and 3 to receive", error);
  }
  TEST_CASE("CPU time inside calls grows, and waiting is not in it, with a core per rank and without") {
    for (int ranks : {1, 2, 4})
      run_ranks(ranks, [](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        if (world.rank() == 0) std::this_thread::sleep_for(200ms);
        world.barrier(e);
        CHECK(world.cpu_seconds() < 0.1);
        std::vector<double> v(1u << 20, 1.0);
        const double before = world.cpu_seconds();
        world.all_reduce(e, v, v, sum{});
        CHECK(world.cpu_seconds() > before);
        CHECK(world.split(0, world.rank(), "again").cpu_seconds() >= world.cpu_seconds() * 0.5);
      });
  }
  TEST_CASE("a world needs a rank, and MOEFOLD_TIMEOUT_FACTOR a number") {
    CHECK_THROWS_AS(run_threads(0, [](thread_comm&) {}), config_error);
    setenv("MOEFOLD_TIMEOUT_FACTOR", "soon", 1);
    CHECK_THROWS_WITH_AS(thread_world(1), doctest::Contains("\"soon\""), config_error);
    setenv("MOEFOLD_TIMEOUT_FACTOR", "2.5", 1);
    CHECK(thread_world(1, {.deadline = 2s}).options().deadline == 5s);
    unsetenv("MOEFOLD_TIMEOUT_FACTOR");
  }
}
