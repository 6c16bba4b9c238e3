#pragma once
// Whether a run fits a GPU, before anything is built on one: a compile error that shows the bytes it needs and the bytes there are.
//
//   static_assert(moefold::fits<my_run, moefold::h100_80gb>);             the fold's own ranks
//   static_assert(moefold::fits<my_run, moefold::h100_80gb, 128, 2>);     dyn extents: of 128 ranks; micro-batches of 2 sequences
//   error: static assertion failed: moefold: the run needs more memory than the GPU has: ...
//     in instantiation of check_memory<91258159104, 85520809984>          needed, there
#include <moefold/plan/cluster.hpp>
#include <moefold/plan/memory.hpp>
#include <moefold/train/run.hpp>

#include <string_view>

namespace moefold {

MOEFOLD_RULE(
    memory, bytes_needed, bytes_there, bytes_needed <= bytes_there,
    "moefold: the run needs more memory than the GPU has: raise tp, ep or pp, recompute more, or take a smaller micro-batch; the program "
    "plan finds mappings that fit")
MOEFOLD_RULE(known_world, ranks, least, ranks >= least,
             "moefold: the fold has a dyn extent, so its memory depends on the world: name it, as in fits<my_run, h100_80gb, 128>")
MOEFOLD_RULE(
    planned_schedule, known, yes, known == yes,
    "moefold: the planner knows the memory of 1F1B, interleaved and zero-bubble schedules; measure a run with another one (--dry-run)")

namespace detail {

template <class Schedule>
inline constexpr bool planned_schedule = Schedule::trains &&
                                         (Schedule::chunks > 1 || std::is_same_v<Schedule, one_f_one_b> ||
                                          std::is_same_v<Schedule, interleaved<1>> || std::is_same_v<Schedule, zero_bubble> ||
                                          std::is_same_v<Schedule, zero_bubble_h1>);

/// What clusters of this GPU set aside of its memory; of one that no known cluster has, nothing.
constexpr extent_t reserved_on(const gpu_spec& gpu) {
  for (const cluster_spec* c : known_clusters)
    if (std::string_view(c->gpu.name) == gpu.name) return c->reserved;
  return 0;
}

}  // namespace detail

/// A run as a job and its mapping. micro_batches: of a step; 0: as many as fill the pipeline.
template <class Run>
constexpr plan_job job_of(extent_t world, extent_t micro_batch, extent_t micro_batches) {
  plan_job job;
  const folding_extents fold = folding_of<Run>(world);
  const extent_t dp = fold.attention.of(axis_id::dp), pp = fold.attention.of(axis_id::pp);
  job.model = Run::model;
  job.gpus = world, job.sequence = Run::sequence;
  job.global_batch = dp * micro_batch * (micro_batches > 0 ? micro_batches : 2 * pp);  // zero bubble and interleaving are full with 2 pp
  job.facts = facts_of<typename Run::moe>();
  job.context = context_of<Run>;
  job.schedule = std::is_same_v<typename Run::schedule, zero_bubble>    ? plan_schedule::zero_bubble
               : std::is_same_v<typename Run::schedule, zero_bubble_h1> ? plan_schedule::zero_bubble_h1
                                                                        : plan_schedule::one_f_one_b;
  job.layers = Run::layers;
  return job;
}
template <class Run>
constexpr plan_mapping mapping_of(extent_t world, extent_t micro_batch) {
  using enum axis_id;
  const folding_extents fold = folding_of<Run>(world);
  const extents &a = fold.attention, &e = fold.moe;
  plan_mapping m;
  m.tp = a.of(tp), m.cp = a.of(cp), m.dp = a.of(dp), m.pp = a.of(pp);
  m.etp = e.of(etp), m.ep = e.of(ep), m.edp = e.of(edp);
  m.vpp = Run::schedule::chunks, m.micro_batch = micro_batch, m.recompute = Run::recompute;
  return m;
}

/// Bytes that a run needs on the fullest GPU, in its device precision, by kind; without what the GPU's context takes.
template <class Run>
constexpr plan_memory memory_of_run(extent_t world, extent_t micro_batch = 1, extent_t micro_batches = 0) {
  return memory_of<typename Run::device_precision>(job_of<Run>(world, micro_batch, micro_batches), mapping_of<Run>(world, micro_batch));
}

/// True, or a compile error. Gpu: a constant like h100_80gb. World: ranks; needed where the fold has a dyn extent. Rows at the experts are those of even
/// routing; MicroBatches: of a step, 0 for as many as fill the pipeline.
template <class Run, const gpu_spec& Gpu, extent_t World = Run::fold::ranks, extent_t MicroBatch = 1, extent_t MicroBatches = 0>
inline constexpr bool fits = [] {
  static_assert(check_run<Run>::ok);
  static_assert(check_known_world<World, 1>::ok);
  static_assert(check_planned_schedule<detail::planned_schedule<typename Run::schedule>, 1>::ok);
  if constexpr (World >= 1)
    return check_memory<memory_of_run<Run>(World, MicroBatch, MicroBatches).total() + detail::reserved_on(Gpu), Gpu.memory>::ok;
  else
    return false;
}();

}  // namespace moefold
