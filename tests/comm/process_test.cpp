#include "../support/communicator_suite.hpp"
#include "../support/fault_matrix.hpp"
#include "../support/run_processes.hpp"
#include "../support/run_ranks.hpp"

#include <doctest/doctest.h>

// Ranks as processes, over queues between threads of this one: all but MPI and sockets themselves. The same fault matrix as for threads.
using namespace moefold;
using namespace std::chrono_literals;

namespace {

struct over_processes {
  using comm = process_comm;
  static constexpr const char* name = "processes";
  template <class F>
  static void run(int ranks, F&& f, faults::deadlines limits) {
    run_processes(ranks, f, {.first_deadline = limits.first, .deadline = limits.later});
  }
};
struct left_alone : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void leave(void*) { throw left_alone("leaves"); }

/// What each rank's function threw, as text; empty: it returned.
template <class F>
std::vector<std::string> texts(int ranks, F&& f, process_options options = {}) {
  std::vector<std::string> seen(static_cast<std::size_t>(ranks));
  try {
    run_processes(
        ranks,
        [&](process_comm& world) {
          const auto me = std::size_t(world.rank());
          host_context context;
          try {
            f(world, host_exec(context));
          } catch (const std::exception& e) {
            seen[me] = e.what();
            throw;
          }
        },
        options);
  } catch (const std::exception&) {
  }
  return seen;
}

}  // namespace

