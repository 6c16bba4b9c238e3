#pragma once
// How long a step of a mapping takes and where the time goes: the blocks of every stage, the pipeline's bubble, what cannot be hidden of the traffic of
// gradients and weights, the optimizer, and the wait for the slowest. Physical constants only, the same for every model.
//
//   step = micro-batches * slowest stage + bubble + exposed(dp, edp) + optimizer + fixed, and noise for every doubling of the GPUs beyond 8
//   slowest stage = its layers * (forward + backward + recompute + exposed communication) + embedding, head and loss where it has them
#include <moefold/plan/block_time.hpp>
#include <moefold/plan/bubble.hpp>
#include <moefold/plan/flops.hpp>
#include <moefold/plan/memory.hpp>

#include <cmath>

namespace moefold {

namespace detail {

/// The share of a step that ranks wait for the slowest, which grows with every doubling beyond 8 GPUs.
inline double noise_of(const plan_job& job, const cluster_spec& c) {
  return c.efficiency.noise * std::max(0.0, std::log2(double(job.gpus) / 8));
}

/// Elements of one layer that a rank holds before they are cut into shards.
struct block_elements {
  extent_t dense = 0, expert = 0;
};
constexpr block_elements elements_of_block(const activation_shape& a, bool dense) {
  block_elements own;
  const auto add = [&](const parameter_fact& p) { (of_expert(p.kind) ? own.expert : own.dense) += local_elements(p, a.fold); };
  parameter_list(a.model, a.fold, add).layer(dense ? 0 : a.model.dense_layers);
  return own;
}

/// What a stage does for one micro-batch, all its chunks together.
struct stage_time {
  pass_time forward{}, backward{}, again{};  // communication as far as it is exposed
  double weight = 0, launches = 0;
  double shards = 0, expert_shards = 0;  // gathering of sharded weights, as far as it is exposed

