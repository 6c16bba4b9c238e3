#pragma once
// What is asked of a plan and one answer to it, as plain numbers: a job (model, GPUs, batch) and a mapping of it. A mapping is legal exactly where the
// engine would start with it: the rules are those of mesh, inventory and schedule, in their sentences; a strategy that is compared with adds its own.
//
//   strategy     attention            experts                                  weights
//   folding      any legal mesh       any legal mesh of the same stages        replicated over dp x cp and edp, optimizer sharded (ZeRO-1)
//   mcore        any legal mesh       ETP = TP, EP inside DP                   the same: what Megatron-Core was before folding
//   tp_ep_dp     PP = CP = 1          ETP = TP, EP inside DP                   the same
//   fsdp_ep      PP = 1               ETP = TP, EP inside DP                   sharded over all replicas (ZeRO-3), gathered where they are used
//   fsdp         PP = 1               ETP = TP, EP = 1                         sharded over all replicas (ZeRO-3)
// Source: the five methods of arXiv 2504.14960, table 1.
#include <moefold/core/context_facts.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/inventory/activations.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/inventory/legality.hpp>
#include <moefold/mesh/extents.hpp>

#include <string>

namespace moefold {

enum class plan_strategy : std::uint8_t { folding, mcore, tp_ep_dp, fsdp_ep, fsdp };
inline constexpr int plan_strategies = 5;
constexpr const char* name_of(plan_strategy s) {
  constexpr const char* names[plan_strategies] = {"folding", "mcore", "tp-ep-dp", "fsdp-ep", "fsdp"};
  return int(s) < plan_strategies ? names[int(s)] : "?";
}
/// Whether weights, gradients and optimizer state all lie in shards over the replicas.
constexpr bool shards_weights(plan_strategy s) { return s == plan_strategy::fsdp || s == plan_strategy::fsdp_ep; }
/// Whether expert groups are tied to those of attention: ETP = TP and EP a part of DP, its ranks TP * CP apart.
constexpr bool ties_experts(plan_strategy s) { return s != plan_strategy::folding; }

/// How a model lies on the GPUs. Every number is at least 1; tp*cp*dp*pp = etp*ep*edp*pp = the GPUs.
struct plan_mapping {
  extent_t tp = 1, cp = 1, dp = 1, pp = 1;
  extent_t etp = 1, ep = 1, edp = 1;
  extent_t vpp = 1;          // chunks of layers per stage: above 1, the interleaved schedule
  extent_t micro_batch = 1;  // sequences
  recompute_rule recompute{};

  constexpr extent_t gpus() const { return tp * cp * dp * pp; }
  constexpr bool operator==(const plan_mapping&) const = default;
};

/// The schedule of a mapping with vpp = 1.
enum class plan_schedule : std::uint8_t { one_f_one_b, zero_bubble, zero_bubble_h1 };

/// What is to be trained, on how many GPUs.
struct plan_job {
  model_shape model{};
  extent_t gpus = 1;
  extent_t sequence = 0;      // tokens
  extent_t global_batch = 0;  // sequences of one step
  moe_facts facts{};          // capacity or dropless, dispatcher, balance losses
  context_facts context{};
  plan_strategy strategy = plan_strategy::folding;
  plan_schedule schedule = plan_schedule::one_f_one_b;
  double imbalance = 1;         // rows at the busiest rank's experts over the mean (dropless); 1: even routing
  double memory_imbalance = 0;  // the one that memory is planned for, where it is another: a high percentile; 0: imbalance
  int state_tensors = 2;        // of the optimizer, per weight
  extent_t bucket = default_bucket;
  layer_split layers{};  // how layers are shared out; its chunks are the mapping's vpp

