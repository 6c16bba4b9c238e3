#include <moefold/comm/thread.hpp>

#include "../support/communicator_suite.hpp"
#include "../support/run_ranks.hpp"

#include <moefold/comm/chaos.hpp>
#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

#include <functional>
#include <random>

// Communicators that work beside their callers: the same operations on the helper's lane, in order, failing as one.
using namespace moefold;
using namespace std::chrono_literals;

static_assert(overlapping<recording<thread_comm>> && overlapping<chaos<thread_comm>> && overlapping<recording<self_comm>>);

namespace {

double seconds_since(steady::time_point begin) { return std::chrono::duration<double>(steady::now() - begin).count(); }

}  // namespace

TEST_SUITE("comm/apart") {
  TEST_CASE("apart from its caller, a communicator of threads is a communicator") {
    for (int ranks : {1, 2, 3, 8}) {
      CAPTURE(ranks);
      run_ranks(ranks, [](thread_comm& world) {
        thread_comm beside = world.apart("beside");
        CHECK(beside.label() == comm_label("beside"));
        CHECK(beside.rank() == world.rank());
        check_communicator<float, bf16, std::int64_t>(beside);
        thread_comm further = beside.apart();
        CHECK(further.label() == comm_label("beside"));
        check_communicator<float, bf16>(further);
      });
    }
  }
  TEST_CASE("one rank apart is itself") {
    self_comm world;
    self_comm beside = world.apart("beside");
    CHECK(beside.label() == comm_label("beside"));
    CHECK(world.apart().label() == comm_label("world"));
    check_communicator<float, bf16>(beside);
  }
  TEST_CASE("a recorded or chaotic one too; it counts under its own label, when it issues") {
    run_ranks<3>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log log;
      recording<thread_comm> counted(std::move(world), log);
      recording<thread_comm> beside = counted.apart("beside");
      CHECK(log("world", operation::split).calls == 1);
      std::vector<float> in(3000, 1.0f), out(1000);
      const auto done = beside.reduce_scatter(e, in, out, sum{});
      CHECK(log("beside", operation::reduce_scatter) == traffic_count{1, 2, 8000});
      done.wait(e);
      CHECK(all_equal(out, [](std::size_t) { return 3.0f; }));
      const std::vector<fault> plan = parse_faults("axis=wild op=all_reduce seq=0 do=bitflip:payload phase=after");
      chaos<recording<thread_comm>> wild(std::move(beside), plan);
      auto wilder = wild.apart("wild");
      wilder.all_reduce(e, out, out, sum{});
      CHECK(out[500] != 9.0f);
      CHECK(out[0] == 9.0f);
    });
  }
  TEST_CASE("while an operation is under way its caller computes") {
    // On its way an operation takes at least 20 ms; the caller sleeps as long as 4 of them take. On a busy machine the best of some runs counts.
    double best = 1;
    for (int run = 0; run < 10 && best > 0.04; ++run) {
      double waited[2] = {0, 0};
      run_ranks<2>(
          [&](thread_comm& world) {
            host_context context;
            const host_exec e(context);
            thread_comm beside = world.apart("beside");
            std::vector<float> data(4 * 5000, 1.0f);
            const auto begin = steady::now();
            std::array<thread_comm::ticket, 4> tickets;
            for (std::size_t i = 0; i < 4; ++i) {
              const auto part = std::span(data).subspan(i * 5000, 5000);
              tickets[i] = beside.all_reduce(e, part, part, sum{});
            }
            const double issued = seconds_since(begin);
            std::this_thread::sleep_for(85ms);
            const auto computed = steady::now();
            for (const auto& t : tickets) t.wait(e);
            waited[world.rank()] = issued + seconds_since(computed);
            CHECK(all_equal(data, [](std::size_t) { return 2.0f; }));
            CHECK(seconds_since(begin) >= 0.08);
          },
          {.latency = 20ms});
      best = std::min(best, std::max(waited[0], waited[1]));
    }
    CHECK(best <= 0.04);
  }
  TEST_CASE("a slowed communicator takes its time for every operation; a message that is already there takes none") {
    double shortest = 1;
    for (int run = 0; run < 10 && shortest >= 0.03; ++run) {
      std::array<std::atomic<std::int64_t>, 2> sent{};  // when: ns
      double there[2] = {0, 0};
      run_ranks<2>(
          [&](thread_comm& world) {
            host_context context;
            const host_exec e(context);
            std::vector<float> data(10), letter(10);
            auto begin = steady::now();
            world.all_reduce(e, data, data, sum{});
            CHECK(seconds_since(begin) >= 0.03);
            const int peer = 1 - world.rank();
            sent[std::size_t(world.rank())] = steady::now().time_since_epoch().count();
            world.send(e, data, peer);
            world.recv(e, letter, peer);
            CHECK(steady::now().time_since_epoch() - steady::duration(sent[std::size_t(peer)].load()) >= 30ms);
            world.send(e, data, peer);
            world.barrier(e);
            std::this_thread::sleep_for(10ms);
            begin = steady::now();
            world.recv(e, letter, peer);
            there[world.rank()] = seconds_since(begin);
          },
          {.latency = 30ms});
      shortest = std::min(shortest, std::max(there[0], there[1]));
    }
    CHECK(shortest < 0.03);
  }
  TEST_CASE("operations of several apart communicators and the main one go on at once, each in its order") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm pair = world.split(world.rank() / 2, world.rank(), "pair");
      thread_comm all = world.apart("all"), two = pair.apart("two");
      std::vector<std::int64_t> a(3000, 1), b(3000, 1), c(3000, 1);
      for (int round = 0; round < 5; ++round) {
        const auto first = all.all_reduce(e, a, a, sum{});
        const auto second = two.all_reduce(e, a, b, sum{});  // reads what the first one wrote
        world.all_reduce(e, c, c, sum{});
        second.wait(e);
        const std::int64_t four = std::int64_t(1) << (2 * (round + 1));
        CHECK(all_equal(a, [&](std::size_t) { return four; }));
        CHECK(all_equal(b, [&](std::size_t) { return 2 * four; }));
        CHECK(all_equal(c, [&](std::size_t) { return four; }));
        first.wait(e);
      }
    });
  }
  TEST_CASE("letters on the helper's lane do not mix with those of the main one") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm beside = world.apart("beside");
      const int peer = 1 - world.rank();
      const std::vector<int> mine(700, 1), other(700, 2);
      std::vector<int> from_main(700), from_beside(700);
      const auto sent = beside.send(e, other, peer), got = beside.recv(e, from_beside, peer);
      world.send(e, mine, peer);
      world.recv(e, from_main, peer);
      CHECK(all_equal(from_main, [](std::size_t) { return 1; }));
      got.wait(e), sent.wait(e);
      CHECK(all_equal(from_beside, [](std::size_t) { return 2; }));
      thread_comm::ticket{}.wait(e);  // of nothing
    });
  }
  TEST_CASE("hundreds of operations in flight, in a random mixture of kinds, sizes and waits, are what they are one by one") {
    run_ranks<3>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      const int n = world.size(), me = world.rank();
      std::array<thread_comm, 2> beside{world.apart("a"), world.apart("b")};
      constexpr std::size_t places = 8, longest = 900;
      std::vector<std::vector<std::int64_t>> in(places, std::vector<std::int64_t>(3 * longest)), out = in;
      std::array<std::vector<std::size_t>, places> counts;
      std::array<thread_comm::ticket, places> tickets;
      std::array<std::function<bool()>, places> right;
      std::mt19937 random(7),
          own(unsigned(100 + me));  // what is called: the same on all ranks; when a rank waits or sleeps: its own affair
      const auto settle = [&](std::size_t place) {
        tickets[place].wait(e);
        if (right[place]) CHECK(right[place]());
        right[place] = nullptr;
      };
      for (int round = 0; round < 1000; ++round) {
        const std::size_t place = random() % places, count = std::array<std::size_t, 4>{0, 3, 64, longest}[random() % 4];
        settle(place);
        thread_comm& c = beside[random() % 2];
        for (std::size_t i = 0; i < 3 * count; ++i) in[place][i] = sample<std::int64_t>(me, i, round);
        const std::span<const std::int64_t> whole = std::span(in[place]).first(3 * count), part = whole.first(count);
        const std::span<std::int64_t> to = std::span(out[place]).first(count), all = std::span(out[place]).first(3 * count);
        switch (random() % 6) {
          case 0:
            tickets[place] = c.all_reduce(e, part, to, sum{});
            right[place] = [=] { return all_equal(to, [&](std::size_t i) { return reduced<std::int64_t>(n, i, sum{}, round); }); };
            break;
          case 1:
            tickets[place] = c.reduce_scatter(e, whole, to, sum{});
            right[place] = [=] {
              return all_equal(to, [&](std::size_t i) { return reduced<std::int64_t>(n, std::size_t(me) * count + i, sum{}, round); });
            };
            break;
          case 2:
            tickets[place] = c.all_gather(e, part, all);
            right[place] = [=] {
              return all_equal(all, [&](std::size_t i) { return sample<std::int64_t>(int(i / count), i % count, round); });
            };
            break;
          case 3:
            counts[place].assign({count, 0, count / 2});
            tickets[place] =
                c.reduce_scatter_v(e, whole.first(count + count / 2), counts[place], to.first(counts[place][std::size_t(me)]), max{});
            right[place] = [=, own_count = counts[place][std::size_t(me)]] {
              const std::size_t first = me == 2 ? count : 0;
              return all_equal(to.first(own_count), [&](std::size_t i) { return reduced<std::int64_t>(n, first + i, max{}, round); });
            };
            break;
          case 4:
            c.send(e, part, (me + 1) % n);  // its data stays until the recv behind it is waited for
            tickets[place] = c.recv(e, to, (me + n - 1) % n);
            right[place] = [=] { return all_equal(to, [&](std::size_t i) { return sample<std::int64_t>((me + n - 1) % n, i, round); }); };
            break;
          default:
            std::copy(part.begin(), part.end(), to.begin());
            tickets[place] = c.broadcast(e, to, round % n);
            right[place] = [=] { return all_equal(to, [&](std::size_t i) { return sample<std::int64_t>(round % n, i, round); }); };
        }
        if (own() % 4 == 0) settle(own() % places);
        if (own() % 50 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 300));
        if (round % 100 == 99) world.barrier(e);
      }
      for (std::size_t place = 0; place < places; ++place) settle(place);
    });
  }
  TEST_CASE("more operations than fit in flight wait for the oldest") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm beside = world.apart("beside");
      std::vector<float> data(20000, 1.0f);
      for (int i = 0; i < 200; ++i) beside.all_reduce(e, data, data, max{});  // more than fit in flight: issue waits, no ticket is lost
      beside.all_reduce(e, data, data, sum{}).wait(e);
      CHECK(data[19999] == 2.0f);
    });
  }

  // Failures.
  TEST_CASE("a rank that throws with an operation in flight ends all ranks at once, with one root cause") {
    for (int victim : {0, 1, 3}) {
      CAPTURE(victim);
      std::atomic<int> told{0};
      steady::time_point thrown{};
      try {
        run_ranks<4>([&](thread_comm& world) {
          host_context context;
          const host_exec e(context);
          std::vector<float> data(5000, 1.0f);
          thread_comm beside = world.apart("beside");
          beside.all_reduce(e, data, data, sum{}).wait(e);
          world.barrier(e);
          if (world.rank() == victim) {
            std::this_thread::sleep_for(20ms);  // the others are in the operation
            thrown = steady::now();
            throw std::runtime_error("disk on fire");
          }
          const auto t = beside.all_reduce(e, data, data, sum{});
          const auto later = beside.barrier(e);
          try {
            t.wait(e);
            FAIL_CHECK("nothing can be reduced without the victim");
          } catch (const peer_failed& failure) {
            CHECK(failure.cause().rank == victim);
            CHECK(std::string(failure.what()).find("disk on fire") != std::string::npos);
            CHECK(std::string(failure.what()).starts_with("moefold: all_reduce #1 of 5000 x fp32, sum on beside, rank "));
            ++told;
          }
          CHECK_THROWS_AS(later.wait(e), comm_revoked);
          CHECK_THROWS_AS(t.wait(e), comm_revoked);
          CHECK_THROWS_AS(beside.barrier(e), comm_revoked);
          CHECK_THROWS_AS(world.barrier(e), comm_revoked);
          throw std::runtime_error("consequence");
        });
        FAIL_CHECK("the failure must come out");
      } catch (const std::runtime_error& e) {
        CHECK(std::string(e.what()) == "disk on fire");
      }
      CHECK(told == 3);
      CHECK(seconds_since(thrown) < 0.5);
    }
  }
  TEST_CASE("what goes wrong in the helper is this rank's failure") {
    const std::vector<fault> plan = parse_faults("rank=1 axis=beside op=all_reduce seq=2 phase=inside do=throw");
    std::atomic<int> injected{0}, peers{0};
    CHECK_THROWS_AS(run_ranks<3>([&](thread_comm& world) {
                      host_context context;
                      const host_exec e(context);
                      chaos<thread_comm> wild(std::move(world), plan);
                      auto beside = wild.apart("beside");
                      std::vector<float> data(5000, 1.0f);
                      std::array<thread_comm::ticket, 4> tickets;
                      for (auto& t : tickets) t = beside.all_reduce(e, data, data, max{});
                      tickets[1].wait(e);
                      try {
                        tickets[2].wait(e);
                        FAIL_CHECK("the third fails");
                      } catch (const injected_fault&) {
                        CHECK(wild.rank() == 1);
                        ++injected;
                      } catch (const peer_failed& failure) {
                        CHECK(failure.cause().rank == 1);
                        CHECK(failure.cause().axis() == "beside");
                        CHECK(failure.cause().seq == 2);
                        ++peers;
                      }
                      CHECK_THROWS_AS(tickets[3].wait(e), comm_revoked);
                    }),
                    injected_fault);
    CHECK(injected == 1);
    CHECK(peers == 2);
  }
  TEST_CASE("a mismatch, a missing rank, a rank that ends early: the helper's calls have the same errors and deadlines") {
    CHECK_THROWS_AS(run_ranks<2>([](thread_comm& world) {
                      host_context context;
                      const host_exec e(context);
                      thread_comm beside = world.apart("beside");
                      std::vector<float> data(std::size_t(5 + world.rank()));
                      beside.all_reduce(e, data, data, sum{}).wait(e);
                    }),
                    signature_mismatch);
    const auto begin = steady::now();
    std::atomic<bool> late{false};
    CHECK_THROWS_AS(run_ranks<2>(
                        [&](thread_comm& world) {
                          host_context context;
                          const host_exec e(context);
                          thread_comm beside = world.apart("beside");
                          std::vector<float> data(5);
                          if (world.rank() == 1)
                            while (!late) std::this_thread::sleep_for(1ms);
                          try {
                            if (world.rank() == 0) beside.all_reduce(e, data, data, sum{}).wait(e);
                          } catch (...) {
                            late = true;
                            throw;
                          }
                        },
                        {.first_deadline = 100ms, .deadline = 100ms}),
                    timeout);
    CHECK(seconds_since(begin) < 20);
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) {
                           host_context context;
                           const host_exec e(context);
                           thread_comm beside = world.apart("beside");
                           std::vector<float> data(5);
                           if (world.rank() == 0) beside.all_reduce(e, data, data, sum{}).wait(e);
                         }),
                         doctest::Contains("finished early"), peer_failed);
    CHECK_THROWS_WITH_AS(run_ranks<2>([](thread_comm& world) { world.rank() == 0 ? world.split(0, 0) : world.apart(); }),
                         doctest::Contains("split #0, apart"), signature_mismatch);
    CHECK_THROWS_AS(run_ranks<2>([](thread_comm& world) {  // shapes are looked at before anything is issued
                      host_context context;
                      thread_comm beside = world.apart("beside");
                      std::vector<float> data(5), room(4);
                      beside.all_reduce(host_exec(context), data, room, sum{});
                    }),
                    error);
  }
  TEST_CASE("abandoned tickets: what is in flight is finished before the communicator is gone") {
    run_ranks<2>(
        [](thread_comm& world) {
          host_context context;
          const host_exec e(context);
          std::vector<float> data(5000, 1.0f);
          {
            thread_comm beside = world.apart("beside");
            for (int i = 0; i < 3; ++i) beside.all_reduce(e, data, data, sum{});
            thread_comm moved = std::move(beside);
          }
          CHECK(all_equal(data, [](std::size_t) { return 8.0f; }));
        },
        {.latency = 5ms});
  }
  TEST_CASE("an exception that leaves operations behind fails the world, and its memory is read by nobody after") {
    for (int round = 0; round < 20; ++round)
      CHECK_THROWS_WITH_AS(run_ranks<3>([&](thread_comm& world) {
                             host_context context;
                             const host_exec e(context);
                             std::vector<float> data(100000, 1.0f);  // freed after the communicator
                             thread_comm beside = world.apart("beside");
                             const auto t = beside.all_reduce(e, data, data, sum{});
                             if (world.rank() == 1) throw std::runtime_error("real");
                             t.wait(e);
                             beside.barrier(e).wait(e);
                           }),
                           "real", std::runtime_error);
  }
  TEST_CASE("nor does it wait for peers that will never issue the same") {
    const auto begin = steady::now();
    CHECK_THROWS_WITH_AS(run_ranks<2>([&](thread_comm& world) {
                           host_context context;
                           const host_exec e(context);
                           std::vector<float> data(5000, 1.0f);
                           thread_comm beside = world.apart("beside");
                           if (world.rank() == 1) {
                             beside.all_reduce(e, data, data, sum{});
                             throw std::runtime_error("real");
                           }
                           world.barrier(e);
                         }),
                         "real", std::runtime_error);
    CHECK(seconds_since(begin) < 5);
  }
  TEST_CASE("wrapped in others it still works beside its caller") {
    run_ranks<2>(
        [](thread_comm& world) {
          host_context context;
          const host_exec e(context);
          traffic_log log;
          const std::vector<fault> none;
          chaos<recording<thread_comm>> wrapped(recording<thread_comm>(std::move(world), log), none);
          auto beside = wrapped.apart("beside");
          const auto begin = steady::now();
          const auto t = beside.barrier(e);
          CHECK(seconds_since(begin) < 0.3);
          t.wait(e);
          CHECK(seconds_since(begin) >= 0.3);
        },
        {.latency = 300ms});
  }
}