TEST_SUITE("comm/process") {
  TEST_CASE("The communicator suite, for 1 to 8 ranks") {
    for (const bool sockets : {false, true})
      for (int ranks : {1, 2, 3, 8}) {
        const by_sockets carriers(sockets);
        CAPTURE(sockets);
        CAPTURE(ranks);
        run_processes(ranks, [](process_comm& world) { check_communicator<float, bf16>(world); });
      }
  }

  TEST_CASE("Sums are those of threads, to the last bit") {
    constexpr int ranks = 5;
    constexpr std::size_t count = 300001;  // several blocks and pieces
    const auto input = [](int rank, std::size_t i) { return 1.0f / float(3 * i + 7 * std::size_t(rank) + 1); };
    std::vector<float> by_threads, by_processes;
    const auto body = [&](auto& world, std::vector<float>& result) {
      host_context context;
      std::vector<float> in(count), out(count);
      for (std::size_t i = 0; i < count; ++i) in[i] = input(world.rank(), i);
      world.all_reduce(host_exec(context), in, out, sum{});
      if (world.rank() == 3) result = out;
    };
    run_threads(ranks, [&](thread_comm& world) { body(world, by_threads); });
    run_processes(ranks, [&](process_comm& world) { body(world, by_processes); });
    CHECK(by_threads == by_processes);
  }

  TEST_CASE("What is issued on an apart communicator is done beside the caller, in one order") {
    run_processes(4, [](process_comm& world) {
      host_context context;
      const host_exec e(context);
      process_comm beside = world.apart("beside");
      process_comm pair = beside.split(world.rank() / 2, world.rank(), "pair");
      std::vector<double> a(3000, world.rank()), b(40, 1.0), c(2000, 1.0);
      for (int i = 0; i < 5; ++i) {
        auto first = beside.all_reduce(e, a, a, max{});
        auto second = pair.all_reduce(e, b, b, sum{});
        world.all_reduce(e, c, c, max{});
        first.wait(e), second.wait(e);
      }
      CHECK(a[2999] == 3.0);
      CHECK(b[39] == 32.0);
      check_communicator<float>(beside);
    });
  }

  TEST_CASE("A world that has failed is rebuilt, as often as it fails, and the old communicators stay revoked") {
    run_processes(4, [](process_comm& world) {
      host_context context;
      const host_exec e(context);
      std::vector<float> data(5000, 1.0f), more(5000, 1.0f);  // they outlive what works on them
      process_comm beside = world.apart("beside");
      for (int victim = 0; victim < world.size(); ++victim) {
        try {
          auto t = beside.all_reduce(e, data, data, max{});
          if (world.rank() == victim) world.set_hook(&leave, nullptr);
          world.all_reduce(e, more, more, max{});
          t.wait(e);
          world.barrier(e);
          FAIL_CHECK("nobody failed");
        } catch (const left_alone&) {
          CHECK(world.rank() == victim);
        } catch (const peer_failed& f) {
          CHECK(f.cause().rank == victim);
        }
        CHECK_THROWS_AS(world.barrier(e), comm_revoked);
        process_comm old = std::move(world);
        world = old.rebuild();
        CHECK_THROWS_AS(old.barrier(e), comm_revoked);
        beside = world.apart("beside");
      }
      world = world.rebuild();  // a sound one too
      check_communicator<float>(world);
    });
  }

  TEST_CASE("A rank that has ended, or does not come, is named by rebuild") {
    const auto failing = [](process_comm& world, host_exec e) {
      if (world.rank() == 2) world.set_hook(&leave, nullptr);
      try {
        world.barrier(e);
        world.barrier(e);
      } catch (const error&) {
      }
    };
    auto seen = texts(3,
                      [&](process_comm& world, host_exec e) {
                        failing(world, e);
                        (void)world.rebuild();
                      },
                      {.grace = 100ms});
    for (int r : {0, 1}) CHECK(seen[std::size_t(r)].find("rank 2 has ended") != std::string::npos);
    seen = texts(3,
                 [&](process_comm& world, host_exec e) {
                   try {
                     failing(world, e);
                   } catch (const left_alone&) {
                     std::this_thread::sleep_for(600ms);
                     throw;
                   }
                   (void)world.rebuild();
                 },
                 {.first_deadline = 200ms});
    for (int r : {0, 1}) CHECK(seen[std::size_t(r)].find("rank 2 did not come") != std::string::npos);
  }

  TEST_CASE(
      "A rank that fails between calls tells the others so when it rebuilds, and a rebuilt world is not rebuilt by its old communicators") {
    const auto begin = steady::now();
    run_processes(3, [](process_comm& world) {
      host_context context;
      const host_exec e(context);
      for (const int victim : {2, 0}) {  // rank 0 decides what failed first
        process_comm fresh = [&] {
          try {
            world.barrier(e);
            if (world.rank() == victim) throw left_alone("has no memory left");
            world.barrier(e);
            FAIL("nobody failed");
          } catch (const left_alone&) {
            return world.rebuild();
          } catch (const peer_failed& f) {
            CHECK(f.cause().rank == victim);
            CHECK(f.cause().message.find("has no memory left") != std::string::npos);
            return world.rebuild();
          }
          return world.rebuild();
        }();
        CHECK_THROWS_WITH_AS(world.rebuild(), doctest::Contains("rebuilt already"), error);
        world = std::move(fresh);
      }
      world.barrier(e);
    });
    CHECK(steady::now() - begin < 3s);
  }

  TEST_CASE("Who waits for a rank that has gone to rebuild a sound world is told at once") {
    const auto begin = steady::now();
    run_processes(2, [](process_comm& world) {
      host_context context;
      if (world.rank() == 1) CHECK_THROWS_WITH_AS(world.barrier(host_exec(context)), doctest::Contains("went to rebuild"), peer_failed);
      world = world.rebuild();
      world.barrier(host_exec(context));
    });
    CHECK(steady::now() - begin < 3s);
  }

  TEST_CASE("The last letter of a rank that returns arrives, however long it takes") {
    const by_sockets carriers;
    run_processes(2, [](process_comm& world) {
      host_context context;
      std::vector<float> letter(std::size_t(1) << 26, float(1 - world.rank()));  // 256 MiB
      if (world.rank() == 0) return void(world.send(host_exec(context), letter, 1));
      world.recv(host_exec(context), letter, 0);
      CHECK(letter.front() + letter.back() == 2);
    });
  }

  TEST_CASE("A rank that exits leaves as if it had returned; what all refuse alike is thrown by each in its own words") {
    auto seen = texts(3, [](process_comm& world, host_exec e) {
      if (world.rank() == 1) throw rank_exit{};
      world.barrier(e);
    });
    CHECK(seen[1].empty());
    for (int r : {0, 2}) CHECK(seen[std::size_t(r)].find("rank 1 finished early") != std::string::npos);
    std::atomic<int> refused{0};
    auto hall = std::make_shared<memory_hall>(2);
    std::vector<std::thread> threads;
    for (int r = 0; r < 2; ++r)
      threads.emplace_back([&, r] {
        try {
          run_process(std::make_shared<memory_transport>(hall, r), [](process_comm&) { throw config_error("moefold: no such folder"); });
        } catch (const config_error& e) {
          refused += std::string(e.what()) == "moefold: no such folder";
        } catch (const std::exception&) {
        }
      });
    for (auto& t : threads) t.join();
    CHECK(refused == 2);
  }

  TEST_CASE("Who waits for a rank whose function has returned is told at once") {
    const auto begin = steady::now();
    const auto seen = texts(3, [](process_comm& world, host_exec e) {
      world.barrier(e);
      if (world.rank() != 1) world.barrier(e);
    });
    for (int r : {0, 2}) CHECK(seen[std::size_t(r)].find("rank 1 finished early") != std::string::npos);
    CHECK(steady::now() - begin < 2s);
  }

  TEST_CASE("A process that dies is known as soon as the transport knows") {
    for (int victim : {0, 2}) {  // rank 0 decides which failure came first, as long as it lives
      auto hall = std::make_shared<memory_hall>(4);
      std::array<std::string, 4> seen;
      std::vector<std::thread> threads;
      const auto begin = steady::now();
      for (int r = 0; r < 4; ++r)
        threads.emplace_back([&, r] {
          try {
            run_process(std::make_shared<memory_transport>(hall, r),
                        [&](process_comm& world) {
                          host_context context;
                          world.barrier(host_exec(context));
                          if (r == victim) hall->lose(r), throw left_alone("is dead");
                          std::vector<float> data(100000, 1.0f);
                          for (;;) world.all_reduce(host_exec(context), data, data, max{});
                        },
                        {.grace = 200ms});
          } catch (const std::exception& e) {
            seen[std::size_t(r)] = e.what();
          }
        });
      for (auto& t : threads) t.join();
      for (int r = 0; r < 4; ++r)
        if (r != victim) {
          CAPTURE(seen[std::size_t(r)]);
          CHECK(seen[std::size_t(r)].find(sentence("rank ", victim, " is lost: its process has ended")) != std::string::npos);
        }
      CHECK(steady::now() - begin < 3s);
    }
  }

  TEST_CASE("An exception that leaves operations in flight is the root cause") {
    const auto seen = texts(3, [](process_comm& world, host_exec e) {
      std::vector<float> data(1 << 20, 1.0f);
      process_comm beside = world.apart("beside");
      auto t = beside.all_reduce(e, data, data, sum{});
      if (world.rank() == 1) throw left_alone("has other plans");
      t.wait(e);
      world.barrier(e);
    });
    for (const std::string& text : seen) CHECK(text.find("has other plans") != std::string::npos);
  }

  TEST_CASE("The rank that comes late is the one the others are said to wait for") {
    run_processes(3, [](process_comm& world) {
      host_context context;
      const host_exec e(context);
      std::vector<std::int64_t> late(3, 0);
      for (int i = 0; i < 10; ++i) {
        if (world.rank() == 1) std::this_thread::sleep_for(5ms);
        world.barrier(e);
      }
      const auto counts = world.stragglers();
      for (std::size_t r = 0; r < 3; ++r) late[r] = counts[r].late.count();
      world.all_reduce(e, late, late, sum{});
      CHECK(late[1] > 10 * (late[0] + late[2] + 1));
      CHECK(late[1] >= 30'000'000);
      CHECK(late[1] <= 200'000'000);
    });
  }

  TEST_CASE("A first call, and every call of a world that is starting, has the long deadline") {
    const auto seen = texts(2,
                            [](process_comm& world, host_exec e) {
                              if (world.rank() == 1) std::this_thread::sleep_for(150ms);
                              world.barrier(e);  // the first
                              world.starting(true);
                              if (world.rank() == 1) std::this_thread::sleep_for(150ms);
                              world.barrier(e);
                              world.starting(false);
                              if (world.rank() == 1) std::this_thread::sleep_for(150ms);
                              world.barrier(e);
                            },
                            {.first_deadline = 10s, .deadline = 50ms});
    CHECK(seen[0].find("barrier #2 on world waited") != std::string::npos);
  }
}

TEST_SUITE("comm/process_faults") {
  TEST_CASE("F01: when a rank throws at a call, all others learn of it, of the culprit and of nothing else") {
    faults::f01<over_processes>();
  }
  TEST_CASE("F01 and F06 over sockets: the same") {
    const by_sockets carriers;
    faults::f01<over_processes>();
    faults::f06<over_processes>();
  }
  TEST_CASE("F06: ranks that make different calls all get a signature mismatch, and no data is written") { faults::f06<over_processes>(); }
  TEST_CASE("F07: ranks that disagree on count, type, root, reduction or splits all get a signature mismatch, and no data is written") {
    faults::f07<over_processes>();
  }
  TEST_CASE("F08: when one rank calls on one axis and the others on another, all learn who waits for whom long before the deadline") {
    faults::f08<over_processes>();
  }
}

TEST_SUITE("comm/process_soak") {
  TEST_CASE("F04: when a rank does not arrive, all others time out at the deadline and list who arrived and who is missing") {
    faults::f04<over_processes>();
  }
}
