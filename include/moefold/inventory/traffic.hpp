#pragma once
// Everything that travels in one training step, as one rank sends it: axis x operation -> calls, messages, bytes. The recording communicator
// measures the same table; the tests hold the two equal, and the planner reads this one. Counting rule: core/traffic_rule.hpp.
//
//   axis         per block and micro-batch (forward | backward)                               per step
//   tp           all_gather 1 | 2, reduce_scatter 1 | 1       [rows, H]                       embedding and head, per micro-batch
//   cp           all_gather 2 | 2, reduce_scatter 0 | 2       [T, kv/TP * d]                  cp_all_gather
//                all_to_all 2 | 3 of q + 2k, q | q, 1 per head, q + 2k                        cp_all_to_all
//                send and recv CP-1 | 2 CP-1 of 2k (gradients in accumulate_t)                cp_ring
//   tp           with a shared expert, and in a dense layer, which has nothing of the MoE layer's, the same once more
//   tp x cp      all_reduce 1 | 0 of B' (E + 1) counts        balance losses over sets
//                all_gather 2 | 0 of [rows, 1 + k], [rows, k] full-sequence dropping (by position the first alone)
//   tp x cp x dp all_reduce 1 | 0 of E counts                 running balance loss
//   ep           all_to_all 1 | 0 counts, all_to_all_v 2 | 2  rows x (H+1), H | H, H+1        AllToAll dispatcher; padded: no counts
//   etp          all_gather 1 | 0 counts, all_gather_v 1 | 1, reduce_scatter_v 1 | 1
//   etp, ep      all_gather 1 | 0 counts, all_gather_v 1 | 1, reduce_scatter_v 1 | 1          AllGather: tokens x (H+2k), H | H, H+k
//   ep, etp, narrow storage: a weight or choice takes w = acc/storage elements of a row (H+w, H+2kw);
//                in dispatch's backward dp is reduced apart, in acc
//   what core/recompute.hpp recomputes has its forward traffic twice
//   pp           send and recv of [rows, H] along and against the stages
//   tp x cp x dp                                                                              all_reduce of the token counts
//   replicas                                                                                  reduce_scatter of gradients, all_gather of parameters
//   world                                                                                     all_reduce of norm, loss, stop vote and what layers count
//                                                                                             all_reduce of amaxes, where scales look back
#include <moefold/core/traffic_rule.hpp>
#include <moefold/inventory/activations.hpp>
#include <moefold/inventory/scaled_products.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/group.hpp>

#include <array>
#include <utility>
#include <vector>

namespace moefold {

/// One cell of the table. An empty axis set stands for the world.
struct traffic_cell {
  axis_set axes{};
  operation op{};
  std::uint64_t calls = 0, messages = 0, bytes = 0;

  std::string axis() const { return axes.empty() ? "world" : axes.name(); }
};

/// The table of one rank. Cells appear in the order of first use; groups of one rank have none.
class traffic_table {
 public:
  void add(axis_set axes, extent_t ranks, operation op, extent_t count, extent_t size, extent_t times = 1) {
    put(axes, ranks, op, times, times * extent_t(messages_sent(op, std::uint64_t(ranks), std::uint64_t(count))),
        times * extent_t(bytes_sent(op, std::uint64_t(ranks), std::uint64_t(count), std::uint64_t(size))));
  }
  /// A v-operation: `counts` in elements, as core/traffic_rule.hpp reads them.
  void add_v(axis_set axes, operation op, extent_t rank, std::span<const std::size_t> counts, extent_t size) {
    put(axes, extent_t(counts.size()), op, 1, extent_t(messages_sent(op, std::size_t(rank), counts)),
        extent_t(elements_leaving(op, std::size_t(rank), counts)) * size);
  }
  const std::vector<traffic_cell>& cells() const { return cells_; }

