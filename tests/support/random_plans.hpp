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

}  // namespace moefold::testing
