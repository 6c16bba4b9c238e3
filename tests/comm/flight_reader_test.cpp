#include <moefold/comm/flight_reader.hpp>

#include <moefold/comm/flight_dump.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {
const std::string head =
    "moefold flight 1\nworld 4\nrank 3\nrecorder 2\nculprit 1\nhost node\npid 7\nclock 100 200\nreason x y\nlabel 0 cp x dp\ncalls 0 "
    "5000\ncalls 1 "
    "1\n";
const std::string call = "0 4999 ab 0 2 1 all_reduce 17 bf16 4096 sum -1 host done 1000 1500\n";
}  // namespace

TEST_SUITE("comm/flight_reader") {
  TEST_CASE("what was written is read: every operation, type, reduction, memory and state") {
    flight_recorder recorder(9, 4, 1, 2);
    const auto t = [](std::int64_t ns) { return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(ns)); };
    std::vector<signature> made;
    for (std::size_t i = 0; i < 60; ++i) {
      const char* reductions[] = {"", "sum", "max", "apart"};
      made.push_back(
          {operation(i % operations), dtype(i % 8), reductions[i % 4], int(i % 6) - 1, ~std::uint64_t{0} - i, i * i, i % 5 == 0});
      const flight_group group{~std::uint64_t{0} - i, recorder.labels().number_of(i % 2 ? "world" : "cp x dp"), 5, std::uint32_t(i % 5)};
      const std::uint64_t n = recorder.ring(4, int(i / 30)).enter(group, made.back(), t(std::int64_t(i)));
      if (i % 3 > 0) recorder.ring(4, int(i / 30)).leave(n, flight_state(i % 3), t(std::int64_t(1000 + i)));
    }
    const flight_dump d = parse_flight(flight_text(recorder, 4, "why\tthis", 5), "file");
    CHECK(d.world == 9);
    CHECK(d.rank == 4);
    CHECK(d.culprit == 5);
    CHECK(d.recorder == recorder.number());
    CHECK(d.host == detail::host_name());
    CHECK(d.pid == detail::process_number());
    CHECK(d.reason == "why this");
    CHECK(d.complete);
    CHECK(d.wall > d.steady);
    CHECK(d.made == std::vector<std::uint64_t>{30, 30});
    REQUIRE(d.calls.size() == 60);
    for (std::size_t i = 0; i < 60; ++i) {
      const flight_call& c = d.calls[i];
      CHECK(c.what == made[i]);
      CHECK(c.lane == int(i / 30));
      CHECK(c.number == i % 30);
      CHECK(c.group.id == ~std::uint64_t{0} - i);
      CHECK(c.label == comm_label(i % 2 ? "world" : "cp x dp"));
      CHECK(c.group.rank == i % 5);
      CHECK(c.state == flight_state(i % 3));
      CHECK(c.start == std::int64_t(i));
      CHECK(c.end == (i % 3 > 0 ? std::int64_t(1000 + i) : 0));
    }
    CHECK(d.last(0)->number == 29);
    CHECK(d.last(1) == &d.calls.back());
    CHECK(d.last(2) == nullptr);
  }
  TEST_CASE("a file cut short anywhere gives the calls that are whole, or an error where its head is not") {
    const std::string whole = head + call + call + "end\n";
    for (std::size_t n = 0; n < whole.size(); ++n) {
      const std::string part = whole.substr(0, n);
      const bool headed = n >= head.find("recorder");
      CAPTURE(part);
      if (!headed)
        CHECK_THROWS_AS(parse_flight(part, "f"), format_error);
      else {
        const flight_dump d = parse_flight(part, "f");
        CHECK_FALSE(d.complete);
        CHECK(d.calls.size() == (n < head.size() + call.size() ? 0u : n < head.size() + 2 * call.size() ? 1u : 2u));
      }
    }
    CHECK(parse_flight(whole, "f").complete);
  }
  TEST_CASE("what is no such file is an error that names the file and the byte") {
    for (const std::string& wrong :
         std::vector<std::string>{"",
                                  "moefold flight 2\n",
                                  "\x7f"
                                  "ELF\n",
                                  head + "0 1 2\n",
                                  head + call.substr(0, call.size() - 1) + " 3\n",
                                  "moefold flight 1\n" + call,
                                  head + "2 0 ab 0 2 1 barrier 0 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 5 1 barrier 0 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 2 barrier 0 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 gather 0 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint9 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 min -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 - -2 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 - 2 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 - -1 rom done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 - -1 host over 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 0 uint8 0 - -1 host done -1 2\n",
                                  head + "0 0 xy 0 2 1 barrier 0 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 0 2 1 barrier 99999999999999999999 uint8 0 - -1 host done 1 2\n",
                                  head + "0 0 ab 999 2 1 barrier 0 uint8 0 - -1 host done 1 2\n",
                                  head + "label 2 x\n",
                                  head + "calls 3 1\n",
                                  head + "colour red\n",
                                  head + "world 0\n",
                                  head + "world 2\n" + call,
                                  head + "rank 4\n",
                                  "moefold flight 1\nworld 4\nrank 3\ncalls 0 1\nworld 9999999\n"}) {
      CAPTURE(wrong);
      CHECK_THROWS_WITH_AS(parse_flight(wrong, "some/file"), doctest::Contains("'some/file' at byte "), format_error);
    }
    CHECK_THROWS_WITH(parse_flight(head + "colour red\n", "f"),
                      doctest::Contains(sentence("at byte ", head.size(), ": \"colour\"").c_str()));
  }
  TEST_CASE("what a terminal would obey is not handed on") {
    const flight_dump d = parse_flight(
        "moefold flight 1\nworld 1\nrank 0\nhost a\x1b[2J\nreason b\x1b[31m\nlabel 0 c\x07\ncalls 0 1\n0 0 1 0 1 0 barrier 0 uint8 0 - -1 "
        "host done 1 2\nend\n",
        "f");
    CHECK(d.host == "a?[2J");
    CHECK(d.reason == "b?[31m");
    CHECK(d.calls[0].label == comm_label("c?"));
  }
}
