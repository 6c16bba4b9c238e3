#pragma once
// Goodput: how much of the time a job makes progress when GPUs fail. What a save holds is what the engine's checkpoints hold (master weights and moments, of
// which the weights are roundings), how often to save follows from it, and so does ETTR, the share of the wall clock that ends in steps that count.
//
//   restart   work   block work   block work | failure     work: interval      block: the step waits for the copy (asynchronous) or the file
//   |-------|-------|####|-------|####|---x                durable: a save counts from its begin plus this long; lost: all since the newest such
//                   |---- durable --->
// Failures come at random, at one rate, during restarts too. Then the count N of saves that count between two failures is geometric, and exactly
//   E[N] = exp(-(interval + durable) / M) / (1 - exp(-(interval + block) / M)),    ETTR = E[N] interval / (M exp(restart / M)),    M = mtbf / GPUs;
// with durable = block this is Daly's formula (Future Generation Computer Systems 22, 2006, equation 13); its optimum for small waste is
// Young's sqrt(2 block M) (Communications of the ACM 17, 1974).
#include <moefold/core/precision.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/plan/cluster.hpp>
#include <moefold/plan/prediction.hpp>

#include <cmath>

namespace moefold {

/// How a job saves and comes back. Priors; the sum of what a launcher, a scheduler and a health check take differs from site to site.
struct recovery_options {
  bool async = true;           // a step waits for a copy in the host's memory only, as checkpoint_writer::begin does
  double copy_rate = 20e9;     // bytes per second of that copy: PCIe 5 x16 moves 64 GB/s at most, pageable memory about a third
  double detect_seconds = 20;  // from a failure to the end of all ranks: the default deadline of the communicators
  double start_seconds = 180;  // a new process group, the model's memory, the first step's allocations; reading the save comes on top
};

/// Seconds, of one job with one interval.
struct save_cycle {
  double interval = 0;  // of work from one save's end to the next one's begin
  double block = 0;     // in which a save stops the work
  double durable = 0;   // from a save's begin until a restart finds it; at least block, at most interval + block
  double restart = 0;   // from a failure until work goes on
  double mtti = 0;      // mean time to interruption of the whole job
};

/// The share of the wall clock that ends in work that counts.
inline double ettr_of(const save_cycle& c) {
  const double saves = std::exp(-(c.interval + c.durable) / c.mtti) / -std::expm1(-(c.interval + c.block) / c.mtti);
  return saves * c.interval / (c.mtti * std::exp(c.restart / c.mtti));
}

/// The same by playing it: `failures` failures at the times that `seed` gives, and steps of step_seconds that count only when a save holds them. A save is
/// begun after the first step that ends `interval` or later behind the save before.
inline double simulated_ettr(const save_cycle& c, double step_seconds, extent_t failures, std::uint64_t seed) {
  const random_stream random(seed, "failures");
  std::uint64_t drawn = 0;
  const auto time_to_failure = [&] { return -c.mtti * std::log(random.uniform(drawn++)); };
  double wall = 0, counted = 0;
  for (extent_t f = 0; f < failures;) {
    for (double left = time_to_failure(); f < failures; left = time_to_failure()) {  // a restart that is interrupted begins again
      wall += std::min(left, c.restart);
      if (left > c.restart) break;
      ++f;
    }
    if (f >= failures) break;
    const double end = time_to_failure();  // by this process's clock; what is left of it after a restart has the same distribution
    double now = 0, since = 0, saved = 0, pending = 0, pending_at = -1;
    while (true) {
      const auto settle = [&](double until) {
        if (pending_at >= 0 && pending_at <= until) saved = pending, pending_at = -1;
      };
      if (now + step_seconds > end) {
        settle(end);
        break;
      }
      now += step_seconds, since += step_seconds;
      settle(now);
      if (since + 1e-9 * step_seconds < c.interval) continue;
      pending += since, since = 0, pending_at = now + c.durable;
      now += c.block;
      if (now > end) {
        settle(end);
        break;
      }
      settle(now);
    }
    counted += saved;
    wall += end;
    ++f;
  }
  return wall > 0 ? counted / wall : 0;
}

/// What failures cost a plan. Seconds; shares of the wall clock.
struct goodput {
  bool known = false;                              // whether the cluster says how often GPUs fail and how fast storage is; else all is 0
  double save_bytes = 0, save_bytes_per_gpu = 0;   // of the whole job, and of the GPU that writes most
  double save_seconds = 0, blocked_seconds = 0;    // until a save is durable; until the next step begins
  double restart_seconds = 0;                      // detection, start, reading a save
  double mtti_seconds = 0;                         // of the whole job
  extent_t interval_steps = 0;                     // the best number of steps between saves
  double interval_seconds = 0, young_seconds = 0;  // the same in time; Young's sqrt(2 blocked mtti), for comparison
  double ettr = 0;                                 // 1 - saving - lost - restarting
  double saving = 0, lost = 0, restarting = 0;     // waiting for saves; work done twice; from failures to the first step
  double mfu = 0, tflops = 0;                      // of the prediction, times ettr
};

/// Bytes that a save holds of one weight: its master copy and the optimizer's state.
template <class Precision>
constexpr double saved_bytes(const plan_job& job) {
  return double(sizeof(typename Precision::master)) + job.state_tensors * double(sizeof(typename Precision::moments));
}

/// Bytes of one save, all ranks together: exactly what the engine's checkpoint writes of parameters, its small arrays (biases, histories) left out.
template <class Precision = mixed_bf16>
constexpr double save_bytes_of(const plan_job& job) {
  return double(count_parameters(job.model)) * saved_bytes<Precision>(job);
}
/// Of the GPU that writes most.
template <class Precision = mixed_bf16>
constexpr double largest_save_of(const plan_job& job, const plan_mapping& m) {
  if (shards_weights(job.strategy)) return save_bytes_of<Precision>(job) / double(m.gpus());
  const folding_extents fold = folding_of(job, m);
  const double each = saved_bytes<Precision>(job);
  double most = 0;
  for (extent_t stage = 0; stage < m.pp; ++stage) {
    const parameter_buffers buffers = buffers_of(job.model, fold, stage, job.bucket);
    extent_t shards = 0;
    for (const parameter_buffer& b : buffers.buffer) shards += b.shard();
    most = std::max(most, double(shards) * each);
  }
  return most;
}

/// The best interval, in whole steps and no shorter than a save takes, and what is left of the time at it.
template <class Precision = mixed_bf16>
goodput goodput_of(const plan_job& job, const cluster_spec& cluster, const prediction& p, const recovery_options& options = {}) {
  goodput g;
  g.save_bytes = save_bytes_of<Precision>(job);
  g.save_bytes_per_gpu = largest_save_of<Precision>(job, p.mapping);
  if (!(cluster.mtbf > 0) || !(cluster.storage > 0) || !(p.step_seconds > 0)) return g;
  g.known = true;
  g.save_seconds = g.save_bytes_per_gpu / cluster.storage;
  if (options.async) {
    const double copy = g.save_bytes_per_gpu / options.copy_rate;
    g.blocked_seconds = std::min(g.save_seconds, copy);
    g.save_seconds += copy;
  } else {
    g.blocked_seconds = g.save_seconds;
  }
  g.restart_seconds = options.detect_seconds + options.start_seconds + g.save_bytes_per_gpu / cluster.storage;
  g.mtti_seconds = cluster.mtbf / double(p.mapping.gpus());
  g.young_seconds = std::sqrt(2 * g.blocked_seconds * g.mtti_seconds);
  const auto cycle_of = [&](extent_t steps) {
    return save_cycle{double(steps) * p.step_seconds, g.blocked_seconds, g.save_seconds, g.restart_seconds, g.mtti_seconds};
  };
  // ETTR has one maximum over the interval. It lies below Young's optimum and a save's time together, in which work would be lost for nothing.
  const extent_t least = std::max<extent_t>(1, extent_t(std::ceil((g.save_seconds - g.blocked_seconds) / p.step_seconds)));
  extent_t low = least, high = least + 2 + extent_t(2 * (g.young_seconds + g.save_seconds) / p.step_seconds);
  while (high - low > 2) {
    const extent_t third = (high - low) / 3;
    if (ettr_of(cycle_of(low + third)) < ettr_of(cycle_of(high - third)))
      low += third;
    else
      high -= third;
  }
  g.interval_steps = low;
  for (extent_t steps = low + 1; steps <= high; ++steps)
    if (ettr_of(cycle_of(steps)) > ettr_of(cycle_of(g.interval_steps))) g.interval_steps = steps;
  const save_cycle best = cycle_of(g.interval_steps);
  g.interval_seconds = best.interval;
  g.ettr = ettr_of(best);
  g.saving = g.ettr * best.block / best.interval;
  g.restarting = -std::expm1(-best.restart / best.mtti);
  g.lost = std::max(0.0, 1 - g.ettr - g.saving - g.restarting);
  g.mfu = p.mfu * g.ettr;
  g.tflops = p.tflops * g.ettr;
  return g;
}

}  // namespace moefold
