#include <moefold/comm/chaos.hpp>

#include "../support/communicator_suite.hpp"
#include "../support/packed_comm.hpp"
#include "../support/run_ranks.hpp"

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

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
  TEST_CASE("a plan is read line by line") {
    const auto plan = parse_faults(
        "# two faults\n"
        "rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw\n"
        "\n"
        "do=slow:2ms   # everywhere\n"
        "op=send do=count:-1\n");
    REQUIRE(plan.size() == 3);
    CHECK(plan[0].matches(3, "ep", operation::all_to_all_v, 17));
    CHECK_FALSE(plan[0].matches(2, "ep", operation::all_to_all_v, 17));
    CHECK_FALSE(plan[0].matches(3, "tp", operation::all_to_all_v, 17));
    CHECK_FALSE(plan[0].matches(3, "ep", operation::all_to_all, 17));
    CHECK_FALSE(plan[0].matches(3, "ep", operation::all_to_all_v, 16));
    CHECK(plan[0].phase == fault::phase_t::inside);
    CHECK(plan[1].matches(7, "dp", operation::recv, 4));
    CHECK(plan[1].time == 2ms);
    CHECK(plan[2].change == -1);
  }
  TEST_CASE("what a plan cannot say is an error that quotes the line") {
    for (const char* line :
         {"rank=3", "rank=x do=throw", "do=explode", "do=hang", "do=hang:soon", "op=gather do=throw", "phase=during do=throw",
          "colour=red do=throw", "phase=inside do=dtype", "phase=after do=count:+1", "phase=inside do=bitflip:payload", "do=exit",
          "do=kill", "do=nan", "do=oom", "do=bitflip:header", "rank=99999999999 do=throw"}) {
      CAPTURE(line);
      CHECK_THROWS_WITH_AS(parse_faults(line), doctest::Contains(line), config_error);
    }
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
