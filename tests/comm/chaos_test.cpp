#include <moefold/comm/chaos.hpp>

#include "../support/communicator_suite.hpp"
#include "../support/packed_comm.hpp"
#include "../support/run_ranks.hpp"

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstdlib>

#include <sys/wait.h>
#include <unistd.h>

using namespace moefold;
using namespace std::chrono_literals;

static_assert(communicator<chaos<self_comm>> && peer_readable<chaos<thread_comm>>);
static_assert(fetching<chaos<self_comm>> && fetching<chaos<recording<thread_comm>>> && !fetching<chaos<test::packed_comm>>);
static_assert(communicator<chaos<recording<thread_comm>>> && communicator<recording<chaos<thread_comm>>>);

namespace {
// Runs three rounds of all_reduce on a split of four ranks under a plan.
void play(std::string_view text) {
  const auto plan = parse_faults(text);
  run_ranks<4>([&](thread_comm& inner) {
    host_context context;
    const host_exec e(context);
    chaos<thread_comm> world(std::move(inner), plan);
    auto tp = world.split(world.rank() % 2, world.rank(), "tp");
    for (int round = 0; round < 3; ++round) {
      std::vector<float> v(300, 1.0f);
      tp.all_reduce(e, v, v, sum{});
      world.barrier(e);
    }
  });
}
// Three fetches of one element from each of three ranks under a plan; returns how many elements arrived as they were shown, of 27.
int fetch(std::string_view text) {
  const auto plan = parse_faults(text);
  std::atomic<int> right{0};
  run_ranks<3>([&](thread_comm& inner) {
    host_context context;
    chaos<thread_comm> world(std::move(inner), plan);
    const std::vector<std::size_t> counts(3, 1);
    for (int round = 0; round < 3; ++round) {
      const std::vector<std::int32_t> mine(1, 10 * round + world.rank());
      world.fetch_v<std::int32_t>(host_exec(context), mine.data(), counts, counts, [&](auto&& peer) {
        for (int p = 0; p < 3; ++p) right += *peer(p) == 10 * round + p;
      });
    }
  });
  return right;
}
}  // namespace

