#include <moefold/comm/flight_report.hpp>

#include "../support/run_ranks.hpp"
#include "../support/temporary_folder.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {
// What the ranks of the one world that runs would write now.
flight_report report_now() {
  std::vector<flight_dump> files;
  flight_recorder::for_each([&](const flight_recorder& r) {
    for (int rank = 0; rank < r.world(); ++rank) files.push_back(parse_flight(flight_text(r, rank, "now"), "now"));
  });
  return flight_report(std::move(files));
}
// The files a world of 4 ranks writes when `body(world, exec)` fails on some.
template <class Body>
flight_report report_of_failure(Body&& body, thread_options options = {}) {
  const temporary_folder folder;
  setenv("MOEFOLD_FLIGHT_DIR", folder.path.c_str(), 1);
  CHECK_THROWS(run_ranks(
      4,
      [&](thread_comm& world) {
        host_context context;
        body(world, host_exec(context));
      },
      options));
  unsetenv("MOEFOLD_FLIGHT_DIR");
  std::vector<flight_dump> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    files.push_back(parse_flight(folder.text(entry.path().filename().string()), entry.path().string()));
  REQUIRE(files.size() == 4);
  return flight_report(std::move(files));
}
bool contains(const std::string& text, std::string_view words) { return text.find(words) != text.npos; }
// Ranks other than 0 have entered their n-th call.
void until_others_wait(std::uint64_t calls) {
  for (int i = 0; i < 1000; ++i) {
    bool there = true;
    flight_recorder::for_each([&](const flight_recorder& r) {
      for (int rank = 1; rank < r.world(); ++rank) there = there && r.ring(rank, 0).calls() >= calls;
    });
    if (there) return;
    std::this_thread::sleep_for(2ms);
  }
  FAIL("the other ranks do not come");
}
flight_dump one(int rank, int world, std::string calls, std::int64_t wall = 1000) {
  return parse_flight(sentence("moefold flight 1\nworld ", world, "\nrank ", rank, "\nhost h\npid 1\nclock 1000 ", wall,
                               "\nreason r\nlabel 0 world\nlabel 1 tp\ncalls 0 9\n", calls, "end\n"),
                      sentence("file ", rank));
}
}  // namespace

