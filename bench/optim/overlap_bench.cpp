// What overlap hides of the optimizer's communication: a backward and a forward that compute for a while per layer, between them an update, with
// operations that take `latency` longer than they need (0: as fast as the machine is). Runs with and without overlap in pairs, in one process.
//
//   exposed = time of the step - its computing, the update included        ratio = exposed with overlap / exposed without (median of pairs); the gate is 0.4
#include <moefold/optim/distributed.hpp>

#include "../support/paired.hpp"

namespace {

using namespace moefold;

struct setting {
  std::chrono::microseconds latency, compute;  // per operation; per layer and direction
  bool spin;                                   // computes on its core, or leaves it free as a device would
};
constexpr extent_t layers = 8, bucket = 50'000;

void compute(const setting& s) {
  if (!s.spin) return std::this_thread::sleep_for(s.compute);
  const auto end = steady::now() + s.compute;
  while (steady::now() < end) continue;
}

/// Seconds of the step that are not computing, on the slower of two ranks; the second of two steps.
double exposed(const setting& s, bool overlap) {
  std::array<double, 2> seconds{};
  run_threads(2,
              [&](thread_comm& world) {
                const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
                host_context context;
                const host_exec e(context);
                group_set<thread_comm> groups(world, fold);
                model_shape model;
                model.layers = layers;
                parameter_store<fp32> store(model, fold, world.rank(), bucket);
                distributed_optimizer<fp32, thread_comm> optimizer(store, groups, {}, {.overlap = overlap});
                for (int step = 1; step <= 2; ++step) {
                  world.barrier(e);
                  const auto begin = steady::now();
                  for (extent_t layer = layers; layer >= -1; --layer) {
                    if (layer >= 0 && layer < layers) compute(s);
                    optimizer.gradients_ready(e, layer);
                  }
                  optimizer.reduce(e);
                  const auto updating = steady::now();
                  optimizer.update(e, step, 1e-3, 1);
                  const auto updated = steady::now() - updating;
                  optimizer.gather_begin(e);
                  for (extent_t layer = -1; layer <= layers; ++layer) {
                    optimizer.before_layer(e, layer);
                    if (layer >= 0 && layer < layers) compute(s);
                  }
                  optimizer.gather_end(e);
                  const double all = std::chrono::duration<double>(steady::now() - begin - updated).count();
                  seconds[std::size_t(world.rank())] = all - 2 * double(layers) * std::chrono::duration<double>(s.compute).count();
                }
              },
              {.latency = s.latency});
  return std::max(seconds[0], seconds[1]);
}

void with_and_without(benchmark::State& state, setting s, double gate) {
  std::vector<double> ratios, without, with;
  for (auto _ : state) {
    without.push_back(exposed(s, false)), with.push_back(exposed(s, true));
    ratios.push_back(with.back() / without.back());
    state.SetIterationTime(with.back());
  }
  state.counters["ratio"] = bench::median(ratios);
  state.counters["without_ms"] = 1e3 * bench::median(without);
  state.counters["with_ms"] = 1e3 * bench::median(with);
  bench::fail_unless(gate == 0 || bench::median(ratios) <= gate,
                     sentence("overlap leaves ", bench::median(ratios), " of the communication exposed, allowed is ", gate), 2);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto add = [](const char* name, setting s, double gate) {
    benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { with_and_without(state, s, gate); })
        ->UseManualTime()
        ->Iterations(7)
        ->Unit(benchmark::kMillisecond);
  };
  add("exposed/latency_1ms_sleeping", {1000us, 5000us, false}, 0.4);
  add("exposed/latency_1ms_spinning", {1000us, 5000us, true}, 0);  // ranks and helpers share the cores: the scheduler decides
  add("exposed/no_latency_sleeping", {0us, 5000us, false}, 0);
  return bench::run_all();
}
