#include <moefold/comm/nccl.cuh>

#include "../support/device_place.hpp"
#include "../support/run_nccl.hpp"

#include <moefold/comm/chaos.cuh>
#include <moefold/comm/groups.hpp>
#include <moefold/comm/recording.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <cmath>

using namespace moefold;
using namespace std::chrono_literals;

static_assert(communicator<recording<nccl_comm>, cuda_exec> && communicator<recording<nccl_comm>>);

namespace {

template <class T>
std::vector<T> filled(std::size_t count, T value) {
  return std::vector<T>(count, value);
}

}  // namespace

static_assert(communicator<nccl_comm> && communicator<nccl_comm, cuda_exec>);  // over all element types

TEST_SUITE("comm/nccl" * doctest::skip(!test::nccl_is_possible())) {
  TEST_CASE("ranks over NCCL are a communicator over device memory and over host memory") {
    for (int ranks : {1, 2, 3, 4}) {
      CAPTURE(ranks);
      test::on_nccl("ranks over NCCL are a communicator over device memory and over host memory", ranks,
                    [&](nccl_comm& world, cuda_exec e) {
                      const test::in_device_memory at{e};
                      if (ranks == 2) {
                        check_communicator(world, at);
                        check_communicator<float, std::int64_t>(world);
                      } else {
                        check_communicator<bf16>(world, at);
                        check_communicator<double>(world);
                      }
                    });
    }
  }
  TEST_CASE("apart, a communicator over NCCL works beside the first") {
    test::on_nccl("apart, a communicator over NCCL works beside the first", 2, [](nccl_comm& world, cuda_exec e) {
      const test::in_device_memory at{e};
      nccl_comm beside = world.apart("grads");
      CHECK(beside.label() == comm_label("grads"));
      CHECK((beside.rank() == world.rank() && beside.size() == world.size()));
      check_communicator<float>(beside, at);
      const auto mine = at.put(filled<float>(1000, float(world.rank() + 1)));
      auto first = at.room(1000, 0.0f), second = at.room(2000, 0.0f);
      const auto sums = beside.all_reduce(at.e, mine, first, sum{});  // both in flight, waited for in the other order
      const auto all = world.all_gather(at.e, mine, second);
      all.wait(at.e);
      sums.wait(at.e);
      CHECK(all_equal(at.get(first), [](std::size_t) { return 3.0f; }));
      CHECK(all_equal(at.get(second), [](std::size_t i) { return i < 1000 ? 1.0f : 2.0f; }));
    });
  }
  TEST_CASE("the flight recorder has every call over NCCL, and what the device has done is done") {
    test::on_nccl("the flight recorder has every call over NCCL, and what the device has done is done", 2,
                  [](nccl_comm& world, cuda_exec e) {
                    const test::in_device_memory at{e};
                    const auto mine = at.put(filled<float>(1000, 1.0f));
                    auto all = at.room(2000, 0.0f);
                    nccl_comm pair = world.split(0, 1 - world.rank(), "pair");
                    pair.all_gather(at.e, mine, all).wait(at.e);
                    const std::vector<std::size_t> none(2, 0);
                    pair.all_gather_v(at.e, std::span<const float>{}, none, std::span<float>{}).wait(at.e);
                    pair.send(at.e, mine, 1 - pair.rank()).wait(at.e);
                    auto letter = at.room(1000, 0.0f);
                    pair.recv(at.e, letter, 1 - pair.rank()).wait(at.e);
                    e.wait();
                    std::this_thread::sleep_for(200ms);  // the watchdog looks
                    std::string calls;
                    flight_recorder::for_each([&](const flight_recorder& r) {
                      if (r.world() != 2 || r.first() != world.rank()) return;
                      r.ring(world.rank(), 0).for_each([&](const flight_entry& c) {
                        CHECK(c.group.size == 2);
                        CHECK(int(c.group.rank) == (r.labels()[c.group.label] == comm_label("pair") ? pair.rank() : world.rank()));
                        calls += sentence(c.what.op == operation::send ? "" : name_of(c.state), " ", describe(c.what), " on ",
                                          r.labels()[c.group.label].view(), "\n");
                      });
                    });
                    CHECK(calls ==
                          "done split #0 on world\ndone all_gather #0 of 1000 x fp32 on pair\ndone all_gather_v #1 of fp32 on pair\n"
                          " send #0 of 1000 x fp32 on pair\ndone recv #0 of 1000 x fp32 on pair\n");
                  });
  }
  TEST_CASE("a fault plan over NCCL: what it puts into device memory arrives, and a throw ends that rank's call before NCCL sees it") {
    test::on_nccl("a fault plan over NCCL: what it puts into device memory arrives, and a throw ends that rank's call before NCCL sees it",
                  2, [](nccl_comm& world, cuda_exec e) {
                    const test::in_device_memory at{e};
                    const auto plan = parse_faults(
                        "rank=1 op=all_gather seq=0 do=nan\nrank=0 op=all_gather seq=1 phase=after do=bitflip:payload\nseq=2 do=throw");
                    site_record sites;
                    chaos<nccl_comm> c(world.split(0, world.rank()), plan, &sites);
                    const auto mine = at.put(filled<float>(10, 1.0f));
                    auto all = at.room(20, 0.0f);
                    c.all_gather(at.e, mine, all).wait(at.e);
                    CHECK(std::isnan(at.get(all)[15]));
                    c.all_gather(at.e, mine, all).wait(at.e);
                    CHECK((at.get(all)[10] == 1.0f) == (world.rank() == 1));
                    CHECK_THROWS_AS(c.barrier(at.e), injected_fault);
                    CHECK(sites.size() == 3);
                  });
  }
  TEST_CASE("sums over NCCL are rank-ordered sums to rounding, and the same on all ranks") {
    test::on_nccl("sums over NCCL are rank-ordered sums to rounding, and the same on all ranks", 4, [](nccl_comm& world, cuda_exec e) {
      const test::in_device_memory at{e};
      const auto check = [&]<class T>(T, double tolerance) {
        const std::size_t count = 3001;
        std::vector<double> expected(count, 0.0);
        std::vector<T> mine;
        for (int r = 0; r < 4; ++r) {
          const auto values = test::random_tensor<float>({extent_t(count)}, std::uint64_t(r));
          for (std::size_t i = 0; i < count; ++i) {
            expected[i] += double(accumulate_t<T>(T(values.data()[i])));
            if (r == world.rank()) mine.push_back(T(values.data()[i]));
          }
        }
        const auto in = at.put(mine);
        auto out = at.room(count, T());
        world.all_reduce(at.e, in, out, sum{}).wait(at.e);
        const std::vector<T> got = at.get(out);
        double difference = 0, norm = 0;
        for (std::size_t i = 0; i < count; ++i) {
          difference += std::pow(double(accumulate_t<T>(got[i])) - expected[i], 2);
          norm += expected[i] * expected[i];
        }
        CHECK(std::sqrt(difference / norm) < tolerance);
        std::vector<T> all(4 * count);
        world.all_gather(host_exec(*std::make_unique<host_context>()), got, all);
        CHECK(all_equal(all, [&](std::size_t i) { return all[i % count]; }));
      };
      check(float{}, 2e-6);
      check(bf16{}, 2e-2);
    });
  }
  TEST_CASE("messages over NCCL: all may be sent before the first is taken, whichever way they go") {
    test::on_nccl(
        "messages over NCCL: all may be sent before the first is taken, whichever way they go", 4, [](nccl_comm& world, cuda_exec e) {
          const test::in_device_memory at{e};
          const int n = world.size(), me = world.rank(), right = (me + 1) % n, left = (me + n - 1) % n;
          const std::size_t count = 5000;
          std::vector<test::device_tensor<float>> kept;  // freeing memory waits for the device, and so for whoever takes the messages
          for (int i = 0; i < 12; ++i) {
            auto& up = kept.emplace_back(at.put(filled<float>(count, float(100 * me + i))));
            world.send(at.e, up, right).wait(at.e);
            at.spoil(up);  // sent is a copy
            auto& down = kept.emplace_back(at.put(filled<float>(count, float(-100 * me - i))));
            world.send(at.e, down, left).wait(at.e);
            at.spoil(down);
          }
          auto sums = at.put(filled<std::int32_t>(1, me));  // collectives in between wait for no message
          world.all_reduce(at.e, sums, sums, sum{}).wait(at.e);
          CHECK(at.get(sums)[0] == 6);
          for (int i = 0; i < 12; ++i) {
            auto& from_right = kept.emplace_back(at.room(count, 0.0f));
            auto& from_left = kept.emplace_back(at.room(count, 0.0f));
            world.recv(at.e, from_right, right).wait(at.e);
            world.recv(at.e, from_left, left).wait(at.e);
            CHECK(all_equal(at.get(from_left), [&](std::size_t) { return float(100 * left + i); }));
            CHECK(all_equal(at.get(from_right), [&](std::size_t) { return float(-100 * right - i); }));
          }
          if (me % 2 == 0) {  // two apart
            auto across = at.room(3, 0.0f), mine = at.put(filled<float>(3, float(me)));
            world.send(at.e, mine, 2 - me).wait(at.e);
            world.recv(at.e, across, 2 - me).wait(at.e);
            CHECK(all_equal(at.get(across), [&](std::size_t) { return float(2 - me); }));
          }
        });
  }
  TEST_CASE("the queues of neighbours in the ring do not meet") {
    for (int n = 2; n < 9; ++n)
      for (int r = 0; r < n; ++r) {
        const int right = (r + 1) % n, left = (r + n - 1) % n;
        const int queues[] = {message_queue(r, right), message_queue(left, r), message_queue(right, r), message_queue(r, left)};
        for (int q : queues) CHECK((0 <= q && q < 4));
        CHECK(queues[0] != queues[1]);  // a ring to the right: out and in
        CHECK(queues[2] != queues[3]);  // to the left
        if (n > 2) CHECK((queues[0] != queues[2] && queues[1] != queues[3]));
      }
    CHECK(message_queue(3, 3) == -1);
  }
  TEST_CASE("over NCCL nothing is allocated after the first round, and a recording counts as with threads") {
    test::on_nccl("over NCCL nothing is allocated after the first round, and a recording counts as with threads", 2,
                  [](nccl_comm& comm, cuda_exec e) {
                    const test::in_device_memory at{e};
                    traffic_log log;
                    recording world(comm, log);
                    host_context context;
                    const host_exec host(context);
                    const auto in = at.put(samples<float>(world.rank(), 1000));
                    auto out = at.room(1000, 0.0f), twice = at.room(2000, 0.0f);
                    std::vector<double> loss(1, 1.0);
                    std::size_t before = 0;
                    for (int round = 0; round < 6; ++round) {
                      world.all_reduce(at.e, in, out, sum{}).wait(at.e);
                      world.all_gather(at.e, in, twice).wait(at.e);
                      world.all_to_all(at.e, in, out).wait(at.e);
                      world.send(at.e, in, 1 - world.rank()).wait(at.e);
                      world.recv(at.e, out, 1 - world.rank()).wait(at.e);
                      world.all_reduce(host, loss, loss, moefold::max{}).wait(host);
                      at.e.wait();
                      world.barrier(host).wait(host);
                      if (round == 1) before = device_memory::allocations();
                      world.barrier(host).wait(host);
                    }
                    CHECK(device_memory::allocations() == before);
                    const std::uint64_t bytes = sizeof(float) * 1000;
                    CHECK(log("world", operation::all_reduce) == traffic_count{12, 24, 6 * bytes + 6 * 2 * sizeof(double)});
                    CHECK(log("world", operation::all_gather) == traffic_count{6, 6, 6 * bytes});
                    CHECK(log("world", operation::send) == traffic_count{6, 6, 6 * bytes});
                  });
  }
  TEST_CASE("the groups of a folding are split from an NCCL world") {
    test::on_nccl("the groups of a folding are split from an NCCL world", 4, [](nccl_comm& world, cuda_exec e) {
      const test::in_device_memory at{e};
      using fold = folding<mesh<tp<2>, dp<2>>, mesh<ep<4>>>;
      group_set<nccl_comm> groups(world, resolve<fold>(4));
      auto one = at.put(filled<float>(1, float(world.rank())));
      auto& tp_group = groups.template over<tag::tp>();
      CHECK((tp_group.size() == 2 && tp_group.label() == comm_label("tp")));
      tp_group.all_reduce(at.e, one, one, sum{}).wait(at.e);
      CHECK(at.get(one)[0] == (world.rank() < 2 ? 1.0f : 5.0f));
      CHECK(groups.template over<tag::ep>().size() == 4);
      CHECK(groups.template over<tag::cp>().size() == 1);
    });
  }
  TEST_CASE("a split over NCCL with a negative colour is an error that says so") {
    test::on_nccl("a split over NCCL with a negative colour is an error that says so", 1, [](nccl_comm& world, cuda_exec e) {
      const test::in_device_memory at{e};
      CHECK_THROWS_WITH_AS(world.split(-1, 0),
                           "moefold: split of world with colour -1; NCCL wants 0 or more, also of a rank that stays alone", error);
      auto out = at.room(1, 0.0f);
      CHECK_THROWS_WITH_AS(world.recv(at.e, out, 0), doctest::Contains("send first"), error);
    });
  }
#if defined(MOEFOLD_EMULATED)  // on GPUs these would end processes
  TEST_CASE("over NCCL a rank that does not come is a timeout, on the device and on the host, and ends the world") {
    for (const bool host : {false, true}) {
      std::atomic<int> told{0}, timeouts{0};
      CHECK_THROWS_AS(
          test::on_nccl("", 3,
                        [&](nccl_comm& world, cuda_exec e) {
                          const test::in_device_memory at{e};
                          host_context context;
                          nccl_comm pair = world.split(world.rank() / 2, 0, "pair");
                          auto one = at.put(filled<float>(1, 1.0f));
                          std::vector<float> here(1);
                          world.all_reduce(at.e, one, one, sum{}).wait(at.e);
                          at.e.wait();
                          if (world.rank() == 1) std::this_thread::sleep_for(800ms);
                          try {
                            if (host) world.all_reduce(host_exec(context), here, here, sum{});
                            world.all_reduce(at.e, one, one, sum{}).wait(at.e);
                            at.e.wait();  // ends, though nobody came
                            world.barrier(at.e);
                            FAIL_CHECK("the barrier cannot pass");
                          } catch (const comm_error& failure) {
                            const std::string text = failure.what();
                            CAPTURE(text);
                            if (world.rank() != 1) {  // its own watchdog, or that of whoever gave up first
                              CHECK(failure.cause().op == operation::all_reduce);
                              CHECK(failure.cause().seq == 2);
                              if (dynamic_cast<const timeout*>(&failure) != nullptr) {
                                CHECK(text.find(sentence("all_reduce #2 of 1 x fp32, sum on world waited 0.3")) != text.npos);
                                CHECK(text.find("MOEFOLD_TIMEOUT_FACTOR") != text.npos);
                                ++timeouts;
                              } else {
                                CHECK(dynamic_cast<const peer_failed*>(&failure) != nullptr);
                                CHECK(text.find("remote process exited") != text.npos);
                              }
                              ++told;
                            }
                          }
                          try {
                            pair.barrier(at.e);
                            FAIL_CHECK("the world has failed");
                          } catch (const comm_revoked& failure) {
                            CHECK(std::string(failure.what()).find("cannot run in a world that has failed") != std::string::npos);
                          }
                          CHECK_THROWS_AS(world.split(0, 0), comm_revoked);
                        },
                        {10s, 300ms, 5ms}),
          comm_revoked);
      CHECK(told == 2);
      CHECK(timeouts >= 1);
    }
  }
  TEST_CASE("over NCCL a rank that never joins is a timeout that names the world") {
    ncclUniqueId id;
    REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
    cuda_context context(0);
    CHECK_THROWS_WITH_AS(nccl_comm(id, 0, 2, {100ms, 1s, 5ms}), doctest::Contains("split #0, join on world waited"), timeout);
  }
  TEST_CASE("over NCCL the peers of a rank that throws learn of its end") {
    std::atomic<int> told{0};
    std::vector<test::device_tensor<float>> kept(3);  // freeing it while it is used would wait for the watchdog
    CHECK_THROWS_WITH_AS(test::on_nccl("", 3,
                                       [&](nccl_comm& world, cuda_exec e) {
                                         const test::in_device_memory at{e};
                                         auto& one = kept[std::size_t(world.rank())] = at.put(filled<float>(1, 1.0f));
                                         world.send(at.e, one, (world.rank() + 1) % 3).wait(at.e);
                                         world.recv(at.e, one, (world.rank() + 2) % 3).wait(at.e);
                                         at.e.wait();
                                         if (world.rank() == 0) {
                                           const auto in_flight = world.recv(at.e, one, 1);
                                           throw std::runtime_error("disk on fire");
                                         }
                                         try {
                                           std::this_thread::sleep_for(50ms);
                                           for (int i = 0; i < 100; ++i) {
                                             world.barrier(at.e).wait(at.e);
                                             at.e.wait();
                                           }
                                           FAIL_CHECK("rank 0 is gone");
                                         } catch (const comm_error& failure) {
                                           ++told;
                                           throw;
                                         }
                                       }),
                         "disk on fire", std::runtime_error);
    CHECK(told == 2);
  }
#endif
}