TEST_SUITE("comm/chaos") {
  TEST_CASE("with an empty plan it is the communicator it wraps") {
    run_ranks<3>([](thread_comm& world) {
      chaos<thread_comm> c(std::move(world), {});
      check_communicator<float, bf16>(c);
    });
  }
  TEST_CASE("a communicator without an inside refuses such a plan") {
    const auto plan = parse_faults("phase=inside do=throw");
    CHECK_THROWS_WITH_AS(chaos<self_comm>(self_comm{}, plan), doctest::Contains("has no inside"), config_error);
  }
  TEST_CASE("throw reaches the caller as injected_fault, from every phase") {
    for (const char* phase : {"before", "inside", "after"})
      CHECK_THROWS_AS(play(sentence("rank=2 axis=tp op=all_reduce seq=1 do=throw phase=", phase)), injected_fault);
  }
  TEST_CASE("a fault that nothing matches does nothing") {
    CHECK_NOTHROW(play("rank=2 axis=tp op=all_reduce seq=99 do=throw\nrank=9 do=throw\naxis=cp do=throw"));
  }
  TEST_CASE("slow delays and harms nobody") {
    const auto begin = steady::now();
    CHECK_NOTHROW(
        play("rank=1 axis=tp seq=0 do=slow:30ms\nrank=1 axis=tp seq=1 phase=inside do=slow:30ms\nrank=1 seq=1 phase=after do=hang:30ms"));
    CHECK(steady::now() - begin >= 90ms);
  }
  TEST_CASE("a lie about count or type is a signature mismatch on every rank") {
    for (const char* lie : {"count:+1", "count:-1", "dtype"}) {
      CAPTURE(lie);
      CHECK_THROWS_WITH_AS(play(sentence("rank=1 axis=tp op=all_reduce seq=2 do=", lie)), doctest::Contains("ranks disagree on tp"),
                           signature_mismatch);
    }
  }
  TEST_CASE("a flipped bit arrives, unnoticed by the communicator") {
    for (const char* phase : {"before", "after"}) {
      const auto plan = parse_faults(sentence("rank=0 op=all_gather do=bitflip:payload phase=", phase));
      run_ranks<2>([&](thread_comm& inner) {
        host_context context;
        chaos<thread_comm> world(std::move(inner), plan);
        const std::vector<std::int32_t> mine(4, 8);
        std::vector<std::int32_t> all(8);
        world.all_gather(host_exec(context), mine, all);
        const int wrong = int(std::count(all.begin(), all.end(), 9));
        CHECK(wrong == (phase == std::string_view("before") || world.rank() == 0 ? 1 : 0));
        CHECK(std::count(mine.begin(), mine.end(), 8) == 4);  // the caller's input is not touched
      });
    }
  }
  TEST_CASE("exit leaves the rank's function as if it had returned: those who wait for it are told it finished early") {
    for (const char* phase : {"before", "after"}) {
      CHECK_THROWS_WITH_AS(play(sentence("rank=2 axis=tp op=all_reduce seq=1 do=exit phase=", phase)),
                           doctest::Contains("rank 2 finished early"), peer_failed);
    }
    CHECK_NOTHROW(play("axis=world op=barrier seq=3 phase=after do=exit"));  // the last call of every rank: nobody waits
  }
  TEST_CASE("kill and segv end the process, by that signal") {
    for (const auto& [action, signal] : {std::pair("kill", SIGKILL), std::pair("segv", SIGSEGV)}) {
      const auto plan = parse_faults(sentence("op=barrier seq=1 do=", action));
      const pid_t child = fork();
      if (child == 0) {
        chaos<self_comm> alone(self_comm{}, plan);
        host_context context;
        for (int i = 0; i < 3; ++i) alone.barrier(host_exec(context));
        std::_Exit(0);
      }
      int status = 0;
      REQUIRE(waitpid(child, &status, 0) == child);
      CHECK(WIFSIGNALED(status));
      CHECK(WTERMSIG(status) == signal);
    }
  }
  TEST_CASE("oom fails the rank's next allocation, or the n-th from there, and all ranks learn of it") {
    const auto allocate = [](std::string_view text, int blocks) {
      const auto plan = parse_faults(text);
      run_ranks<3>([&](thread_comm& inner) {
        host_context context;
        chaos<thread_comm> world(std::move(inner), plan);
        world.barrier(host_exec(context));
        for (int i = 0; i < blocks; ++i) host_memory::deallocate(host_memory::allocate(100));
        world.barrier(host_exec(context));
        failing_allocation::arm(0);
      });
    };
    for (const char* phase : {"before", "inside", "after"}) {
      CHECK_THROWS_WITH_AS(allocate(sentence("rank=1 op=barrier seq=0 do=oom phase=", phase), 1),
                           doctest::Contains("could not allocate 100 bytes"), out_of_memory);
      CHECK_THROWS_AS(allocate(sentence("rank=1 op=barrier seq=0 do=oom:3 phase=", phase), 3), out_of_memory);
      CHECK_NOTHROW(allocate(sentence("rank=1 op=barrier seq=0 do=oom:3 phase=", phase), 2));
    }
  }
  TEST_CASE("nan puts one into what is sent or received, of floating types, and leaves the caller's own data alone") {
    for (const char* phase : {"before", "after"}) {
      const auto plan = parse_faults(sentence("rank=0 do=nan phase=", phase));
      run_ranks<2>([&](thread_comm& inner) {
        host_context context;
        const host_exec e(context);
        chaos<thread_comm> world(std::move(inner), plan);
        const bool hit = phase == std::string_view("before") || world.rank() == 0;
        const auto check = [&]<class T>(T one) {
          const std::vector<T> mine(4, one);
          std::vector<T> all(8);
          world.all_gather(e, mine, all);
          CHECK(std::count_if(all.begin(), all.end(), [](T x) { return x != x; }) == (hit ? 1 : 0));
          CHECK(std::count(mine.begin(), mine.end(), one) == 4);
        };
        check(1.0f), check(1.0), check(bf16(1.0f));
        const std::vector<std::int32_t> whole(4, 1);
        std::vector<std::int32_t> sums(4);
        world.all_reduce(e, whole, sums, sum{});
        CHECK(std::count(sums.begin(), sums.end(), 2) == 4);
      });
    }
  }
  TEST_CASE("a record lists every call of a clean run, and a fault at any of them hits that call and no other") {
    const auto run = [](std::span<const fault> plan, std::array<site_record, 2>* sites) {
      run_ranks<2>([&](thread_comm& inner) {
        host_context context;
        const host_exec e(context);
        const auto me = std::size_t(inner.rank());
        chaos<thread_comm> world(std::move(inner), plan, sites ? &(*sites)[me] : nullptr);
        auto pair = world.split(0, world.rank(), "cp x dp");
        auto beside = pair.apart("grads");
        std::vector<float> a(6, 1.0f), b(12);
        const std::vector<std::size_t> counts(2, 3);
        pair.all_gather(e, a, b);
        pair.all_to_all_v(e, a, counts, a, counts);
        pair.send(e, a, 1 - world.rank());
        pair.recv(e, a, 1 - world.rank());
        beside.all_reduce(e, a, a, max{}).wait(e);
        pair.broadcast(e, a, 1);
        world.expose(e, a).close();
        world.template fetch_v<float>(e, a.data(), counts, counts, [](auto&&) {});
        world.barrier(e);
      });
    };
    std::array<site_record, 2> sites;
    run({}, &sites);
    CHECK(text_of(sites[1]) ==
          "rank=1 axis=world op=split seq=0 type=uint8 count=0 reduction=- root=-1 bytes=0\n"
          "rank=1 axis=\"cp x dp\" op=split seq=0 type=uint8 count=0 reduction=apart root=-1 bytes=0\n"
          "rank=1 axis=\"cp x dp\" op=all_gather seq=1 type=fp32 count=6 reduction=- root=-1 bytes=24\n"
          "rank=1 axis=\"cp x dp\" op=all_to_all_v seq=2 type=fp32 count=0 reduction=- root=-1 bytes=24\n"
          "rank=1 axis=\"cp x dp\" op=send seq=0 type=fp32 count=6 reduction=- root=0 bytes=24\n"
          "rank=1 axis=\"cp x dp\" op=recv seq=0 type=fp32 count=6 reduction=- root=0 bytes=0\n"
          "rank=1 axis=grads op=all_reduce seq=0 type=fp32 count=6 reduction=max root=-1 bytes=24\n"
          "rank=1 axis=\"cp x dp\" op=broadcast seq=3 type=fp32 count=6 reduction=- root=1 bytes=24\n"
          "rank=1 axis=world op=expose seq=1 type=fp32 count=0 reduction=- root=-1 bytes=24\n"
          "rank=1 axis=world op=all_to_all_v seq=2 type=fp32 count=0 reduction=- root=-1 bytes=24\n"
          "rank=1 axis=world op=barrier seq=3 type=uint8 count=0 reduction=- root=-1 bytes=0\n");
    for (const site_record& record : sites)
      for (const call_site& site : record) {
        CAPTURE(describe(site));
        const std::vector<fault> plan{site.at(fault::action_t::raise)};
        std::array<site_record, 2> until;
        CHECK_THROWS_AS(run(plan, &until), injected_fault);
        const site_record& mine = until[std::size_t(site.rank)];
        REQUIRE(!mine.empty());
        CHECK(mine.back() == site);  // the call it was at
      }
  }
  TEST_CASE("fetch_v is an all_to_all_v to a plan: it throws and waits in every phase, and counts as a call") {
    for (const char* phase : {"before", "inside", "after"}) {
      CHECK_THROWS_AS(fetch(sentence("rank=2 op=all_to_all_v seq=1 do=throw phase=", phase)), injected_fault);
      const auto begin = steady::now();
      CHECK(fetch(sentence("rank=1 op=all_to_all_v seq=1 do=slow:30ms phase=", phase)) == 27);
      CHECK(steady::now() - begin >= 30ms);
    }
    CHECK(fetch("op=all_to_all_v seq=3 do=throw\nop=all_to_all do=throw") == 27);
  }
  TEST_CASE("fetch_v: lies do not reach memory that peers fetch themselves") {
    for (const char* lie : {"count:+1", "dtype", "bitflip:payload"}) CHECK(fetch(sentence("rank=1 op=all_to_all_v do=", lie)) == 27);
  }
}
