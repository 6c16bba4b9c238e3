#pragma once
// Random jobs for the planner and legal mappings of them, from support/random_models.hpp.
#include "random_models.hpp"

#include <moefold/plan/mapping.hpp>

namespace moefold::testing {

struct random_plan {
  plan_job job;
  plan_mapping mapping;
};

inline recompute_rule random_rule(const random_numbers& draw, std::uint64_t i) {
  using enum recompute_part;
  return draw.of<recompute_rule>(
      i, "recompute",
      {recompute_none, recompute_none, recompute_full, selective<norms, activation>, selective<core_attention>, selective<moe>});
}

/// A legal one; the strategy is folding.
inline random_plan draw_plan(const random_numbers& draw, std::uint64_t i) {
  using enum axis_id;
  random_plan p;
  p.job.model = random_model(draw, i);
  const folding_extents fold = random_folding(draw, i, p.job.model);
  plan_mapping& m = p.mapping;
  m = {fold.attention.of(tp), fold.attention.of(cp), fold.attention.of(dp), fold.attention.of(pp),
       fold.moe.of(etp),      fold.moe.of(ep),       fold.moe.of(edp),      fold.layers.chunks};
  m.micro_batch = 1 + draw(i, "micro_batch", 2), m.recompute = random_rule(draw, i);
  p.job.gpus = fold.world(), p.job.layers = fold.layers, p.job.layers.chunks = 1;
  p.job.sequence = 32, p.job.global_batch = m.dp * m.micro_batch * (1 + draw(i, "micro_batches", 9));
  p.job.schedule = m.vpp > 1 ? plan_schedule::one_f_one_b : plan_schedule(draw(i, "schedule", 3));
  p.job.bucket = draw(i, "bucket", 3) == 0 ? 0 : 500 + draw(i, "elements", 4000);
  if (draw(i, "gathers", 4) == 0) p.job.facts.dispatch = dispatch_kind::all_gather;
  if (draw(i, "capacity", 3) == 0)
    p.job.facts.tokens = {75 + 50 * draw(i, "percent", 2), draw(i, "full", 2) == 0, false, draw(i, "padded", 2) == 0};
  if (draw(i, "losses", 3) == 0) p.job.facts.balance = {.micro_batch = 0.1, .sequence = 0.1, .z = 0.01};
  p.job.imbalance = 1 + double(draw(i, "imbalance", 4)) / 4;
  check(p.job, m);
  return p;
}

/// A plan that may break rules: a legal one with up to two things spoilt, each in a way that somebody could write.
inline random_plan spoilt_plan(const random_numbers& draw, std::uint64_t i) {
  random_plan p = draw_plan(draw, i);
  plan_job& job = p.job;
  plan_mapping& m = p.mapping;
  model_shape& model = job.model;
  const extent_t spoils = draw(i, "spoils", 4);  // of four plans one stays legal
  for (extent_t s = 0; s < std::min<extent_t>(spoils, 2); ++s) {
    const std::uint64_t j = 2 * i + std::uint64_t(s);
    const auto small = [&] { return draw(j, "small", 9) - 1; };
    switch (draw(j, "what", 33)) {
      case 0: model.layers = small(); break;
      case 1: model.heads = draw(j, "heads", 12); break;
      case 2: model.kv_heads = draw(j, "kv_heads", 8); break;
      case 3: model.head_dim = draw(j, "head_dim", 9); break;
      case 4: model.top_k = small() + 4 * draw(j, "many", 2); break;
      case 5: model.top_k = 1; break;
      case 6: model.expert_groups = small(); break;
      case 7: model.expert_groups = 4, model.chosen_groups = small(), model.score = score_function::sigmoid; break;
      case 8: model.expert_bias = true; break;
      case 9: model.shared_gate = true, model.shared_ffn = 4 * draw(j, "shared", 2); break;
      case 10: model.shared_ffn = small(); break;
      case 11: model.sliding_window = draw(j, "window", 80) - 4; break;
      case 12: model.dense_layers = small(), model.dense_ffn = 6 * draw(j, "dense", 3); break;
      case 13: model.weight_scale = double(small()) / 4; break;
      case 14: draw(j, "which", 2) == 0 ? model.rope_theta = 0 : model.norm_eps = 2; break;
      case 15: model.experts = draw(j, "experts", 13); break;
      case 16: model.ffn = draw(j, "ffn", 14); break;
      case 17: m.tp = draw(j, "tp", 6); break;
      case 18: m.cp = draw(j, "cp", 6); break;
      case 19: m.dp = draw(j, "dp", 6); break;
      case 20: {  // whole stages more or less
        m.pp = draw(j, "pp", 13);
        job.gpus = m.gpus();
        break;
      }
      case 21: m.etp = draw(j, "etp", 6); break;
      case 22: m.ep = 2 * draw(j, "ep", 6), m.edp = std::max<extent_t>(1, m.edp / 2); break;
      case 23: job.sequence = draw(j, "sequence", 70); break;
      case 24: job.global_batch = draw(j, "batch", 50); break;
      case 25: m.micro_batch = draw.of<extent_t>(j, "micro", {0, -1, 3, extent_t{1} << 25}); break;
      case 26: job.global_batch = extent_t{1} << 30; break;
      case 27: job.facts.jitter = double(small()) / 4; break;
      case 28:
        job.facts.tokens = {draw.of<extent_t>(j, "percent", {-5, 0, 0, 200000}), draw(j, "full", 2) == 0, false, draw(j, "padded", 2) == 0};
        break;
      case 29: draw(j, "which", 2) == 0 ? job.facts.balance.z = -0.1 : job.facts.balance.bias_step = -1; break;
      case 30: {
        job.layers = {};
        const extent_t stages = std::clamp<extent_t>(m.pp * m.vpp + draw(j, "more", 2), 1, 128);
        for (extent_t v = 0; v < stages; ++v)
          job.layers.counts[std::size_t(job.layers.given++)] = draw(j + std::uint64_t(v), "count", 5) - (v == 0);
        job.layers.head_weighs = draw(j, "weighs", 5) == 0;
        break;
      }
      case 32: m.vpp = 0; break;
      case 31: job.context = {false, draw.of<extent_t>(j, "swap", {0, 1, 2, 3})}; break;
    }
  }
  return p;
}

}  // namespace moefold::testing
