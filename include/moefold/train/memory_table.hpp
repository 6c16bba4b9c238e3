#pragma once
// The memory of a run, before anything is allocated: bytes of every kind on one rank of each stage, from the inventory.
#include <moefold/inventory/activations.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/schedule/step.hpp>
#include <moefold/train/progress.hpp>

#include <algorithm>

namespace moefold {

/// Parameters, gradients and optimizer state are exactly what the engine
/// allocates; activations follow the routing, and the engine sets aside what the worst routing needs; scratch is an upper bound.
template <class Precision, class Schedule>
text_table memory_table(const activation_shape& a, extent_t micro_batches, int state_tensors, extent_t bucket = default_bucket) {
  text_table table({"stage", "layers", "parameters", "gradients", "optimizer", "activations", "recomputed", "scratch", "total",
                    "activations, worst routing"});
  const extent_t scratch = scratch_bound<Precision>(a);
  const extent_t stages = a.fold.attention.of(axis_id::pp);
  for (extent_t stage = 0; stage < stages; ++stage) {
    const parameter_memory memory = memory_of_parameters<Precision>(a.model, a.fold, stage, state_tensors, bucket);
    const extent_t live = Schedule::live(int(stage), int(stages), int(micro_batches));
    const auto steps = Schedule::steps(int(stage), int(stages), int(micro_batches));
    const bool split = std::any_of(steps.begin(), steps.end(), [](const schedule_step& s) { return s.kind == step_kind::backward_weight; });
    const auto deferred = [&](extent_t rows) { return split ? live * deferred_by_micro_batch<Precision>(a, stage, rows) : 0; };
    const int last_chunk = int(a.fold.layers.chunks) - 1;
    const extent_t heads = stage == stages - 1 ? most_alive(steps, last_chunk) * kept_by_head<Precision>(a) : 0;
    const extent_t balanced = heads + deferred(a.balanced_rows()) + live * kept_by_micro_batch<Precision>(a, stage, a.balanced_rows());
    const extent_t worst = heads + deferred(a.worst_rows()) + live * kept_by_micro_batch<Precision>(a, stage, a.worst_rows());
    const extent_t again = recomputed_by_block<Precision>(a, a.worst_rows());
    table.row({std::to_string(stage), std::to_string(layers_on_stage(a.model.layers, a.fold, stage)), exact_text(memory.parameters),
               exact_text(memory.gradients), exact_text(memory.optimizer), exact_text(balanced), exact_text(again), exact_text(scratch),
               bytes_text(memory.parameters + memory.gradients + memory.optimizer + balanced + again + scratch), exact_text(worst)});
  }
  return table;
}

}  // namespace moefold
