#include <moefold/train/trainer.hpp>

#include <moefold/comm/thread.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>

using namespace moefold;

namespace {

using threads = basic_trainer<policies_of<run_defaults>, thread_comm>;
constexpr extent_t sequence = 16, layers = 6;
constexpr model_shape model{
    .layers = layers, .hidden = 16, .heads = 2, .kv_heads = 2, .head_dim = 8, .experts = 2, .top_k = 2, .ffn = 16, .vocabulary = 64};

/// A device that computes a block in 8 ms, forward and backward alike, and leaves the core free meanwhile.
void compute(void*, extent_t layer) {
  if (layer >= 0 && layer < layers) std::this_thread::sleep_for(std::chrono::milliseconds(8));
}

/// Seconds of a training step of two data-parallel ranks, of the slower; the least of `repeats`.
double seconds(std::chrono::nanoseconds latency, bool overlap, int repeats) {
  std::string text;
  for (std::size_t i = 0; i < 2000; ++i) text += char((i * i / 7 + i) % 61);
  const dataset data(token_stream::from_bytes(text), sequence, 1);
  std::vector<std::atomic<double>> worst(static_cast<std::size_t>(repeats));
  run_threads(
      2,
      [&](thread_comm& world) {
        trainer_options options;
        options.overlap = overlap, options.bucket = 1;  // a bucket for each layer
        options.global_batch = 2;
        options.observe = {nullptr, compute, compute};
        threads trainer(std::move(world), model, sequence, make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}}), options, data);
        CHECK(trainer.optimizer().overlaps() == overlap);
        trainer.step();
        for (auto& slowest : worst) {
          trainer.world().barrier(trainer.exec()).wait(trainer.exec());
          const auto begin = steady::now();
          trainer.step();  // its forward waits for the parameters of the one before, and its end leaves those of the next on their way
          const double time = std::chrono::duration<double>(steady::now() - begin).count();
          double seen = slowest;
          while (seen < time && !slowest.compare_exchange_weak(seen, time)) continue;
        }
      },
      {.latency = latency});
  return *std::min_element(worst.begin(), worst.end());
}

}  // namespace

TEST_SUITE("train/overlap") {
  // 44 operations: three sets of replicas, each way, for every block. Beside nothing can be: the tokens' count, the embedding's reductions and gathers, the
  // norm.
  TEST_CASE("in a whole training step of two data-parallel ranks overlap hides at least 60% of what a latency of every operation costs") {
    constexpr auto latency = std::chrono::milliseconds(2);
    double least[2][2] = {{1e9, 1e9}, {1e9, 1e9}};  // [overlap][slow]; a busy machine only adds
    double without = 0, with = 0;
    for (int round = 0; round < 15; ++round) {
      for (const bool overlap : {false, true})
        for (const bool slow : {false, true}) {
          double& best = least[overlap][slow];
          best = std::min(best, seconds(slow ? latency : latency * 0, overlap, 3));
        }
      const double still = std::min(least[0][0], least[1][0]);
      without = least[0][1] - still, with = least[1][1] - still;
      if (round > 0 && with < 0.4 * without) break;
    }
    MESSAGE("a latency of ", latency.count(), " ms adds ", without * 1e3, " ms to a step without overlap, ", with * 1e3,
            " ms with: ", with / without);
    CHECK(without > 0.6 * 2 * 3 * layers * std::chrono::duration<double>(latency).count());
    CHECK(with < 0.4 * without);
  }
}
