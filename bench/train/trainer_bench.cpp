// What oversubscription and folding cost: wall time of a step on 8 thread ranks against the same global batch on 2, in pairs within one run.
// The gate of the main claim: dp 8 takes at most 1.5 x the time of dp 2 on 2 cores (median of the paired ratios; fails the program otherwise).
#include <moefold/train/trainer.hpp>

#include "../support/paired.hpp"

namespace {

using namespace moefold;
using fp32_policies = policies<fp32, cp_all_gather, moe_defaults, one_f_one_b, adamw>;
constexpr extent_t sequence = 256;
constexpr int steps = 3;

const dataset& data() {
  static const dataset text = [] {
    const random_stream draw(3, "bench");
    std::string bytes;
    for (std::uint64_t i = 0; bytes.size() < 100'000; ++i) bytes += "the quick brown fox jumps over the lazy dog "[draw.bits(i) % 44];
    return dataset(token_stream::from_bytes(bytes), sequence, 1);
  }();
  return text;
}

/// Seconds per step of the default model, after one step of warm-up.
double seconds_per_step(const folding_extents& fold) {
  double seconds = 0;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    const bool clock_keeper = world.rank() == 0;
    trainer_options options;
    basic_trainer<fp32_policies, thread_comm> trainer(std::move(world), model_shape{}, sequence, fold, options, data());
    trainer.step();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) trainer.step();
    trainer.world().barrier(trainer.exec()).wait(trainer.exec());
    if (clock_keeper) seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / steps;
  });
  return seconds;
}

void against_two_ranks(benchmark::State& state, folding_extents fold, double gate) {
  using enum axis_id;
  const folding_extents two = make_folding({{dp, 2}}, {{edp, 2}});
  std::vector<double> ratios, reference;
  for (auto _ : state) {
    const double many = seconds_per_step(fold), few = seconds_per_step(two);
    state.SetIterationTime(many);
    ratios.push_back(many / few);
    reference.push_back(few);
  }
  const double ratio = bench::median(ratios);
  state.counters["ratio"] = ratio;
  state.counters["reference_ms"] = 1e3 * bench::median(reference);
  bench::fail_unless(gate == 0 || ratio <= gate, sentence(fold.world(), " ranks take ", ratio, " x the time of 2, allowed is ", gate, " x"),
                     2);
}

}  // namespace

int main(int argc, char** argv) {
  using enum axis_id;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto add = [](const char* name, folding_extents fold, double gate) {
    benchmark::RegisterBenchmark(name, [=](benchmark::State& s) { against_two_ranks(s, fold, gate); })
        ->UseManualTime()
        ->Iterations(9)
        ->Unit(benchmark::kMillisecond);
  };
  add("step/dp8_vs_dp2", make_folding({{dp, 8}}, {{edp, 8}}), 1.5);
  add("step/dp8_ep8_vs_dp2", make_folding({{dp, 8}}, {{ep, 8}}), 0);
  add("step/tp2_cp2_pp2_ep4_vs_dp2", make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}), 0);
  return bench::run_all();
}