TEST_SUITE("comm/flight_report") {
  TEST_CASE("ranks that made different calls are named, with the calls, whatever came before") {
    const flight_report r = report_of_failure([](thread_comm& world, host_exec e) {
      auto pair = world.split(world.rank() / 2, world.rank(), "tp");
      std::vector<float> x(8, 1.0f), y(16);
      for (int i = 0; i < 20; ++i) pair.all_reduce(e, x, x, sum{});
      world.barrier(e);
      if (world.rank() == 2)
        pair.all_gather(e, x, y);
      else
        pair.all_reduce(e, x, x, sum{});
    });
    CAPTURE(r.verdict());
    CHECK(r.diverged());
    CHECK(r.verdict().starts_with("ranks disagree on tp: "));
    CHECK(contains(r.verdict(), "all_gather #20 of 8 x fp32 (rank 2)"));
    CHECK(contains(r.verdict(), "all_reduce #20 of 8 x fp32, sum (rank 3)"));
    CHECK(contains(r.table(), "the ranks disagree from here on"));
    CHECK(contains(r.dumps()[0].reason, "ranks disagree on tp"));
  }
  TEST_CASE("another count, type, root or reduction is a difference") {
    const char* const usual = "0 0 5 0 2 0 reduce 0 fp32 8 sum 1 host done 10 20\n";
    for (const char* odd : {"0 0 5 0 2 1 reduce 0 fp32 9 sum 1 host done 10 20\n", "0 0 5 0 2 1 reduce 0 bf16 8 sum 1 host done 10 20\n",
                            "0 0 5 0 2 1 reduce 0 fp32 8 max 1 host done 10 20\n", "0 0 5 0 2 1 reduce 0 fp32 8 sum 0 host done 10 20\n",
                            "0 0 5 0 2 1 reduce 0 fp32 8 sum 1 device done 10 20\n"})
      CHECK(contains(flight_report({one(0, 2, usual), one(1, 2, odd)}).verdict(), "ranks disagree on world: reduce #0"));
    CHECK_FALSE(flight_report({one(0, 2, usual), one(1, 2, "0 0 5 0 2 1 reduce 0 fp32 8 sum 1 host done 70 80\n")}).diverged());
  }
  TEST_CASE("a rank that does not come while the others wait is named, and where it was last") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      for (int i = 0; i < 3; ++i) world.barrier(e);
      std::vector<double> x(5, 1.0);
      if (world.rank() == 0) {
        until_others_wait(4);
        const flight_report r = report_now();
        CAPTURE(r.verdict());
        CHECK(r.diverged());
        CHECK(r.verdict().starts_with(
            "rank 0 has not come to all_reduce #3 on world, where ranks 1-3 wait; its last call, barrier #2 on world, ended "));
        CHECK(contains(r.table(), "not come: 0"));
        CHECK(contains(r.table(), "inside 1-3"));
      }
      world.all_reduce(e, x, x, max{});
      world.barrier(e);
      if (world.rank() == 0) CHECK_FALSE(report_now().diverged());
    });
  }
  TEST_CASE("who waits for a rank that waits elsewhere is not the culprit, nor is that one") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      auto pair = world.split(world.rank() / 2, world.rank(), "tp");  // {0, 1}, {2, 3}
      std::vector<float> x(5, 1.0f);
      if (world.rank() == 0) {
        until_others_wait(2);
        const std::string verdict = report_now().verdict();
        CAPTURE(verdict);
        CHECK(verdict.starts_with(
            "rank 0 has not come to all_reduce #1 on world, where ranks 2, 3 wait; "));  // 1 waits in tp, for whom is not known yet
        CHECK(contains(verdict, "its last call, split #0 on world"));
      }
      if (world.rank() < 2) pair.barrier(e);
      world.all_reduce(e, x, x, sum{});
    });
  }
  TEST_CASE("a rank that hangs until the deadline is named by the files of the failure") {
    const flight_report r = report_of_failure(
        [](thread_comm& world, host_exec e) {
          world.barrier(e);
          if (world.rank() == 3) std::this_thread::sleep_for(400ms);
          world.barrier(e);
        },
        {.first_deadline = 200ms, .deadline = 200ms});
    CAPTURE(r.verdict());
    CHECK(r.verdict().starts_with("rank 3 has not come to barrier #1 on world, where ranks 0-2 wait; its last call, barrier #0"));
  }
  TEST_CASE("ranks that wait for each other on two communicators are a cycle") {
    const flight_report r({one(0, 2, "0 0 5 0 2 0 barrier 0 uint8 0 - -1 host inside 10 0\n"),
                           one(1, 2, "0 0 6 1 2 1 all_reduce 0 fp32 4 sum -1 host inside 10 0\n")});
    CAPTURE(r.verdict());
    CHECK(r.verdict().starts_with("ranks wait for each other: "));
    CHECK(contains(r.verdict(), "rank 0 waits in barrier #0 on world for rank 1"));
    CHECK(contains(r.verdict(), "rank 1 waits in all_reduce #0 on tp for rank 0"));
  }
  TEST_CASE("ranks that wait for one rank in several calls are told apart") {
    const auto file = [](int rank, std::string_view calls) {
      return parse_flight(sentence("moefold flight 1\nworld 4\nrank ", rank,
                                   "\nclock 2000000000 2000000000\nlabel 0 world\nlabel 1 tp\ncalls 0 9\n", calls, "end\n"),
                          "f");
    };
    const flight_report r(
        {file(0, "0 0 5 0 4 0 barrier 0 uint8 0 - -1 host inside 10 0\n"), file(1, "0 0 5 0 4 1 barrier 0 uint8 0 - -1 host inside 10 0\n"),
         file(2, "0 0 6 1 2 0 barrier 0 uint8 0 - -1 host done 5 6\n0 1 6 1 2 0 barrier 1 uint8 0 - -1 host inside 10 0\n"),
         file(3, "0 0 6 1 2 1 barrier 0 uint8 0 - -1 host done 5 6\n")});
    CHECK(r.verdict().starts_with(
        "rank 3 has not come to barrier #0 on world, where ranks 0, 1 wait (and elsewhere 2); its last call, barrier #0 on tp, ended "));
  }
  TEST_CASE("a letter that was never sent") {
    const flight_report r(
        {one(0, 2, "0 0 5 0 2 0 barrier 0 uint8 0 - -1 host done 10 20\n"),
         one(1, 2, "0 0 5 0 2 1 barrier 0 uint8 0 - -1 host done 10 20\n0 1 5 0 2 1 recv 0 fp32 4 - 0 host inside 30 0\n")});
    CHECK(r.verdict().starts_with("rank 0 has not sent for recv #0 on world, where rank 1 waits; its last call, barrier #0"));
  }
  TEST_CASE("of several ranks that do not come, the one whose failure it was is named, else the one that has been away for longest") {
    const auto files = [](std::string_view culprit) {
      std::vector<flight_dump> all;
      for (int r = 0; r < 4; ++r)
        all.push_back(
            parse_flight(sentence("moefold flight 1\nworld 4\nrank ", r, "\nclock 2000000000 2000000000\nculprit ", culprit,
                                  "\nlabel 0 world\ncalls 0 9\n0 0 5 0 4 ", r, " barrier 0 uint8 0 - -1 host done 10 ", 2'000'000'000 - r,
                                  "\n", r < 1 ? "0 1 5 0 4 0 barrier 1 uint8 0 - -1 host inside 30 0\n" : "", "end\n"),
                         "f"));
      return flight_report(std::move(all)).verdict();
    };
    CHECK(files("2").starts_with("rank 2 has not come to barrier #1 on world, where rank 0 waits; "));
    CHECK(files("-1").starts_with("rank 3 has not come to barrier #1 on world, where rank 0 waits; "));
    CHECK(files("-1").ends_with("before its file was written: it may be on its way"));
    const flight_report alone = report_of_failure([](thread_comm& world, host_exec e) {
      world.barrier(e);
      if (world.rank() == 1) world.set_hook([](void*) { throw error("broken"); }, nullptr);  // inside: everybody has come
      world.barrier(e);
      world.set_hook(nullptr, nullptr);
      if (world.rank() != 1) world.barrier(e);
    });
    CAPTURE(alone.verdict());
    CHECK(alone.diverged());
    CHECK((alone.verdict().starts_with("rank 1 failed by itself") || alone.verdict().starts_with("rank 1 has not come to barrier #2")));
  }
  TEST_CASE("files that are missing, older or cut short are said to be so") {
    const char* const call = "0 0 5 0 3 0 barrier 0 uint8 0 - -1 host inside 10 0\n";
    const std::int64_t s = 1'000'000'000;
    auto cut = one(0, 3, call, 100 * s);
    cut.complete = false;
    const flight_report r({cut, one(0, 3, "", 50 * s), one(2, 3, "0 0 5 0 3 2 barrier 0 uint8 0 - -1 host inside 10 0\n", 60 * s)});
    CHECK(r.dumps().size() == 2);
    CHECK(r.verdict() == "rank 1 has not come to barrier #0 on world, where ranks 0, 2 wait; there is no file of that rank");
    std::string notes;
    for (const std::string& note : r.notes()) notes += note + "\n";
    CHECK(contains(notes, "1 older files"));
    CHECK(contains(notes, "there is no file of ranks 1 of 3"));
    CHECK(contains(notes, "the file of rank 0 is cut short"));
    CHECK(contains(notes, "the file of rank 2 is 40 s older than the newest"));
    CHECK_THROWS_WITH_AS(flight_report({}), doctest::Contains("no file of a flight recorder"), config_error);
  }
  TEST_CASE("of several worlds the largest of the newest files is looked at, and of one process one world") {
    const auto file = [](int world, int rank, int recorder, int pid, std::int64_t seconds) {
      return parse_flight(sentence("moefold flight 1\nworld ", world, "\nrank ", rank, "\nrecorder ", recorder, "\npid ", pid, "\nclock 0 ",
                                   seconds * 1'000'000'000, "\ncalls 0 0\nend\n"),
                          "f");
    };
    const auto chosen = [](std::vector<flight_dump> files) {
      std::string text;
      const flight_report report(std::move(files));
      for (const flight_dump& d : report.dumps()) text += sentence(d.world, ":", d.rank, ":", d.recorder, " ");
      return text;
    };
    CHECK(chosen({file(1, 0, 1, 10, 101), file(2, 0, 0, 10, 100), file(2, 1, 0, 11, 100), file(8, 3, 0, 5, 7)}) == "2:0:0 2:1:0 ");
    CHECK(chosen({file(2, 0, 3, 10, 100), file(2, 1, 0, 11, 100)}) == "2:0:3 2:1:0 ");
    CHECK(chosen({file(2, 0, 3, 10, 100), file(2, 1, 3, 10, 99), file(2, 1, 4, 10, 99)}) == "2:0:3 2:1:3 ");
  }
  TEST_CASE("ranks are listed in runs") {
    CHECK(list_of_ranks({}) == "none");
    CHECK(list_of_ranks({3}) == "3");
    CHECK(list_of_ranks({4, 3}) == "3, 4");
    CHECK(list_of_ranks({5, 0, 1, 2, 9, 8, 7, 7}) == "0-2, 5, 7-9");
  }
}