 private:
  void put(axis_set axes, extent_t ranks, operation op, extent_t calls, extent_t messages, extent_t bytes) {
    if (ranks <= 1 || calls == 0) return;
    auto cell = cells_.begin();
    while (cell != cells_.end() && !(cell->axes == axes && cell->op == op)) ++cell;
    if (cell == cells_.end()) cell = cells_.insert(cell, traffic_cell{axes, op});
    cell->calls += std::uint64_t(calls);
    cell->messages += std::uint64_t(messages);
    cell->bytes += std::uint64_t(bytes);
  }
  std::vector<traffic_cell> cells_;
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

/// What `rank` sends in one training step.
///   pairs(layer, micro_batch, source) -> span of E counts: how many pairs of the tokens of rank `source` each expert keeps; read only where
///                                        the shapes depend on them (AllToAll dispatcher, not padded)
///   bucket                               -> of the parameter store (inventory/parameters.hpp)
template <class Precision, class Pairs>
traffic_table step_traffic(const activation_shape& a, extent_t rank, extent_t micro_batches, Pairs&& pairs,
                           extent_t bucket = default_bucket) {
  using enum operation;
  const model_shape& m = a.model;
  const extents &attention = a.fold.attention, &moe = a.fold.moe;
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  constexpr axis_set over_tp = set_of<tag::tp>, over_cp = set_of<tag::cp>, over_pp = set_of<tag::pp>, over_ep = set_of<tag::ep>,
                     over_etp = set_of<tag::etp>, over_set = set_of<tag::tp, tag::cp>, dense = set_of<tag::tp, tag::cp, tag::dp>;
  const extent_t tp = attention.of(axis_id::tp), cp = attention.of(axis_id::cp), pp = attention.of(axis_id::pp);
  const extent_t ep = moe.of(axis_id::ep), etp = moe.of(axis_id::etp), own = a.own_experts();
  const extent_t stage = stage_of(a.fold, rank);
  const extent_t layers = layers_on_stage(m.layers, a.fold, stage), chunks = a.fold.layers.chunks;
  const bool first = stage == 0, last = stage == pp - 1;
  const extent_t activation = a.rows() * m.hidden;
  traffic_table table;

  table.add(dense, attention.of(dense), all_reduce, 2, 8);  // tokens that count, and that are not padding

  const extent_t blocks = layers * micro_batches, dense_blocks = dense_on_stage(m.layers, m.dense_layers, a.fold, stage) * micro_batches;
  const extent_t moes = blocks - dense_blocks;  // blocks with a MoE layer
  using part = recompute_part;
  const extent_t blocks_again = a.recompute.full ? blocks : 0, cores_again = a.recompute.twice(part::core_attention) ? blocks : 0,
                 moes_again = a.recompute.twice(part::moe) ? moes : 0;
  const extent_t shared_blocks = (m.shared_ffn > 0 ? moes : 0) + dense_blocks,  // MLPs over tp
      shared_again = (m.shared_ffn > 0 ? moes_again : 0) + (a.recompute.full ? dense_blocks : 0);
  table.add(over_tp, tp, all_gather, activation, t,
            3 * (blocks + shared_blocks) + blocks_again + shared_again + micro_batches * (extent_t(first) + 2 * extent_t(last)));
  table.add(over_tp, tp, all_gather, a.tokens() * 3, acc, micro_batches * extent_t(last));  // max, sum, target of every token
  table.add(over_tp, tp, reduce_scatter, activation, t,
            2 * (blocks + shared_blocks) + blocks_again + shared_again + micro_batches * (extent_t(first) + extent_t(last)));
  const extent_t queries = a.tokens() * m.q_width() / tp, keys = a.tokens() * m.kv_width() / tp;  // elements of this rank
  if (a.context.gathers) {
    table.add(over_cp, cp, all_gather, keys, t, 4 * blocks + 2 * cores_again);
    table.add(over_cp, cp, reduce_scatter, keys, t, 2 * blocks);
  } else {
    const extent_t swap = a.context.swapping(cp), ring = a.context.ring(cp);
    table.add(over_cp, swap, all_to_all, (queries + 2 * keys) / swap, t, 2 * blocks + cores_again);  // q, k, v; their gradients
    table.add(over_cp, swap, all_to_all, queries / swap, t, 2 * blocks + cores_again);               // out; its gradient
    table.add(over_cp, swap, all_to_all, a.tokens() * m.heads / tp / swap, acc, blocks);             // one number per query and head
    const extent_t steps = (ring - 1) * (2 * blocks + cores_again);                                  // with a block's k and v
    table.add(over_cp, ring, send, 2 * keys, t, steps);
    table.add(over_cp, ring, send, 2 * keys, acc, ring * blocks);  // gradients of k and v, which go all the way round
    table.add(over_cp, ring, recv, 0, t, steps + ring * blocks);
  }
  const balance_losses& balance = a.facts.balance;
  const token_rule& tokens = a.facts.tokens;
  table.add(over_set, tp * cp, all_reduce, a.balance_sets() * (m.experts + 1), 8, balance.counts_sets() ? moes + moes_again : 0);
  table.add(dense, attention.of(dense), all_reduce, m.experts, 8, balance.global_running > 0 ? moes + moes_again : 0);
  const extent_t gathers = tokens.drops() && tokens.full_sequence ? moes + moes_again : 0;
  table.add(over_set, tp * cp, all_gather, a.rows() * (1 + m.top_k), 4, gathers);
  table.add(over_set, tp * cp, all_gather, a.rows() * m.top_k, acc, tokens.by_position ? 0 : gathers);
  constexpr extent_t lanes = acc / t;  // elements of a row that carry one weight or choice
  const bool everybody = a.facts.dispatch == dispatch_kind::all_gather;
  const extent_t counted = a.padded() ? 0 : moes + moes_again;
  table.add(over_ep, ep, everybody ? all_gather : all_to_all, everybody ? etp : own, 8, counted);
  table.add(over_etp, etp, all_gather, everybody ? 1 : ep * own, 8, counted);

  // v-operations: the rows that the choices make travel
  const group ep_group = group_of(moe, over_ep, rank), etp_group = group_of(moe, over_etp, rank);
  const extent_t ep_rank = ep_group.index_of(rank), etp_rank = etp_group.index_of(rank);
  const auto rows_between = [&](std::span<const std::int64_t> choices, extent_t to) {  // rows one source sends to ep rank `to`
    std::size_t rows = 0;
    for (extent_t expert = to * own; expert < (to + 1) * own; ++expert) rows += std::size_t(choices[std::size_t(expert)]);
    return rows;
  };
  std::vector<std::size_t> sent(static_cast<std::size_t>(ep)), received(sent), shared(static_cast<std::size_t>(etp)), elements;
  const auto wide = [&](const std::vector<std::size_t>& rows, extent_t width) -> std::span<const std::size_t> {
    elements = rows;
    for (std::size_t& r : elements) r *= std::size_t(width);
    return elements;
  };
  if (everybody) {  // the AllGather dispatcher: all tokens, first over etp, then over ep, and their sums back
    const std::vector<std::size_t> inner(shared.size(), std::size_t(a.rows())), outer(sent.size(), std::size_t(a.rows() * etp));
    const auto gather = [&](extent_t width) {
      table.add_v(over_etp, all_gather_v, etp_rank, wide(inner, width), t);
      table.add_v(over_ep, all_gather_v, ep_rank, wide(outer, width), t);
    };
    const auto scatter = [&](extent_t width, extent_t size) {
      table.add_v(over_ep, reduce_scatter_v, ep_rank, wide(outer, width), size);
      table.add_v(over_etp, reduce_scatter_v, etp_rank, wide(inner, width), size);
    };
    for (extent_t forward = 0; forward < moes + moes_again; ++forward) gather(m.hidden + 2 * m.top_k * lanes), scatter(m.hidden, t);
    for (extent_t backward = 0; backward < moes; ++backward) {
      gather(m.hidden), scatter(m.hidden + (lanes == 1 ? m.top_k : 0), t);
      if (lanes > 1) scatter(m.top_k, acc);
    }
  }
  const std::vector<std::int64_t> filled(std::size_t(m.experts), a.rows_of_source());
  const auto rows_of = [&](extent_t layer, extent_t micro, extent_t source) -> std::span<const std::int64_t> {
    if (a.padded()) return filled;
    return pairs(layer, micro, source);
  };
  for_each_layer(m.layers, a.fold, stage, [&](extent_t layer) {
    for (extent_t micro = 0; micro < micro_batches && !everybody && !m.dense(layer); ++micro) {
      for (extent_t p = 0; p < ep; ++p) {
        sent[std::size_t(p)] = rows_between(rows_of(layer, micro, rank), p);
        received[std::size_t(p)] = rows_between(rows_of(layer, micro, ep_group[p]), ep_rank);
      }
      for (extent_t q = 0; q < etp; ++q) {
        shared[std::size_t(q)] = 0;
        for (extent_t source : group_of(moe, over_ep, etp_group[q]))
          shared[std::size_t(q)] += rows_between(rows_of(layer, micro, source), ep_rank);
      }
      const auto to_experts = [&](extent_t width) {
        table.add_v(over_ep, all_to_all_v, ep_rank, wide(sent, width), t);
        table.add_v(over_etp, all_gather_v, etp_rank, wide(shared, width), t);
      };
      const auto to_tokens = [&](extent_t width) {
        const bool apart = lanes > 1 && width != m.hidden;  // dp is summed by itself
        table.add_v(over_etp, reduce_scatter_v, etp_rank, wide(shared, apart ? m.hidden : width), t);
        if (apart) table.add_v(over_etp, reduce_scatter_v, etp_rank, wide(shared, 1), acc);
        table.add_v(over_ep, all_to_all_v, ep_rank, wide(received, width), t);
      };
      const extent_t row = m.hidden, weighted = m.hidden + lanes;
      for (int forward = 0; forward < (moes_again > 0 ? 2 : 1); ++forward) to_experts(weighted), to_tokens(row);
      to_experts(row), to_tokens(weighted);
    }
  });

  const extent_t boundaries = micro_batches * (2 * chunks - extent_t(first) - extent_t(last));  // every chunk sends up and down
  table.add(over_pp, pp, send, activation, t, boundaries);
  table.add(over_pp, pp, recv, 0, t, boundaries);

  const parameter_buffers buffers = buffers_of(m, a.fold, stage, bucket);
  for (int i = 0; i < buffers.count; ++i) {
    const parameter_buffer& b = buffers.buffer[std::size_t(i)];
    table.add(b.placement.replicas(), b.replicas, reduce_scatter, b.shard(), sizeof(typename Precision::reduce));
    table.add(b.placement.replicas(), b.replicas, all_gather, b.shard(), t);
  }
  table.add({}, a.fold.world(), all_reduce, step_numbers(a), 8);
  table.add({}, a.fold.world(), all_reduce, recorded_amaxes<Precision>(m), 4, recorded_amaxes<Precision>(m) > 0 ? 1 : 0);
  return table;
}

}  // namespace moefold
