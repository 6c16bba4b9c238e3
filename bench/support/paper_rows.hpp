#pragma once
// What arXiv 2504.14960 measured (tables 1 and 3) and what we assume where it does not say: the rows that the planner is held to. H100, 4096 tokens,
// 256 sequences, bf16, capacity factor 1; MFU in percent of 989.5 TFLOP/s.
//
//   given      tp, cp, pp, ep, etp of the table (without folding ETP = TP)
//   assumed    what it does not say is chosen as for a user who asks `plan --fix tp=2,...`: the fastest micro-batch, virtual stages and recomputation that
//              fit; experts padded to their capacity; EP inside DP without folding; PP slowest; full attention counted in MFU
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>
#include <moefold/plan/search.hpp>

#include <array>
#include <cmath>

namespace moefold::bench {

struct paper_row {
  const char* model_name;
  const char* method;
  const model_shape* model;
  plan_strategy strategy;
  extent_t gpus, cp, tp, ep, pp, etp;
  double mfu;  // percent

  constexpr bool of(const model_shape& m) const { return model == &m; }
  /// MCore and folding, which the planner is held to more closely.
  constexpr bool pipelined() const { return strategy == plan_strategy::mcore || strategy == plan_strategy::folding; }
  plan_job job() const {
    plan_job j;
    j.model = *model, j.gpus = gpus, j.sequence = 4096, j.global_batch = 256, j.strategy = strategy;
    j.facts.tokens = {.percent = 100, .padded = true};
    return j;
  }
  /// What the planner answers. Throws std::out_of_range where nothing fits.
  prediction predicted(const cluster_spec& cluster) const {
    search_options options;
    options.fixed.tp = tp, options.fixed.cp = cp, options.fixed.pp = pp, options.fixed.ep = ep, options.fixed.etp = etp;
    options.top = 1;
    return search<mixed_bf16>(job(), cluster, options).plans.at(0);
  }
  /// Predicted over measured MFU, less 1.
  double error(const cluster_spec& cluster) const { return 100 * predicted(cluster).mfu / mfu - 1; }
};

inline constexpr std::array<paper_row, 8> paper_rows = {{
    {"Mixtral-8x22B", "FSDP+EP", &mixtral_8x22b, plan_strategy::fsdp_ep, 128, 1, 2, 8, 1, 2, 23.4},
    {"Mixtral-8x22B", "TP+EP+DP", &mixtral_8x22b, plan_strategy::tp_ep_dp, 128, 1, 4, 8, 1, 4, 36.6},
    {"Mixtral-8x22B", "MCore", &mixtral_8x22b, plan_strategy::mcore, 128, 1, 2, 4, 8, 2, 46.3},
    {"Mixtral-8x22B", "MCore w/ Folding", &mixtral_8x22b, plan_strategy::folding, 128, 1, 2, 8, 8, 1, 49.3},
    {"Qwen2-57B-A14B", "FSDP+EP", &qwen2_57b_a14b, plan_strategy::fsdp_ep, 64, 1, 1, 8, 1, 1, 25.4},
    {"Qwen2-57B-A14B", "TP+EP+DP", &qwen2_57b_a14b, plan_strategy::tp_ep_dp, 64, 1, 4, 4, 1, 4, 23.1},
    {"Qwen2-57B-A14B", "MCore", &qwen2_57b_a14b, plan_strategy::mcore, 64, 1, 2, 4, 4, 2, 35.3},
    {"Qwen2-57B-A14B", "MCore w/ Folding", &qwen2_57b_a14b, plan_strategy::folding, 64, 1, 2, 4, 4, 1, 39.0},
}};

/// The two scalars that are fitted, on the Mixtral rows alone: the plateau of products, and how much of ZeRO-3's traffic hides behind computation. The least
/// sum of absolute errors over a grid.
struct paper_fit {
  double gemm = 0, hide_shards = 0;
};
inline paper_fit fit_on_mixtral(cluster_spec cluster) {
  paper_fit best;
  double least = 1e300;
  for (int gemm = 60; gemm <= 80; ++gemm)
    for (int hidden = 0; hidden <= 60; hidden += 10) {
      cluster.efficiency.gemm = gemm / 100., cluster.efficiency.hide_shards = hidden / 100.;
      double sum = 0;
      for (const paper_row& row : paper_rows)
        if (row.of(mixtral_8x22b)) sum += std::abs(row.error(cluster));
      if (sum < least) least = sum, best = {gemm / 100., hidden / 100.};
    }
  return best;
}

/// Mean of the absolute errors of the rows that f accepts.
template <class F>
double mean_error(const cluster_spec& cluster, F&& accepts) {
  double sum = 0;
  int count = 0;
  for (const paper_row& row : paper_rows)
    if (accepts(row)) sum += std::abs(row.error(cluster)), ++count;
  return sum / count;
}

}  // namespace moefold::bench
