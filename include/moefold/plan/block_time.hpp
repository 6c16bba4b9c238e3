#pragma once
// How long one block takes for one micro-batch on one GPU, forward and backward, part by part: the products, attention, the kernels that only stream, and the
// communication that is not hidden. What travels is the inventory's; the shapes of products follow from the model and the two meshes.
//
//   products      q, k, v together [T, (q + 2 kv)/TP, H]     out [T, H, q/TP]      router [rows, E, H]
//                 experts, grouped [R, 2F/ETP, H], [R, H, F/ETP]     shared expert and dense layers [T, 2F/TP, H], [T, H, F/TP]
//   streams       norms, residuals, RoPE, SwiGLU, permute and unpermute, sorting by expert, router; in fp8 the quantising of every input
//   T tokens of a TP group, rows = T / TP, R rows at this rank's experts
#include <moefold/inventory/traffic_calls.hpp>
#include <moefold/plan/prediction.hpp>
#include <moefold/plan/product.hpp>
#include <moefold/plan/span.hpp>

namespace moefold {

/// Seconds of one pass through a block, or a stage's end.
struct pass_time {
  double gemm = 0, attention = 0, memory_bound = 0;
  double tp = 0, cp = 0, ep = 0, etp = 0, other = 0;  // communication in full
  double kernels = 0;                                 // launched

  constexpr double compute() const { return gemm + attention + memory_bound; }
  constexpr pass_time& operator+=(const pass_time& o) {
    gemm += o.gemm, attention += o.attention, memory_bound += o.memory_bound;
    tp += o.tp, cp += o.cp, ep += o.ep, etp += o.etp, other += o.other, kernels += o.kernels;
    return *this;
  }
  friend constexpr pass_time operator*(pass_time t, double n) {
    t.gemm *= n, t.attention *= n, t.memory_bound *= n;
    t.tp *= n, t.cp *= n, t.ep *= n, t.etp *= n, t.other *= n, t.kernels *= n;
    return t;
  }
  /// The same with what is left of the communication once some of it hides behind the computation.
  constexpr pass_time exposed(const efficiency_spec& e) const {
    double room = compute();  // what one axis hides behind is no room for the next
    const auto left = [&](double seconds, double hidden) {
      const double behind = std::min({seconds, hidden * compute(), room});
      room -= behind;
      return seconds - behind;
    };
    pass_time t = *this;
    t.tp = left(tp, e.hide_tp), t.cp = left(cp, e.hide_cp), t.ep = left(ep, e.hide_ep);
    return t;
  }
  constexpr double communication() const { return tp + cp + ep + etp + other; }
  /// What the host takes longer for its launches than the GPU for its work.
  constexpr double launches(const efficiency_spec& e) const { return std::max(0.0, kernels * e.launch - compute() - communication()); }
};

struct block_time {
  pass_time forward{}, backward{};
  pass_time again{};  // computed a second time in the backward pass; its communication stands in backward
  double weight = 0;  // of backward's products, those of weight gradients, which zero bubble puts off
};

namespace detail {

/// Adds up the parts of a block.
struct block_clock {
  const cluster_spec& cluster;
  bool eighths;
  pass_time forward{}, backward{};
  double weight = 0;  // gradients of weights, a part of backward

