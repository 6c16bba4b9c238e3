#include <moefold/comm/fault_plan.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {
fault one(std::string_view line) {
  const auto plan = parse_faults(line);
  REQUIRE(plan.size() == 1);
  return plan[0];
}
}  // namespace

TEST_SUITE("comm/fault_plan") {
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
  TEST_CASE("an axis with spaces stands in quotes") {
    CHECK(one("axis=\"cp x dp\" rank=2 do=throw").axis == comm_label("cp x dp"));
    CHECK(one("do=throw axis=\"cp x dp\"").axis == comm_label("cp x dp"));
    CHECK(one("axis=\"ep\" do=throw").axis == comm_label("ep"));
  }
  TEST_CASE("every fault is written as the line it is read from") {
    for (const char* line : {"rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw", "do=hang:500ms", "phase=after do=exit",
                             "rank=0 do=kill", "phase=inside do=segv", "do=oom:1", "seq=18446744073709551615 do=oom:18446744073709551615",
                             "do=bitflip:payload", "phase=after do=bitflip:payload", "axis=\"cp x dp\" phase=after do=nan",
                             "op=send do=count:+3", "do=count:-2", "do=dtype", "chance=0.015625 seed=7 do=throw"}) {
      CAPTURE(line);
      CHECK(describe(one(line)) == line);
      CHECK(one(describe(one(line))) == one(line));
    }
    CHECK(describe(one("do=slow:2ms")) == "do=hang:2ms");  // the same, for another purpose
    CHECK(describe(one("do=oom")) == "do=oom:1");
  }
  TEST_CASE("a chance hits that share of the calls, by the seed alone") {
    const fault f = one("chance=0.1 seed=3 do=throw"), again = one("chance=0.1 seed=3 do=hang:1ms"),
                other = one("chance=0.1 seed=4 do=throw");
    int hits = 0, common = 0;
    for (int rank = 0; rank < 8; ++rank)
      for (const char* axis : {"tp", "ep"})
        for (const operation op : {operation::send, operation::all_reduce})
          for (std::uint64_t seq = 0; seq < 1000; ++seq) {
            const bool hit = f.matches(rank, axis, op, seq);
            REQUIRE(hit == again.matches(rank, axis, op, seq));
            hits += hit;
            common += hit && other.matches(rank, axis, op, seq);
          }
    CHECK(hits > 3000);  // of 32000
    CHECK(hits < 3400);
    CHECK(common > 220);
    CHECK(common < 420);
    CHECK_FALSE(one("chance=0.5 rank=3 do=throw").matches(2, "tp", operation::send, 0));
    CHECK(one("chance=1 do=throw").matches(2, "tp", operation::send, 0));
  }
  TEST_CASE("what a plan cannot say is an error that quotes the line") {
    for (const char* line : {"rank=3",
                             "rank=x do=throw",
                             "do=explode",
                             "do=hang",
                             "do=hang:soon",
                             "op=gather do=throw",
                             "phase=during do=throw",
                             "colour=red do=throw",
                             "phase=inside do=dtype",
                             "phase=after do=count:+1",
                             "phase=inside do=bitflip:payload",
                             "phase=inside do=nan",
                             "phase=inside do=exit",
                             "do=exit:3",
                             "do=kill:9",
                             "do=nan:1",
                             "do=oom:",
                             "do=oom:0",
                             "do=oom:-1",
                             "do=oom:many",
                             "do=bitflip:header",
                             "do=bitflip",
                             "do=throw:hard",
                             "do=dtype:fp32",
                             "rank=99999999999 do=throw",
                             "chance=0 do=throw",
                             "chance=2 do=throw",
                             "chance=nan do=throw",
                             "chance=x do=throw",
                             "seed=-1 do=throw",
                             "axis do=throw x",
                             "axis=\"cp x do=throw",
                             "axis=a\"b do=throw",
                             "do"}) {
      CAPTURE(line);
      CHECK_THROWS_WITH_AS(parse_faults(line), doctest::Contains(line), config_error);
    }
  }
}
