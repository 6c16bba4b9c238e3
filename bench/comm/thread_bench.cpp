// What a collective of rank threads costs: meeting, comparing signatures, and moving data next to a memcpy of the same footprint.
// Run with --benchmark_enable_random_interleaving=true --benchmark_repetitions=15 and compare medians within one run.
#include <moefold/comm/thread.hpp>

#include <benchmark/benchmark.h>

#include <vector>

using namespace moefold;

namespace {

// Ranks live as long as the measurement. An iteration is `calls` calls on every rank and a barrier; rank 0 takes the time.
template <class Prepare>
void run_calls(benchmark::State& state, int ranks, int calls, thread_options options, Prepare&& prepare) {
  std::atomic<bool> more{true};
  run_threads(
      ranks,
      [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        auto f = prepare(world, e);
        const auto batch = [&] {
          for (int i = 0; i < calls; ++i) f();
        };
        batch();
        if (world.rank() == 0) {
          for (auto _ : state) {
            std::int32_t go = 1;
            world.broadcast(e, std::span(&go, 1), 0);
            const auto begin = steady::now();
            batch();
            world.barrier(e);
            state.SetIterationTime(std::chrono::duration<double>(steady::now() - begin).count());
          }
        }
        for (std::int32_t go = 1; go != 0;) {
          if (world.rank() == 0) go = 0;
          world.broadcast(e, std::span(&go, 1), 0);
          if (go == 0) break;
          batch();
          world.barrier(e);
        }
      },
      options);
  using benchmark::Counter;
  state.counters["per_call"] = Counter(calls, Counter::kIsIterationInvariantRate | Counter::kInvert);  // seconds
}

void barrier(benchmark::State& state) {
  run_calls(state, int(state.range(0)), 500, {.check_signatures = state.range(1) != 0},
            [](thread_comm& world, host_exec e) { return [&world, e] { world.barrier(e); }; });
}

int calls_for(std::size_t bytes) { return bytes > (1u << 20) ? 4 : 200; }

void set_bytes(benchmark::State& state, std::int64_t ranks, std::size_t bytes) {
  state.SetBytesProcessed(std::int64_t(state.iterations()) * calls_for(bytes) * ranks * std::int64_t(bytes));
}

void all_reduce(benchmark::State& state) {
  const auto bytes = std::size_t(state.range(1));
  run_calls(state, int(state.range(0)), calls_for(bytes), {}, [bytes](thread_comm& world, host_exec e) {
    return [&world, e, v = std::vector<float>(bytes / sizeof(float))]() mutable { world.all_reduce(e, v, v, sum{}); };
  });
  set_bytes(state, 1, bytes);
}

// bytes: the whole input of one rank. Payload of all ranks per second.
void all_to_all(benchmark::State& state) {
  const auto bytes = std::size_t(state.range(1));
  run_calls(state, int(state.range(0)), calls_for(bytes), {}, [bytes](thread_comm& world, host_exec e) {
    return [&world, e, in = std::vector<float>(bytes / sizeof(float)), out = std::vector<float>(bytes / sizeof(float))]() mutable {
      world.all_to_all(e, in, out);
    };
  });
  set_bytes(state, state.range(0), bytes);
}

// The twin: as many threads copy as many bytes, without meeting.
void memcpy_twin(benchmark::State& state) {
  const auto bytes = std::size_t(state.range(1));
  const bool past_the_cache = state.range(2) != 0;
  run_calls(state, int(state.range(0)), calls_for(bytes), {}, [=](thread_comm&, host_exec) {
    return [=, in = std::vector<char>(bytes), out = std::vector<char>(bytes)]() mutable {
      bulk_copy(out.data(), in.data(), bytes, past_the_cache ? bulk_footprint + 1 : 0);
      benchmark::DoNotOptimize(out.data());
      benchmark::ClobberMemory();
    };
  });
  set_bytes(state, state.range(0), bytes);
}

}  // namespace

BENCHMARK(barrier)->ArgNames({"ranks", "checked"})->ArgsProduct({{1, 2, 4, 8}, {1, 0}})->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(all_reduce)
    ->ArgNames({"ranks", "bytes"})
    ->ArgsProduct({{2, 8}, {8, 512, 1 << 16, 1 << 22}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(all_to_all)
    ->ArgNames({"ranks", "bytes"})
    ->ArgsProduct({{2, 8}, {1 << 12, 1 << 16, 1 << 20, 1 << 24}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(memcpy_twin)
    ->ArgNames({"ranks", "bytes", "nt"})
    ->ArgsProduct({{2, 8}, {1 << 12, 1 << 16, 1 << 20, 1 << 24}, {0, 1}})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

BENCHMARK_MAIN();