  constexpr void product(const product_shape& p, bool quantised) {
    if (p.flops() <= 0) return;
    const bool narrow = quantised && eighths;
    forward.gemm += seconds_of(p, cluster, narrow);
    const double of_weight = seconds_of(p.of_weight(), cluster, narrow);
    weight += of_weight, backward.gemm += seconds_of(p.of_input(), cluster, narrow) + of_weight;
    forward.kernels += 1, backward.kernels += 2;
    if (!narrow) return;
    const double inputs = p.groups * p.rows;  // bf16 read; 8 bits written, and once more transposed
    stream(inputs * p.depth * 4, 0, 1), stream(0, inputs * p.columns * 4, 1);
  }
  constexpr void stream(double forward_bytes, double backward_bytes, double kernels) {
    forward.memory_bound += streaming_seconds(forward_bytes, cluster), backward.memory_bound += streaming_seconds(backward_bytes, cluster);
    forward.kernels += kernels, backward.kernels += kernels;
  }
};

constexpr void add_call(pass_time& t, const plan_job& job, const cluster_spec& cluster, const plan_mapping& m, const traffic_call& call) {
  using enum axis_id;
  if (call.ranks <= 1 || call.count == 0) return;
  double& part = call.axes == axis_set(tp)  ? t.tp
               : call.axes == axis_set(cp)  ? t.cp
               : call.axes == axis_set(ep)  ? t.ep
               : call.axes == axis_set(etp) ? t.etp
                                            : t.other;
  part += seconds_of(call, job, cluster, m), t.kernels += double(call.times);
}

}  // namespace detail

/// One block of a mapping: with a MoE layer, or a dense one.
template <class Precision>
constexpr block_time time_of_block(const plan_job& job, const cluster_spec& cluster, const plan_mapping& m, const activation_shape& a,
                                   bool dense) {
  const model_shape& s = job.model;
  const efficiency_spec& e = cluster.efficiency;
  const double rows = double(a.rows()), T = double(a.tokens()), H = double(s.hidden), tp = double(m.tp), etp = double(m.etp);
  const double q = double(s.q_width()) / tp, kv = double(s.kv_width()) / tp;
  const double inner = s.activation == activation_function::swiglu ? 2 : 1;  // matrices before the activation
  detail::block_clock core{cluster, quantising_policy<Precision>}, moe = core, norms = core, activation = core;

  norms.stream(2 * rows * H * 4, 2 * rows * H * 8, 2);
  core.product({T, q + 2 * kv, H}, true), core.product({T, H, q}, true);
  core.stream(T * (q + kv) * 4, T * (q + kv) * 4, 1);  // RoPE
  core.stream(2 * rows * H * 6, 2 * rows * H * 6, 2);  // residuals
  detail::block_clock attention{cluster, false};
  const double flops = 2 * T * double(job.sequence) * q;  // causal: half of 4 T s q; cp's zig-zag split is even
  attention.forward.attention = flops / (cluster.gpu.bf16_flops * e.attention_forward);
  attention.backward.attention = 2.5 * flops / (cluster.gpu.bf16_flops * e.attention_backward);
  attention.forward.kernels = 1, attention.backward.kernels = 3;
  const auto mlp = [&](detail::block_clock& to, double width) {
    if (width <= 0) return;
    to.product({T, inner * width / tp, H}, true), to.product({T, H, width / tp}, true);
    activation.stream(T * width / tp * 2 * (inner + 1), T * width / tp * 2 * (2 * inner + 1), 1);
  };
  if (dense) {
    mlp(core, double(s.dense_ffn));
  } else {
    const double R = double(rows_at(a, job.imbalance)), own = double(a.own_experts()), k = double(s.top_k), F = double(s.ffn) / etp,
                 sent = double(a.sent_rows());
    const bool even = job.facts.tokens.drops() && job.facts.tokens.padded;
    moe.product({rows, double(s.experts), H}, false);
    moe.stream(rows * double(s.experts) * 4 * 4, rows * double(s.experts) * 4 * 4, 6);  // scores, choices, balance losses
    moe.product({R / own, inner * F, H, own, !even, true}, true), moe.product({R / own, H, F, own, !even, true}, true);
    activation.stream(R * F * 2 * (inner + 1), R * F * 2 * (2 * inner + 1), 1);
    moe.stream((rows + sent) * H * 2, (rows + sent) * H * 2, 3);                    // permute, by rank and expert
    moe.stream((rows * k + rows) * H * 2, (rows * k + 2 * rows) * H * 2, 1);        // unpermute, weighted
    if (own > 1 || m.etp > 1) moe.stream(2 * 2 * R * H * 2, 2 * 2 * R * H * 2, 2);  // sorted by expert, and back
    mlp(moe, double(s.shared_ffn));
  }

  const recompute_rule& again = m.recompute;
  block_time t;
  for (const detail::block_clock* c : {&core, &moe, &norms, &activation, &attention})
    t.forward += c->forward, t.backward += c->backward, t.weight += c->weight;
  if (again.full) t.again = t.forward;
  if (again.has(recompute_part::norms)) t.again += norms.forward;
  if (again.has(recompute_part::activation)) t.again += activation.forward;
  if (again.has(recompute_part::core_attention)) t.again += attention.forward;
  if (again.has(recompute_part::moe) && !dense)
    t.again += moe.forward, t.again += again.has(recompute_part::activation) ? pass_time{} : activation.forward;
  for_each_block_call<Precision>(a, dense, traffic_pass::forward,
                                 [&](const traffic_call& c) { detail::add_call(t.forward, job, cluster, m, c); });
  for_each_block_call<Precision>(a, dense, traffic_pass::backward,
                                 [&](const traffic_call& c) { detail::add_call(t.backward, job, cluster, m, c); });
  return t;
}

}  // namespace moefold
