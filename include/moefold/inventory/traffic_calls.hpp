#pragma once
// What one rank sends, call by call: of one block for one micro-batch, of what a stage has besides its blocks, and once per step. Visitors that make no
// list: inventory/traffic.hpp adds them up to a step's table, the planner to seconds. Routing is even here; inventory/traffic.hpp puts a trace in its place.
//
//   for_each_block_call   attention over tp and cp, router over its sets, dispatch and combine over ep and etp, MLPs over tp
//   for_each_stage_call   embedding, head and loss over tp; between stages over pp
//   for_each_step_call    token counts, gradients and weights over their replicas, numbers over the world
#include <moefold/core/traffic_rule.hpp>
#include <moefold/inventory/activations.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/inventory/scaled_products.hpp>

#include <utility>

namespace moefold {

/// In which half of a micro-batch's work a call is made; forward work that recomputation does once more belongs to backward.
enum class traffic_pass : std::uint8_t { forward, backward };

/// `times` equal calls of one rank. An empty axis set stands for the world.
struct traffic_call {
  axis_set axes{};
  extent_t ranks = 1;
  operation op{};
  extent_t count = 0;  // elements, as core/traffic_rule.hpp reads them; of a v-operation those that leave the rank
  extent_t size = 1;   // bytes of an element
  extent_t times = 1;

  constexpr bool by_rank() const {  // a v-operation: how much goes to whom is up to the routing
    return op == operation::all_gather_v || op == operation::reduce_scatter_v || op == operation::all_to_all_v;
  }
  /// Of all `times` together.
  constexpr extent_t bytes() const {
    return times * extent_t(bytes_sent(op, std::uint64_t(ranks), std::uint64_t(count), std::uint64_t(size)));
  }
  /// Of all `times` together; of a v-operation if every peer gets something.
  constexpr extent_t messages() const {
    if (by_rank()) return count > 0 ? times * (ranks - 1) : 0;
    return times * extent_t(messages_sent(op, std::uint64_t(ranks), std::uint64_t(count)));
  }
};

/// What every layer counts in a step, in this order: load [E]; where it differs, and a loss looks at it, what the scores alone would choose [E];
/// with a capacity the dropped pairs; with balance losses their five sums. Offsets of a layer's numbers, and how many there are.
struct layer_numbers {
  extent_t aux_load = -1, dropped = -1, losses = -1, count = 0;  // -1: not counted