  constexpr double forward_seconds() const { return forward.compute() + forward.communication(); }
  constexpr double seconds() const {
    return forward_seconds() + backward.compute() + backward.communication() + again.compute() + launches + shards + expert_shards;
  }
};

/// Weights that ZeRO-3 gathers for one block or one of the ends, forward and backward, and gradients that it scatters, `times` times: exposed beside the
/// computation of the block itself.
template <class Precision>
constexpr void add_shards(stage_time& stage, const plan_job& job, const cluster_spec& c, const plan_mapping& m, const block_elements& own,
                          double forward, double backward, double times) {
  using enum axis_id;
  const group_span replicas = span_of(job, c, m, axis_set(cp, dp)), experts = span_of(job, c, m, edp);
  const auto seconds = [&](operation op, double elements, const group_span& span) {  // weights as stored, gradients as they are summed
    const double size = op == operation::all_gather ? sizeof(typename Precision::storage) : sizeof(typename Precision::reduce);
    return seconds_of(op, elements * size * double(span.ranks - 1) / double(span.ranks), span, c);
  };
  const double gathers = seconds(operation::all_gather, double(own.dense), replicas),
               expert_gathers = seconds(operation::all_gather, double(own.expert), experts);
  const double scatters = seconds(operation::reduce_scatter, double(own.dense), replicas),
               expert_scatters = seconds(operation::reduce_scatter, double(own.expert), experts);
  const auto left = [&](double all, double window) { return std::max(0.0, all - c.efficiency.hide_shards * window); };
  const double total = gathers + expert_gathers + scatters + expert_scatters, all = total + gathers + expert_gathers;
  if (all <= 0) return;
  const double exposed = left(gathers + expert_gathers, forward) + left(total, backward);
  stage.expert_shards += times * exposed * (2 * expert_gathers + expert_scatters) / all;
  stage.shards += times * exposed * (2 * gathers + scatters) / all;
}

/// What a block of either kind takes.
struct block_times {
  block_time moe{}, dense{};
};
template <class Precision>
constexpr block_times times_of_blocks(const plan_job& job, const cluster_spec& c, const plan_mapping& m, const activation_shape& a) {
  block_times t;
  if (job.model.moe_layers() > 0) t.moe = time_of_block<Precision>(job, c, m, a, false);
  if (job.model.dense_layers > 0) t.dense = time_of_block<Precision>(job, c, m, a, true);
  return t;
}

/// Layers of a stage, or of one chunk of it, by kind.
struct layer_counts_by_kind {
  extent_t moe = 0, dense = 0;
  constexpr bool operator==(const layer_counts_by_kind&) const = default;
};
constexpr layer_counts_by_kind layers_by_kind(const model_shape& s, const folding_extents& fold, extent_t stage) {
  const extent_t dense = dense_on_stage(s.layers, s.dense_layers, fold, stage);
  return {layers_on_stage(s.layers, fold, stage) - dense, dense};
}
constexpr layer_counts_by_kind layers_by_kind(const model_shape& s, const folding_extents& fold, extent_t stage, extent_t chunk) {
  const layer_range own = chunk_layers(s.layers, fold, stage, chunk);
  const extent_t dense = dense_in(own, s.dense_layers);
  return {own.count - dense, dense};
}

/// A stage, or a chunk of it. first, last: whether it has the embedding, the head.
template <class Precision>
constexpr stage_time time_of_layers(const plan_job& job, const cluster_spec& c, const plan_mapping& m, const activation_shape& a,
                                    const block_times& blocks, const layer_counts_by_kind& layers, bool first, bool last) {
  const model_shape& s = job.model;
  const block_time &moe = blocks.moe, &dense = blocks.dense;
  const double moe_blocks = double(layers.moe), dense_blocks = double(layers.dense);
  stage_time t;
  const auto add = [&](const pass_time& forward, const pass_time& backward, const pass_time& again, double times) {
    pass_time both = backward;  // what is computed again is launched in the backward pass
    both += again;
    t.launches += times * (forward.launches(c.efficiency) + both.launches(c.efficiency));
    t.forward += forward.exposed(c.efficiency) * times, t.backward += backward.exposed(c.efficiency) * times, t.again += again * times;
  };
  add(moe.forward, moe.backward, moe.again, moe_blocks), add(dense.forward, dense.backward, dense.again, dense_blocks);
  t.weight = moe.weight * moe_blocks + dense.weight * dense_blocks;
  const auto add_block_shards = [&](const block_time& block, bool of_dense, double count) {
    if (shards_weights(job.strategy) && count > 0)
      add_shards<Precision>(t, job, c, m, elements_of_block(a, of_dense), block.forward.compute(),
                            block.backward.compute() + block.again.compute(), count);
  };
  add_block_shards(moe, false, moe_blocks), add_block_shards(dense, true, dense_blocks);
  block_clock ends{c, false};
  const double rows = double(a.rows()), T = double(a.tokens()), H = double(s.hidden);
  if (first) ends.stream(2 * rows * H * 2, 3 * rows * H * 4, 1);
  if (last) {
    const double width = double(padded_vocabulary(s, m.tp)) / double(m.tp);
    ends.stream(2 * rows * H * 2, 2 * rows * H * 4, 1);
    ends.product({T, width, H}, false);
    ends.stream(T * width * 4 * 3, T * width * 4 * 2, 3);  // logits in fp32: largest, exponentials, gradient
    t.weight += ends.weight;
  }
  const auto add_ends = [&](extent_t stage, traffic_pass pass, pass_time& to) {
    for_each_stage_call<Precision>(a, stage, pass, [&](const traffic_call& call) {
      if (!call.axes.contains(axis_id::pp)) add_call(to, job, c, m, call);
    });
  };
  if (first || last) {
    const extent_t stage = first ? 0 : m.pp - 1;
    add_ends(stage, traffic_pass::forward, ends.forward), add_ends(stage, traffic_pass::backward, ends.backward);
  }
  add(ends.forward, ends.backward, {}, 1);
  if (shards_weights(job.strategy) && (first || last))
    add_shards<Precision>(t, job, c, m, {(extent_t(first) + extent_t(last)) * padded_vocabulary(s, m.tp) / m.tp * s.hidden, 0},
                          ends.forward.compute(), ends.backward.compute(), 1);
  return t;
}

/// Seconds for gradients and weights once a step, exposed behind the last backward and the first forward.
struct reduction_time {
  double dp = 0, edp = 0, world = 0;
};
template <class Precision>
constexpr reduction_time time_of_reductions(const plan_job& job, const cluster_spec& c, const plan_mapping& m, const activation_shape& a,
                                            extent_t stage, const stage_time& work) {
  double scattered[2] = {}, gathered[2] = {}, world = 0;
  for_each_step_call<Precision>(a, stage, job.bucket, [&](const traffic_call& call) {
    if (shards_weights(job.strategy) && call.op != operation::all_reduce) return;  // these travel with every micro-batch
    const double seconds = seconds_of(call, job, c, m);
    const int experts = call.axes.contains(axis_id::edp) ? 1 : 0;
    (call.op == operation::reduce_scatter ? scattered[experts] : call.op == operation::all_gather ? gathered[experts] : world) += seconds;
  });
  const double scatter = scattered[0] + scattered[1], gather = gathered[0] + gathered[1], all = scatter + gather;
  if (all <= 0) return {0, 0, world};
  const double exposed = std::max(0.0, scatter - c.efficiency.hide_dp * work.backward.compute()) +
                         std::max(0.0, gather - c.efficiency.hide_dp * work.forward.compute());
  return {exposed * (scattered[0] + gathered[0]) / all, exposed * (scattered[1] + gathered[1]) / all, world};
}

}  // namespace detail

/// What a mapping costs whose memory is known. The mapping is legal (plan/mapping.hpp): this is not checked again.
template <class Precision>
prediction predict(const plan_job& job, const cluster_spec& c, const plan_mapping& m, const plan_memory& memory) {
  const efficiency_spec& e = c.efficiency;
  const activation_shape a = shape_of(job, m);
  const double micro = double(micro_batches_of(job, m)), stages = double(m.pp), chunks = double(m.vpp);
  const detail::block_times blocks = detail::times_of_blocks<Precision>(job, c, m, a);

  detail::stage_time slowest, last;
  extent_t at = 0;
  detail::layer_counts_by_kind before{-1, -1};  // of the last stage looked at: in the middle most are alike
  double all = 0;
  for (extent_t stage = 0; stage < m.pp; ++stage) {
    const detail::layer_counts_by_kind layers = detail::layers_by_kind(job.model, a.fold, stage);
    if (stage < 2 || stage == m.pp - 1 || layers != before)
      last = detail::time_of_layers<Precision>(job, c, m, a, blocks, layers, stage == 0, stage == m.pp - 1);
    before = layers, all += last.seconds();
    if (stage == 0 || last.seconds() > slowest.seconds()) slowest = last, at = stage;
  }
  const double others = all - slowest.seconds();  // of one micro-batch

  prediction p;
  p.mapping = m;
  time_split& time = p.time;
  const detail::stage_time& s = slowest;
  time.gemm = micro * (s.forward.gemm + s.backward.gemm);
  time.attention = micro * (s.forward.attention + s.backward.attention);
  time.memory_bound = micro * (s.forward.memory_bound + s.backward.memory_bound);
  time.launches = micro * s.launches;
  time.recompute = micro * s.again.compute();
  time.tp = micro * (s.forward.tp + s.backward.tp);
  time.cp = micro * (s.forward.cp + s.backward.cp);
  time.ep = micro * (s.forward.ep + s.backward.ep);
  time.etp = micro * (s.forward.etp + s.backward.etp);
  time.other = micro * (s.forward.other + s.backward.other) + e.fixed;

  if (m.pp > 1) {
    // By the schedule's formula, for chunks of the mean of the other stages: what stands before the first and behind the last micro-batch of the slowest.
    const double mean = others / (stages - 1), forward = mean * s.forward_seconds() / s.seconds();
    time.bubble = std::max(0.0, bubble_seconds(job.schedule, m.pp, m.vpp, micro_batches_of(job, m),
                                               {forward / chunks, (mean - forward) / chunks, s.weight * mean / s.seconds() / chunks}));
    time.pp = 2 * message_seconds<Precision>(job, c, m, a) *
              (m.vpp > 1 ? stages - 1 : micro);  // with chunks, messages travel beside the work of another chunk
  }
  const detail::reduction_time reductions = detail::time_of_reductions<Precision>(job, c, m, a, at, s);
  p.reductions = reductions.dp + reductions.edp + reductions.world;
  time.dp = reductions.dp + micro * s.shards, time.edp = reductions.edp + micro * s.expert_shards, time.other += reductions.world;

  p.memory = memory;
  p.memory.reserved = c.reserved;
  p.fits = p.memory.total() <= c.gpu.memory;
  // The optimizer reads and writes its state, reads the gradient and writes the weight of every element of its shard.
  const double state = double(optimizer_bytes<Precision>(job.state_tensors));
  const double shard = state > 0 ? double(p.memory.optimizer) / state : 0;
  time.optimizer = streaming_seconds(shard * (2 * state + sizeof(typename Precision::reduce) + sizeof(typename Precision::storage)), c);

  const double seconds = time.total();
  time.other += seconds * detail::noise_of(job, c);
  p.step_seconds = time.total();
  const double rate = job.tokens() / (double(job.gpus) * p.step_seconds);
  p.tflops = rate * flops_per_token(job.model, job.sequence, attention_flops::full) / 1e12;
  p.mfu = p.tflops * 1e12 / c.gpu.bf16_flops;
  p.mfu_causal = rate * flops_per_token(job.model, job.sequence, attention_flops::causal) / c.gpu.bf16_flops;
  return p;
}

template <class Precision>
prediction predict(const plan_job& job, const cluster_spec& c, const plan_mapping& m) {
  return predict<Precision>(job, c, m, memory_of<Precision>(job, m));
}

/// The times of every chunk of a mapping's pipeline, to be played step by step (plan/bubble.hpp): exact where stages differ, and too slow for a search.
template <class Precision>
pipeline_times times_of_pipeline(const plan_job& job, const cluster_spec& c, const plan_mapping& m) {
  const activation_shape a = shape_of(job, m);
  const detail::block_times blocks = detail::times_of_blocks<Precision>(job, c, m, a);
  pipeline_times times{int(m.pp), int(m.vpp)};
  for (extent_t stage = 0; stage < m.pp; ++stage)
    for (extent_t chunk = 0; chunk < m.vpp; ++chunk) {
      const detail::stage_time t =
          detail::time_of_layers<Precision>(job, c, m, a, blocks, detail::layers_by_kind(job.model, a.fold, stage, chunk),
                                            stage == 0 && chunk == 0, stage == m.pp - 1 && chunk == m.vpp - 1);
      times.chunk.push_back({t.forward_seconds(), t.seconds() - t.forward_seconds(), t.weight});
    }
  times.message = message_seconds<Precision>(job, c, m, a);
  return times;
}
/// Seconds of a step whose pipeline is played; all else as predicted.
template <class Precision>
double played_seconds(const plan_job& job, const cluster_spec& c, const prediction& p) {
  const pipeline_run run =
      run_pipeline(job.schedule, times_of_pipeline<Precision>(job, c, p.mapping), int(micro_batches_of(job, p.mapping)));
  const double besides = c.efficiency.fixed + p.time.optimizer + p.reductions;  // once a step
  return (run.seconds + besides) * (1 + detail::noise_of(job, c));
}

}  // namespace moefold
