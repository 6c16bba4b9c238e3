#pragma once
// Benchmarks beside a twin that says what the machine can do: both run in turn, in pairs, within one process, and the median of the pairs' ratios is
// the result. A ratio below its gate fails the program, on machines with enough cores to mean something.
//
//   ours | twin | ours | twin | ...      ratio = seconds of the twin / seconds of ours: 1 is as fast, more is faster
#include <moefold/comm/thread.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <thread>
#include <vector>

namespace moefold::bench {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

inline bool& gate_failed() {
  static bool failed = false;
  return failed;
}
/// Fails the program with the text unless it is good; only where the machine has `cores`.
inline void fail_unless(bool good, const std::string& text, int cores) {
  if (good || int(std::thread::hardware_concurrency()) < cores) return;
  gate_failed() = true;
  std::fprintf(stderr, "gate: %s\n", text.c_str());
}

struct paired_times {
  std::vector<double> ours, twin;
  double ratio() const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(twin[i] / ours[i]);
    return median(ratios);
  }
};

/// Seconds of f() on all ranks together, as this rank sees it; collective.
template <class F>
double seconds_together(thread_comm& world, host_exec e, int calls, F&& f) {
  world.barrier(e);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) {
    f();
    benchmark::ClobberMemory();
  }
  world.barrier(e);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
}

/// make(world, exec) -> a pair of functions, ours and the twin, for one rank. Runs `pairs` pairs of `calls` calls on `ranks` threads after one to warm up.
template <class Make>
paired_times run_pairs(int ranks, int pairs, int calls, Make make) {
  paired_times times;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    auto [ours, twin] = make(world, e);
    for (int pair = -1; pair < pairs; ++pair) {
      const double a = seconds_together(world, e, calls, ours), b = seconds_together(world, e, calls, twin);
      if (world.rank() == 0 && pair >= 0) times.ours.push_back(a), times.twin.push_back(b);
    }
  });
  return times;
}

/// Registers a benchmark whose iterations are the pairs: reports our time, counters ratio and twin_us, and holds the gate (0: none).
template <class Make>
void add_paired(const std::string& name, int ranks, int pairs, int calls, double least, Make make) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 const paired_times times = run_pairs(ranks, pairs, calls, make);
                                 auto next = times.ours.begin();
                                 for (auto _ : state) state.SetIterationTime(*next++);
                                 state.counters["ratio"] = times.ratio();
                                 state.counters["twin_us"] = 1e6 * median(times.twin);
                                 state.counters["median_us"] = 1e6 * median(times.ours);
                                 fail_unless(times.ratio() >= least,
                                             sentence(name, " reaches ", times.ratio(), " of its reference, needed is ", least), ranks);
                               })
      ->UseManualTime()
      ->Iterations(pairs)
      ->Unit(benchmark::kMicrosecond);
}

/// The end of main(): runs what was registered; 1 if a gate failed.
inline int run_all() {
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return gate_failed() ? 1 : 0;
}

}  // namespace moefold::bench
