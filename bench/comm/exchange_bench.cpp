// What exchanging costs beside copying: an all_to_all of 2 rank threads next to as many threads that copy as many bytes at the same time.
// The gates: it moves bytes at 0.8 x the rate of memcpy or better, and a barrier takes at most 10 us (medians; fails the program otherwise).
// Only pairs count in which a cache line passes quickly from core to core just before: within 1 us, or else something else runs on them and the
// ranks take turns. For chunks of 64 KiB within 100 ns, as cores that share a cache do: the ranks meet twice in 2.3 us of copying, and where a
// line takes 200 ns two bare spinning barriers leave 0.86 x. (The cores of a virtual machine move between the two cases within seconds.)
//
//   one pair   all_to_all x calls, barrier | copy x calls, barrier      same threads, same buffers: each reads and writes 2 * chunk bytes
#include <moefold/comm/thread.hpp>

#include "../support/paired.hpp"

#include <atomic>
#include <cstring>

namespace {

using namespace moefold;
using namespace moefold::bench;
constexpr int ranks = 2, pairs = 101, fewest_pairs = 51;
constexpr std::size_t kib = 1024, mib = 1024 * kib;

using copy_function = void (*)(void* to, const void* from, std::size_t bytes);
void plain(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void past_the_cache(void* to, const void* from, std::size_t bytes) { bulk_copy(to, from, bytes, bulk_footprint + 1); }

/// Seconds a cache line takes from one core to the other, there and back halved; both ranks call it.
double line_seconds(int rank) {
  struct alignas(128) line {
    std::atomic<int> turn{0};
  };
  static line lines[ranks];
  constexpr int rounds = 100;
  const auto wait = [&](std::atomic<int>& turn, int until) {
    for (int spins = 0; turn.load(std::memory_order_acquire) != until; ++spins)
      if (spins > 10'000) std::this_thread::yield();  // both ranks are on one core
  };
  std::atomic<int>&mine = lines[rank].turn, &theirs = lines[1 - rank].turn;
  const int start = mine.load(std::memory_order_relaxed);
  const auto begin = steady::now();
  for (int i = start + 1; i <= start + rounds; ++i) {
    if (rank == 1) wait(theirs, i);
    mine.store(i, std::memory_order_release);
    if (rank == 0) wait(theirs, i);
  }
  return std::chrono::duration<double>(steady::now() - begin).count() / (2 * rounds);
}

void against_copy(benchmark::State& state, std::size_t chunk, copy_function twin) {
  const std::size_t bytes = ranks * chunk;
  const int calls = int(std::max<std::size_t>(4, 64 * mib / bytes));
  const double longest_line = chunk > 64 * kib ? 1e-6 : 1e-7;
  std::vector<double> exchange, copy, all_ratios, ratios, lines;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    std::vector<float> in(bytes / sizeof(float), float(world.rank())), out(in.size());
    for (int pair = -1; pair < pairs; ++pair) {  // the first warms up
      const double line = line_seconds(world.rank());
      const double a = seconds_together(world, e, calls, [&] { world.all_to_all(e, in, out); });
      const double b = seconds_together(world, e, calls, [&] { twin(out.data(), in.data(), bytes); });
      if (world.rank() != 0 || pair < 0) continue;
      exchange.push_back(a), copy.push_back(b), all_ratios.push_back(b / a), lines.push_back(line);
      if (line <= longest_line) ratios.push_back(b / a);
    }
  });
  auto next = exchange.begin();
  for (auto _ : state) state.SetIterationTime(*next++);
  const bool enough = ratios.size() >= fewest_pairs;
  const double moved = double(ranks) * double(bytes), ratio = median(enough ? ratios : all_ratios);
  state.counters["ratio"] = ratio;
  state.counters["pairs"] = double(ratios.size());
  state.counters["line_ns"] = 1e9 * median(lines);
  state.counters["GB/s"] = 1e-9 * moved / median(exchange);
  state.counters["copy_GB/s"] = 1e-9 * moved / median(copy);
  const std::string what = sentence("all_to_all of ", chunk, " bytes per peer reaches ", ratio, " of the rate of a copy");
  if (enough)
    fail_unless(ratio >= 0.8, what + ", needed is 0.8", ranks);
  else
    std::fprintf(stderr, "not gated: %s, but the cores were free and near each other in too few pairs\n", what.c_str());
}

void barrier(benchmark::State& state) {
  constexpr int calls = 1000;
  std::vector<double> times;
  run_threads(ranks, [&](thread_comm& world) {
    host_context context;
    const host_exec e(context);
    for (int i = 0; i < pairs; ++i) {
      const double t = seconds_together(world, e, calls, [&] { world.barrier(e); });
      if (world.rank() == 0) times.push_back(t);
    }
  });
  auto next = times.begin();
  for (auto _ : state) state.SetIterationTime(*next++);
  const double us = 1e6 * median(times);
  state.counters["us"] = us;
  fail_unless(us <= 10, sentence("a barrier of ", ranks, " ranks takes ", us, " us, allowed is 10"), ranks);
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
  return run_all();
}
