#pragma once
// What the planner says of one mapping: whether and how tightly it fits, how long a step takes, and where the time goes.
#include <moefold/plan/mapping.hpp>

#include <array>
#include <string>

namespace moefold {

/// Bytes on one GPU: of the stage that needs most.
struct plan_memory {
  extent_t stage = 0;  // which one that is
  extent_t parameters = 0, gradients = 0, optimizer = 0;
  extent_t activations = 0;  // kept from forward to backward by all live micro-batches
  extent_t transient = 0;    // the widest moment: what is recomputed, buffers of exchanges, logits
  extent_t reserved = 0;     // what the GPU's context, its communicators and fragmentation take; a constant of the cluster
  constexpr extent_t total() const { return parameters + gradients + optimizer + activations + transient + reserved; }
};

/// Seconds of one step, of the rank that everybody waits for. Communication counts only as far as it is not hidden behind computation.
struct time_split {
  double gemm = 0, attention = 0, memory_bound = 0, launches = 0;  // launches: where the host is slower than the GPU
  double recompute = 0;
  double tp = 0, cp = 0, ep = 0, etp = 0, dp = 0, edp = 0, pp = 0;  // exposed communication by axis; dp, edp: of gradients and weights
  double bubble = 0;
  double optimizer = 0;
  double other = 0;  // data, logging, synchronisation
  static constexpr std::size_t parts = 15;
  constexpr std::array<double, parts> all() const {
    return {gemm, attention, memory_bound, launches, recompute, tp, cp, ep, etp, dp, edp, pp, bubble, optimizer, other};
  }
  static constexpr std::array<const char*, parts> names = {"gemm", "attention", "memory_bound", "launches",  "recompute",
                                                           "tp",   "cp",        "ep",           "etp",       "dp",
                                                           "edp",  "pp",        "bubble",       "optimizer", "other"};
  constexpr double total() const {
    double sum = 0;
    for (const double part : all()) sum += part;
    return sum;
  }
};

struct prediction {
  plan_mapping mapping{};
  double step_seconds = 0;
  double mfu = 0;         // of the GPU's bf16 peak; model flops with full attention, the paper's convention: 0.493 is 49.3 %
  double mfu_causal = 0;  // the same with causal attention, half of it
  double tflops = 0;      // model flops per GPU and second with full attention, 1e12
  plan_memory memory{};
  bool fits = false;
  time_split time{};
  double reductions =
      0;  // seconds of gradients, weights and the step's numbers, once a step and as far as exposed: a part of time.dp, edp and other
};

}  // namespace moefold