  constexpr explicit layer_numbers(const activation_shape& a) : count(a.model.experts) {
    if (a.corrected() && a.facts.balance.global > 0) aux_load = std::exchange(count, count + a.model.experts);
    if (a.facts.tokens.drops()) dropped = count++;
    if (a.facts.balance.any()) losses = std::exchange(count, count + extent_t(balance_kinds));
  }
};
/// Numbers in the step's one all_reduce over the world: squared norm, loss, stop vote, gradients that are not finite, and what the layers count.
inline constexpr extent_t step_header = 4;
constexpr extent_t step_numbers(const activation_shape& a) { return step_header + a.model.layers * layer_numbers(a).count; }

/// A v-operation of dispatch or combine: what lies between a token and its experts, and how wide a row of it is.
struct row_exchange {
  axis_id over{};  // ep or etp
  operation op{};
  bool to_experts = true;  // dispatch, and combine's backward; else the way back to the tokens
  extent_t width = 0;      // elements of a row
  extent_t size = 0;       // bytes of an element
};

/// Whether the sizes of v-operations depend on the routing: neither all tokens travel, nor is every expert given the same.
constexpr bool travels_by_routing(const activation_shape& a) { return a.facts.dispatch != dispatch_kind::all_gather && !a.padded(); }

/// f(row_exchange) for each exchange of rows of one MoE layer in one pass, without what is recomputed. A row is a pair of token and expert; with the AllGather
/// dispatcher a token, which takes its k choices and weights along.
template <class Precision, class F>
constexpr void for_each_row_exchange(const activation_shape& a, traffic_pass pass, F&& f) {
  using enum operation;
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  constexpr extent_t lanes = acc / t;  // elements of a row that carry one weight or choice
  const bool everybody = a.facts.dispatch == dispatch_kind::all_gather, forward = pass == traffic_pass::forward;
  const extent_t row = a.model.hidden, weights = everybody ? a.model.top_k : 1;  // of a row
  const extent_t there = row + (forward ? lanes * (everybody ? 2 : 1) * weights : 0);
  const extent_t back = row + (forward || (everybody && lanes > 1) ? 0 : lanes * weights);
  const bool apart = !forward && lanes > 1;  // gradients of weights are summed by themselves
  if (everybody) {                           // all tokens, first over etp, then over ep, and their sums back
    f(row_exchange{axis_id::etp, all_gather_v, true, there, t});
    f(row_exchange{axis_id::ep, all_gather_v, true, there, t});
    f(row_exchange{axis_id::ep, reduce_scatter_v, false, back, t});
    f(row_exchange{axis_id::etp, reduce_scatter_v, false, back, t});
    if (!apart) return;
    f(row_exchange{axis_id::ep, reduce_scatter_v, false, weights, acc});
    f(row_exchange{axis_id::etp, reduce_scatter_v, false, weights, acc});
  } else {
    f(row_exchange{axis_id::ep, all_to_all_v, true, there, t});
    f(row_exchange{axis_id::etp, all_gather_v, true, there, t});
    f(row_exchange{axis_id::etp, reduce_scatter_v, false, apart ? row : back, t});
    if (apart) f(row_exchange{axis_id::etp, reduce_scatter_v, false, weights, acc});
    f(row_exchange{axis_id::ep, all_to_all_v, false, back, t});
  }
}

namespace detail {

/// Hands on the calls that are made: not those of a group of one rank, and none that is made zero times.
template <class F>
constexpr auto calls_into(F& f) {
  return [&f](axis_set axes, extent_t ranks, operation op, extent_t count, extent_t size, extent_t times) {
    if (ranks > 1 && times > 0) f(traffic_call{axes, ranks, op, count, size, times});
  };
}

}  // namespace detail

/// f(traffic_call) for what one rank sends with one block, a dense one or one with a MoE layer, for one micro-batch in one pass. Exact, but for
/// v-operations where they travel by the routing: those are of even routing.
template <class Precision, class F>
constexpr void for_each_block_call(const activation_shape& a, bool dense, traffic_pass pass, F&& f) {
  using enum operation;
  using part = recompute_part;
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  constexpr axis_set over_tp = set_of<tag::tp>, over_cp = set_of<tag::cp>, over_ep = set_of<tag::ep>, over_etp = set_of<tag::etp>,
                     over_set = set_of<tag::tp, tag::cp>, over_dense = set_of<tag::tp, tag::cp, tag::dp>;
  const model_shape& m = a.model;
  const extents &attention = a.fold.attention, &moe = a.fold.moe;
  const extent_t tp = attention.of(axis_id::tp), cp = attention.of(axis_id::cp), ep = moe.of(axis_id::ep), etp = moe.of(axis_id::etp);
  const extent_t own = a.own_experts(), rows = a.rows(), tokens = rows * tp, activation = rows * m.hidden;
  const bool backward = pass == traffic_pass::backward;
  const auto call = detail::calls_into(f);

  // how often the forward of each part runs in this pass, and its backward
  const extent_t block = backward ? a.recompute.full : 1, core = backward ? a.recompute.twice(part::core_attention) : 1;
  const extent_t layer = dense ? 0 : backward ? a.recompute.twice(part::moe) : 1;      // the MoE layer
  const extent_t mlp = dense ? block : m.shared_ffn > 0 ? layer : 0, back = backward;  // an MLP over tp
  const extent_t back_mlp = dense || m.shared_ffn > 0 ? back : 0;

  call(over_tp, tp, all_gather, activation, t, block + mlp + 2 * (back + back_mlp));
  call(over_tp, tp, reduce_scatter, activation, t, block + mlp + back + back_mlp);
  if (cp > 1) {
    const extent_t queries = tokens * m.q_width() / tp, keys = tokens * m.kv_width() / tp;  // elements of this rank
    if (a.context.gathers) {
      call(over_cp, cp, all_gather, keys, t, 2 * (core + back));
      call(over_cp, cp, reduce_scatter, keys, t, 2 * back);
    } else {
      const extent_t swap = a.context.swapping(cp), ring = a.context.ring(cp);
      call(over_cp, swap, all_to_all, (queries + 2 * keys) / swap, t, core + back);  // q, k, v; their gradients
      call(over_cp, swap, all_to_all, queries / swap, t, core + back);               // out; its gradient
      call(over_cp, swap, all_to_all, tokens * m.heads / tp / swap, acc, back);      // one number per query and head
      const extent_t steps = (ring - 1) * (core + back);                             // with a block's k and v
      call(over_cp, ring, send, 2 * keys, t, steps);
      call(over_cp, ring, send, 2 * keys, acc, ring * back);  // gradients of k and v, which go all the way round
      call(over_cp, ring, recv, 0, t, steps + ring * back);
    }
  }
  if (dense) return;

  const balance_losses& balance = a.facts.balance;
  const token_rule& rule = a.facts.tokens;
  call(over_set, tp * cp, all_reduce, a.balance_sets() * (m.experts + 1), 8, balance.counts_sets() ? layer : 0);
  call(over_dense, attention.of(over_dense), all_reduce, m.experts, 8, balance.global_running > 0 ? layer : 0);
  const extent_t gathers = rule.drops() && rule.full_sequence ? layer : 0;
  call(over_set, tp * cp, all_gather, rows * (1 + m.top_k), 4, gathers);
  call(over_set, tp * cp, all_gather, rows * m.top_k, acc, rule.by_position ? 0 : gathers);

  const bool everybody = a.facts.dispatch == dispatch_kind::all_gather;
  const extent_t counted = a.padded() ? 0 : layer;
  call(over_ep, ep, everybody ? all_gather : all_to_all, everybody ? etp : own, 8, counted);
  call(over_etp, etp, all_gather, everybody ? 1 : ep * own, 8, counted);
  const extent_t pairs = a.balanced_rows() / etp;  // this rank's; as many come to the experts of its ep rank
  const extent_t leave_ep = everybody ? (ep - 1) * rows * etp : pairs, leave_etp = (etp - 1) * (everybody ? rows : pairs);
  const auto exchange = [&](traffic_pass half, extent_t times) {
    for_each_row_exchange<Precision>(a, half, [&](const row_exchange& x) {
      if (x.over == axis_id::ep)
        call(over_ep, ep, x.op, everybody ? leave_ep * x.width : leave_ep * x.width * (ep - 1) / ep, x.size, times);
      else
        call(over_etp, etp, x.op, leave_etp * x.width, x.size, times);
    });
  };
  exchange(traffic_pass::forward, layer);
  if (backward) exchange(traffic_pass::backward, 1);
}

/// f(traffic_call) for what a rank of `stage` sends besides its blocks for one micro-batch in one pass: embedding, head and loss, and what passes between
/// the chunks of all stages.
template <class Precision, class F>
constexpr void for_each_stage_call(const activation_shape& a, extent_t stage, traffic_pass pass, F&& f) {
  using enum operation;
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  constexpr axis_set over_tp = set_of<tag::tp>, over_pp = set_of<tag::pp>;
  const extent_t tp = a.fold.attention.of(axis_id::tp), pp = a.fold.attention.of(axis_id::pp), chunks = a.fold.layers.chunks;
  const extent_t activation = a.rows() * a.model.hidden, first = stage == 0, last = stage == pp - 1;
  const bool forward = pass == traffic_pass::forward;
  const auto call = detail::calls_into(f);
  call(over_tp, tp, all_gather, activation, t, forward ? last : first + last);
  call(over_tp, tp, all_gather, a.tokens() * 3, acc, forward ? last : 0);  // max, sum, target of every token
  call(over_tp, tp, reduce_scatter, activation, t, forward ? first : last);
  const extent_t up = chunks - last, down = chunks - first;  // chunks with a neighbour above and below
  call(over_pp, pp, send, activation, t, forward ? up : down);
  call(over_pp, pp, recv, 0, t, forward ? down : up);
}

/// f(traffic_call) for what a rank of `stage` sends once per step. bucket: of the parameter store (inventory/parameters.hpp).
template <class Precision, class F>
constexpr void for_each_step_call(const activation_shape& a, extent_t stage, extent_t bucket, F&& f) {
  using enum operation;
  constexpr axis_set over_dense = set_of<tag::tp, tag::cp, tag::dp>;
  constexpr extent_t t = sizeof(typename Precision::storage), reduced = sizeof(typename Precision::reduce);
  const auto call = detail::calls_into(f);
  call(over_dense, a.fold.attention.of(over_dense), all_reduce, 2, 8, 1);  // tokens that count, and that are not padding
  for_each_buffer(a.model, a.fold, stage, bucket, [&](const equal_buffers& b) {
    call(b.placement.replicas(), b.replicas, reduce_scatter, b.shard(), reduced, b.times);
    call(b.placement.replicas(), b.replicas, all_gather, b.shard(), t, b.times);
  });
  call({}, a.fold.world(), all_reduce, step_numbers(a), 8, 1);
  call({}, a.fold.world(), all_reduce, recorded_amaxes<Precision>(a.model), 4, recorded_amaxes<Precision>(a.model) > 0);
}

}  // namespace moefold
