#include <moefold/comm/flight_dump.hpp>

#include "../support/run_ranks.hpp"
#include "../support/temporary_folder.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>

using namespace moefold;

namespace {
std::string contents(const std::string& file) {
  std::ifstream from(file);
  return {std::istreambuf_iterator<char>(from), {}};
}
struct flight_dir {  // the variable, while it lives
  explicit flight_dir(const std::string& folder) { setenv("MOEFOLD_FLIGHT_DIR", folder.c_str(), 1); }
  ~flight_dir() { unsetenv("MOEFOLD_FLIGHT_DIR"); }
};
// Rank 1 throws while the others wait for it; what they are told.
std::string failure_of(int ranks, thread_options options = {}) {
  std::string told;
  CHECK_THROWS_WITH(run_ranks(
                        ranks,
                        [&](thread_comm& world) {
                          host_context context;
                          const host_exec e(context);
                          world.barrier(e);
                          if (world.rank() == 1) throw error("went\nwrong");
                          try {
                            world.barrier(e);
                          } catch (const peer_failed& f) {
                            if (world.rank() == 0) told = f.what();
                            throw;
                          }
                        },
                        options),
                    "went\nwrong");
  return told;
}
}  // namespace

TEST_SUITE("comm/flight_dump") {
  TEST_CASE("a rank's file says who wrote it, why, and every call") {
    flight_recorder recorder(4, 2, 2, 2);
    const std::uint32_t label = recorder.labels().number_of("cp x dp");
    const auto t = [](std::int64_t ns) { return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(ns)); };
    flight_ring& ring = recorder.ring(3, 1);
    ring.leave(ring.enter({0xab, label, 2, 1}, {operation::all_reduce, dtype::bf16, "sum", -1, 4096, 17}, t(1000)), flight_state::done,
               t(1500));
    ring.enter({0xab, label, 2, 1}, {operation::broadcast, dtype::fp32, "", 1, 3, 18, true}, t(2000));
    const std::string text = flight_text(recorder, 3, "because\nof this");
    CHECK(text.starts_with("moefold flight 1\nworld 4\nrank 3\nrecorder "));
    CHECK(text.find("\nreason because of this\n") != text.npos);
    CHECK(text.find("\nlabel 0 cp x dp\n") != text.npos);
    CHECK(text.find("\ncalls 0 0\ncalls 1 2\n") != text.npos);
    CHECK(text.find("\n1 0 ab 0 2 1 all_reduce 17 bf16 4096 sum -1 host done 1000 1500\n"
                    "1 1 ab 0 2 1 broadcast 18 fp32 3 - 1 device inside 2000 0\nend\n") != text.npos);
    CHECK(flight_text(recorder, 2, "").find("end\n") != text.npos);
  }
  TEST_CASE("a world that fails writes the calls of all its ranks, and every rank is told where") {
    const temporary_folder folder;
    const flight_dir named(folder.path.string() + "/made");
    const std::string told = failure_of(3);
    const std::size_t place = told.find("; the last calls of the ranks: " + folder.path.string() + "/made/moefold-flight-");
    REQUIRE(place != told.npos);
    CHECK(told.ends_with("-failure-rank-*.txt"));
    const std::string files = told.substr(told.find(folder.path.string()));
    for (int r = 0; r < 3; ++r) {
      const std::string text = contents(files.substr(0, files.find('*')) + std::to_string(r) + ".txt");
      CHECK(text.find(sentence("\nworld 3\nrank ", r, "\n")) != text.npos);
      CHECK(text.find("\nculprit 1\n") != text.npos);
      CHECK(text.find("\nreason rank 1 failed after barrier #0 on world: went wrong") != text.npos);
      CHECK(text.find(" barrier 0 uint8 0 - -1 host ") != text.npos);
      if (r == 1) CHECK(text.find(" barrier 1 ") == text.npos);
      CHECK(text.ends_with("end\n"));
    }
  }
  TEST_CASE("without the variable, or the recorder, a failure writes nothing and names no place") {
    CHECK(failure_of(2).ends_with("wrong"));
    const temporary_folder folder;
    const flight_dir named(folder.path.string());
    CHECK(failure_of(2, {.record_calls = false}).ends_with("wrong"));
    CHECK(std::filesystem::is_empty(folder.path));
  }
  TEST_CASE("a folder that cannot be written changes nothing about the failure") {
    const flight_dir named("/proc/no/folder");
    CHECK(failure_of(2).find("went\nwrong") != std::string::npos);
  }
  TEST_CASE("calls on an apart communicator lie on the rank's second lane") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      auto grads = world.apart("grads");
      std::vector<float> x(10, 1.0f);
      grads.all_reduce(e, x, x, sum{}).wait(e);
      std::size_t found = 0;
      flight_recorder::for_each([&](const flight_recorder& recorder) {
        const auto& ring = recorder.ring(world.rank(), 1);
        ring.for_each([&](const flight_entry& entry) {
          found += entry.what.op == operation::all_reduce && entry.what.count == 10 &&
                   recorder.labels()[entry.group.label] == comm_label("grads") && entry.group.size == 2 &&
                   int(entry.group.rank) == world.rank();
        });
      });
      CHECK(found == 1);
    });
  }
}
