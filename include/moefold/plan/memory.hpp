#pragma once
// Bytes that a mapping needs on one GPU, from the inventory alone: what the engine allocates for weights, gradients and optimizer, what its schedule keeps
// alive between forward and backward, and the widest moment beside it. Makes no list, so that a search can ask it a hundred thousand times a second.
//
//   parameters, gradients, optimizer      exactly the engine's; of a strategy that shards weights a share of all, and two layers gathered
//   activations                           live pairs of the schedule x what the stage's largest chunk keeps (and defers, with zero bubble); head and loss
//   transient                             a block recomputed, and scratch: an estimate
// Rows at the experts: even routing times the job's imbalance, at most what the worst routing can bring.
#include <moefold/plan/bubble.hpp>
#include <moefold/plan/mapping.hpp>
#include <moefold/plan/prediction.hpp>

#include <algorithm>

namespace moefold {

/// Layers whose weights and gradients lie whole on a GPU at the same time, where they are sharded: the one at work and the next.
inline constexpr extent_t gathered_layers = 2;

/// (micro-batch, chunk) pairs that a stage keeps alive at most.
constexpr extent_t live_pairs(const plan_job& job, const plan_mapping& m, extent_t stage) {
  return with_schedule(job.schedule, m.vpp,
                       [&](const auto& s) { return extent_t(s.live(int(stage), int(m.pp), int(micro_batches_of(job, m)))); });
}

/// Micro-batches for which the last stage keeps what head and loss need: those alive in its last chunk.
constexpr extent_t live_heads(const plan_job& job, const plan_mapping& m) {
  return m.vpp > 1 ? interleaved_over::live_heads(int(m.vpp), int(m.pp), int(micro_batches_of(job, m))) : live_pairs(job, m, m.pp - 1);
}

/// A mapping's memory, stage by stage; what stages have in common is counted once.
template <class Precision>
class memory_counter {
 public:
  /// Of a legal mapping, when `arriving` rows arrive at the experts of every MoE layer. Job and mapping outlive the counter.
  constexpr memory_counter(const plan_job& job, const plan_mapping& mapping, const activation_shape& shape, extent_t arriving)
      : job_(job), mapping_(mapping), a_(shape), arriving_(arriving), blocks_(kept_by_blocks<Precision>(shape, arriving)),
        transient_(recomputed_by_block<Precision>(shape, arriving) + scratch_estimate<Precision>(shape, arriving)) {}

  constexpr plan_memory of(extent_t stage) const {
    const model_shape& m = job_.model;
    const bool sharded = shards_weights(job_.strategy);
    const parameter_memory weights = memory_of_parameters<Precision>(m, a_.fold, stage, job_.state_tensors, job_.bucket,
                                                                     sharded ? held_weights::shard : held_weights::all);
    plan_memory bytes{stage, weights.parameters, weights.gradients, weights.optimizer};
    if (sharded) {
      extent_t layer = m.dense_layers > 0 ? elements_of_layer(m, a_.fold, 0) : 0;
      if (m.moe_layers() > 0) layer = std::max(layer, elements_of_layer(m, a_.fold, m.dense_layers));
      bytes.parameters += gathered_layers * layer * extent_t(sizeof(typename Precision::storage));
      bytes.gradients += gathered_layers * layer * extent_t(sizeof(typename Precision::reduce));
    }
    const bool defers = mapping_.vpp == 1 && job_.schedule != plan_schedule::one_f_one_b;
    bytes.activations = live_pairs(job_, mapping_, stage) * (kept_by_micro_batch<Precision>(a_, stage, blocks_) +
                                                             (defers ? deferred_by_micro_batch<Precision>(a_, stage, arriving_) : 0));
    if (stage == mapping_.pp - 1) bytes.activations += live_heads(job_, mapping_) * kept_by_head<Precision>(a_);
    bytes.transient = transient_;
    return bytes;
  }

  /// Of the stage that needs most; of equal ones the first.
  constexpr plan_memory of_fullest() const {
    plan_memory most = of(0);
    for (extent_t stage = 1; stage < mapping_.pp; ++stage) {
      if (like_the_one_before(stage)) continue;
      const plan_memory memory = of(stage);
      if (memory.total() > most.total()) most = memory;
    }
    return most;
  }

 private:
  /// Two stages in the middle with the same layers: the later one keeps no more pairs alive.
  constexpr bool like_the_one_before(extent_t stage) const {
    if (stage == 1 || stage == mapping_.pp - 1) return false;
    const extent_t layers = job_.model.layers, dense = job_.model.dense_layers;
    for (extent_t c = 0; c < mapping_.vpp; ++c) {
      const layer_range own = chunk_layers(layers, a_.fold, stage, c), before = chunk_layers(layers, a_.fold, stage - 1, c);
      if (own.count != before.count || dense_in(own, dense) != dense_in(before, dense)) return false;
    }
    return true;
  }

  const plan_job& job_;
  const plan_mapping& mapping_;
  const activation_shape& a_;
  extent_t arriving_;
  kept_bytes blocks_;
  extent_t transient_;
};

/// Bytes on a GPU of one stage, at the job's imbalance. The mapping is a legal one (plan/mapping.hpp).
template <class Precision>
constexpr plan_memory memory_of(const plan_job& job, const plan_mapping& mapping, extent_t stage) {
  const activation_shape a = shape_of(job, mapping);
  return memory_counter<Precision>(job, mapping, a, rows_at(a, job.memory_imbalance > 0 ? job.memory_imbalance : job.imbalance)).of(stage);
}
/// Of the stage that needs most.
template <class Precision>
constexpr plan_memory memory_of(const plan_job& job, const plan_mapping& mapping) {
  const activation_shape a = shape_of(job, mapping);
  return memory_counter<Precision>(job, mapping, a, rows_at(a, job.memory_imbalance > 0 ? job.memory_imbalance : job.imbalance))
      .of_fullest();
}
/// The same if every MoE layer is hit by the worst routing there is.
template <class Precision>
constexpr plan_memory worst_memory(const plan_job& job, const plan_mapping& mapping) {
  const activation_shape a = shape_of(job, mapping);
  return memory_counter<Precision>(job, mapping, a, a.worst_rows()).of_fullest();
}

/// The largest imbalance at which the mapping still fits into `bytes`; 0: not even with even routing.
template <class Precision>
constexpr double largest_imbalance(const plan_job& job, const plan_mapping& mapping, extent_t bytes) {
  const activation_shape a = shape_of(job, mapping);
  const auto fits = [&](extent_t rows) { return memory_counter<Precision>(job, mapping, a, rows).of_fullest().total() <= bytes; };
  extent_t most = a.balanced_rows(), too_many = a.worst_rows() + 1;
  if (!fits(most)) return 0;
  while (too_many - most > 1) {
    const extent_t middle = most + (too_many - most) / 2;
    (fits(middle) ? most : too_many) = middle;
  }
  return double(most) / double(a.balanced_rows());
}

}  // namespace moefold