  constexpr double tokens() const { return double(sequence) * double(global_batch); }
};

/// The two meshes of a mapping, pipeline slowest: tp < cp < dp < pp and etp < ep < edp < pp. Throws config_error if they do not fold.
constexpr folding_extents folding_of(const plan_job& job, const plan_mapping& m) {
  using enum axis_id;
  folding_extents fold =
      make_folding({{tp, m.tp}, {cp, m.cp}, {dp, m.dp}, {pp, m.pp}}, {{etp, m.etp}, {ep, m.ep}, {edp, m.edp}, {pp, m.pp}});
  fold.layers = job.layers;
  fold.layers.chunks = m.vpp;
  return fold;
}
constexpr activation_shape shape_of(const plan_job& job, const plan_mapping& m) {
  return {job.model, folding_of(job, m), job.sequence, m.micro_batch, job.facts, m.recompute, job.context};
}
/// Rows at the busiest rank's experts at an imbalance, which is a multiple of even routing.
constexpr extent_t rows_at(const activation_shape& a, double imbalance) {
  const double rows = imbalance * double(a.balanced_rows());
  return rows < double(a.worst_rows()) ? std::max(extent_t(rows), extent_t{1}) : a.worst_rows();
}

/// Micro-batches of one data-parallel rank in a step.
constexpr extent_t micro_batches_of(const plan_job& job, const plan_mapping& m) { return job.global_batch / (m.dp * m.micro_batch); }

namespace detail {

constexpr void check_strategy(plan_strategy s, const plan_mapping& m) {
  if (!ties_experts(s)) return;
  require<config_error>(m.etp == m.tp, "moefold: the strategy ", name_of(s), " has ETP = TP (given ETP ", m.etp, " and TP ", m.tp,
                        "); the strategy folding has not");
  require<config_error>(m.dp % m.ep == 0, "moefold: the strategy ", name_of(s),
                        " has EP inside DP, so DP must be a multiple of EP (given EP ", m.ep, " and DP ", m.dp,
                        "); the strategy folding has EP wherever it fits");
  require<config_error>(s == plan_strategy::mcore || m.pp == 1, "moefold: the strategy ", name_of(s), " has no pipeline (given PP ", m.pp,
                        "); use mcore or folding");
  require<config_error>(s != plan_strategy::tp_ep_dp || m.cp == 1, "moefold: the strategy tp-ep-dp has no CP (given ", m.cp,
                        "); use mcore or folding");
  require<config_error>(s != plan_strategy::fsdp || m.ep == 1, "moefold: the strategy fsdp has no EP (given ", m.ep, "); use fsdp-ep");
}

}  // namespace detail

inline constexpr extent_t most_tokens = extent_t{1} << 26;  // of a sequence that is planned: bytes are counted in 64 bits

/// Throws config_error, in the engine's own sentences, if the engine would not start with this mapping, or the strategy does not allow it.
constexpr void check(const plan_job& job, const plan_mapping& m) {
  require<config_error>(m.vpp >= 1, "moefold: a stage has at least 1 chunk of layers (given ", m.vpp, ")");
  require<config_error>(m.vpp == 1 || job.schedule == plan_schedule::one_f_one_b,
                        "moefold: only 1F1B has several chunks of layers per stage (given ", m.vpp, "); take vpp 1 with zero bubble");
  require<config_error>(job.sequence <= most_tokens, "moefold: a sequence of a plan has at most ", most_tokens, " tokens (given ",
                        job.sequence, ")");
  const folding_extents fold = folding_of(job, m);
  require<config_error>(fold.world() == job.gpus, "moefold: the mapping has TP*CP*DP*PP = ", fold.world(), " ranks and there are ",
                        job.gpus, " GPUs; change dp");
  check(job.model, job.sequence, fold);
  check_batch_size(job.global_batch, m.dp, m.micro_batch);
  require_context_ranks(m.cp, context_pieces(job.context, m.cp));
  require_context_heads(job.model.kv_heads, head_pieces(job.context, m.tp, m.cp));
  check(job.facts);
  detail::check_strategy(job.strategy, m);
}

/// The reason why a mapping is not legal; empty where it is.
inline std::string refusal(const plan_job& job, const plan_mapping& m) {
  try {
    check(job, m);
  } catch (const config_error& e) {
    return e.what();
  }
  return {};
}

/// "tp 2, cp 1, dp 8, pp 8 | etp 1, ep 8, edp 2 | vpp 7, micro-batch 1, recompute none"
inline std::string describe(const plan_mapping& m) {
  return sentence("tp ", m.tp, ", cp ", m.cp, ", dp ", m.dp, ", pp ", m.pp, " | etp ", m.etp, ", ep ", m.ep, ", edp ", m.edp, " | vpp ",
                  m.vpp, ", micro-batch ", m.micro_batch, ", recompute ", describe(m.recompute));
}

}  // namespace moefold
