// What exchanging costs beside copying: an all_to_all of 2 rank threads next to as many threads that copy as many bytes at the same time.
// The gates: it moves bytes at 0.8 x the rate of memcpy or better, and a barrier takes at most 10 us (medians; fails the program otherwise).
//
//   one pair   all_to_all x calls, barrier | copy x calls, barrier      same threads, same buffers: each reads and writes 2 * chunk bytes
#include <moefold/comm/thread.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace moefold;
constexpr int ranks = 2, pairs = 101;
constexpr std::size_t kib = 1024, mib = 1024 * kib;

using copy_function = void (*)(void* to, const void* from, std::size_t bytes);
void plain(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void past_the_cache(void* to, const void* from, std::size_t bytes) { bulk_copy(to, from, bytes, bulk_footprint + 1); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool gate_failed = false;
void fail_unless(bool good, const std::string& text) {
  if (good || std::thread::hardware_concurrency() < unsigned(ranks)) return;
  gate_failed = true;
  std::fprintf(stderr, "gate: %s\n", text.c_str());
}

/// Seconds that `calls` calls of f take on all ranks together, as rank 0 sees it; collective.
template <class F>
double seconds_of(thread_comm& world, host_exec e, int calls, F&& f) {
  world.barrier(e);
  const auto begin = steady::now();
  for (int i = 0; i < calls; ++i) f();
  world.barrier(e);
  return std::chrono::duration<double>(steady::now() - begin).count();
}

void against_copy(benchmark::State& state, std::size_t chunk, copy_function twin) {
  const std::size_t bytes = ranks * chunk;
  const int calls = int(std::max<std::size_t>(4, 64 * mib / bytes));
  std::vector<double> exchange, copy, ratios;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    std::vector<float> in(bytes / sizeof(float), float(world.rank())), out(in.size());
    for (int pair = -1; pair < pairs; ++pair) {  // the first warms up
      const double a = seconds_of(world, e, calls, [&] { world.all_to_all(e, in, out); });
      const double b = seconds_of(world, e, calls, [&] {
        twin(out.data(), in.data(), bytes);
        benchmark::ClobberMemory();
      });
      if (world.rank() != 0 || pair < 0) continue;
      exchange.push_back(a), copy.push_back(b), ratios.push_back(b / a);
    }
  });
  auto next = exchange.begin();
  for (auto _ : state) state.SetIterationTime(*next++);
  const double moved = double(ranks) * double(bytes) * calls, ratio = median(ratios);
  state.counters["ratio"] = ratio;
  state.counters["GB/s"] = 1e-9 * moved / median(exchange);
  state.counters["copy_GB/s"] = 1e-9 * moved / median(copy);
  fail_unless(ratio >= 0.8, sentence("all_to_all of ", chunk, " bytes per peer reaches ", ratio, " of the rate of a copy, needed is 0.8"));
}

void barrier(benchmark::State& state) {
  constexpr int calls = 1000;
  std::vector<double> times;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    for (int i = 0; i < pairs; ++i) {
      const double t = seconds_of(world, e, calls, [&] { world.barrier(e); });
      if (world.rank() == 0) times.push_back(t / calls);
    }
  });
  auto next = times.begin();
  for (auto _ : state) state.SetIterationTime(*next++);
  const double us = 1e6 * median(times);
  state.counters["us"] = us;
  fail_unless(us <= 10, sentence("a barrier of ", ranks, " ranks takes ", us, " us, allowed is 10"));
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto add = [](const std::string& name, auto&& f) {
    benchmark::RegisterBenchmark(name.c_str(), f)->UseManualTime()->Iterations(pairs)->Unit(benchmark::kMicrosecond);
  };
  add("barrier", barrier);
  for (const std::size_t chunk : {64 * kib, 256 * kib, 1 * mib, 8 * mib}) {
    const std::string name = "all_to_all/" + std::to_string(chunk / kib) + "KiB";
    add(name + "/memcpy", [=](benchmark::State& s) { against_copy(s, chunk, plain); });
    if (2 * ranks * ranks * chunk > bulk_footprint)  // memcpy is not the fastest copy there
      add(name + "/past_the_cache", [=](benchmark::State& s) { against_copy(s, chunk, past_the_cache); });
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return gate_failed ? 1 : 0;
}
