// What a clean run pays for being watched: signature checks and the flight recorder, on and off, in pairs within one run. The gate: together under 1 us per
// collective between 2 ranks. And the recorder's own part, alone in a loop: under 30 ns per entry.
#include "../support/paired.hpp"

using namespace moefold;

namespace {

/// Seconds per call of `calls` calls between `ranks` ranks in a fresh world.
double seconds_per_call(int ranks, thread_options options, int calls, std::size_t bytes) {
  double seconds = 0;
  run_threads(
      ranks,
      [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        std::vector<float> x(bytes / sizeof(float), 1.0f);
        const auto call = [&] {
          if (x.empty())
            world.barrier(e);
          else
            world.all_reduce(e, x, x, max{});
        };
        for (int i = 0; i < calls / 4; ++i) call();  // the ring's pages too
        const double mine = bench::seconds_together(world, e, calls, call);
        if (world.rank() == 0) seconds = mine;
      },
      options);
  return seconds;
}

void watched(benchmark::State& state, int ranks, std::size_t bytes) {
  constexpr int pairs = 41, calls = 4000;
  std::vector<double> on, off, more;
  for (int pair = 0; pair < pairs; ++pair) {
    const auto measure = [&](bool watch) {
      return seconds_per_call(ranks, {.check_signatures = watch, .record_calls = watch}, calls, bytes);
    };
    if (pair % 2 == 0) {
      on.push_back(measure(true)), off.push_back(measure(false));
    } else {
      off.push_back(measure(false)), on.push_back(measure(true));
    }
    more.push_back(on.back() - off.back());
  }
  auto next = on.begin();
  for (auto _ : state) state.SetIterationTime(*next++);
  state.counters["on_ns"] = 1e9 * bench::median(on);
  state.counters["off_ns"] = 1e9 * bench::median(off);
  state.counters["more_ns"] = 1e9 * bench::median(more);
  bench::fail_unless(bench::median(more) < 1e-6,
                     sentence("signature checks and the flight recorder cost ", 1e9 * bench::median(more), " ns per call of ", bytes,
                              " bytes between ", ranks, " ranks, allowed are 1000"),
                     ranks);
}

void entry(benchmark::State& state) {
  flight_ring ring;
  const flight_group group{1, 0, 2, 0};
  signature what{operation::all_reduce, dtype::fp32, "sum", -1, 1024};
  const auto now = steady::now();
  for (auto _ : state) {
    ++what.seq;
    ring.leave(ring.enter(group, what, now), flight_state::done, now);
    benchmark::ClobberMemory();
  }
}

void gated_entry() {
  std::vector<double> times;
  for (int round = 0; round < 21; ++round) {
    flight_ring ring;
    const auto begin = steady::now();
    for (std::uint64_t i = 0; i < 100'000; ++i)
      ring.leave(ring.enter({1, 0, 2, 0}, {operation::all_reduce, dtype::fp32, "sum", -1, 1024, i}, begin), flight_state::done, begin);
    times.push_back(std::chrono::duration<double, std::nano>(steady::now() - begin).count() / 100'000);
  }
  bench::fail_unless(bench::median(times) < 30,
                     sentence("an entry of the flight recorder takes ", bench::median(times), " ns, allowed are 30"), 1);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const int ranks : {2, 1})
    for (const std::size_t bytes : {0, 8, 65536}) {
      if (ranks == 1 && bytes > 8) continue;  // nothing travels
      benchmark::RegisterBenchmark(sentence("watched/ranks:", ranks, "/bytes:", bytes).c_str(),
                                   [=](benchmark::State& state) { watched(state, ranks, bytes); })
          ->UseManualTime()
          ->Iterations(41)
          ->Unit(benchmark::kNanosecond);
    }
  benchmark::RegisterBenchmark("entry", entry);
  gated_entry();
  return bench::run_all();
}
