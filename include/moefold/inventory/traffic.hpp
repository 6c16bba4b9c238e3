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
#include <moefold/inventory/traffic_calls.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/group.hpp>

#include <array>
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
    add(traffic_call{axes, ranks, op, count, size, times});
  }
  /// So often.
  void add(const traffic_call& c, extent_t often = 1) {
    put(c.axes, c.ranks, c.op, often * c.times, often * c.messages(), often * c.bytes());
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

/// What `rank` sends in one training step.
///   pairs(layer, micro_batch, source) -> span of E counts: how many pairs of the tokens of rank `source` each expert keeps; read only where
///                                        the shapes depend on them (AllToAll dispatcher, not padded)
///   bucket                               -> of the parameter store (inventory/parameters.hpp)
template <class Precision, class Pairs>
traffic_table step_traffic(const activation_shape& a, extent_t rank, extent_t micro_batches, Pairs&& pairs,
                           extent_t bucket = default_bucket) {
  const model_shape& m = a.model;
  const extents& moe = a.fold.moe;
  const extent_t ep = moe.of(axis_id::ep), etp = moe.of(axis_id::etp), own = a.own_experts(), stage = stage_of(a.fold, rank);
  const extent_t dense = dense_on_stage(m.layers, m.dense_layers, a.fold, stage), blocks = layers_on_stage(m.layers, a.fold, stage);
  const bool routed = travels_by_routing(a);
  constexpr traffic_pass passes[] = {traffic_pass::forward, traffic_pass::backward};
  traffic_table table;
  for (const traffic_pass pass : passes) {
    for (const bool is_dense : {false, true}) {
      const extent_t often = (is_dense ? dense : blocks - dense) * micro_batches;
      for_each_block_call<Precision>(a, is_dense, pass, [&](const traffic_call& c) {
        if (!(routed && c.by_rank())) table.add(c, often);
      });
    }
    for_each_stage_call<Precision>(a, stage, pass, [&](const traffic_call& c) { table.add(c, micro_batches); });
  }
  for_each_step_call<Precision>(a, stage, bucket, [&](const traffic_call& c) { table.add(c); });
  if (!routed) return table;

  // v-operations of the AllToAll dispatcher: the rows that the choices make travel
  constexpr axis_set over_ep = set_of<tag::ep>, over_etp = set_of<tag::etp>;
  const group ep_group = group_of(moe, over_ep, rank), etp_group = group_of(moe, over_etp, rank);
  const extent_t ep_rank = ep_group.index_of(rank), etp_rank = etp_group.index_of(rank);
  const auto rows_between = [&](std::span<const std::int64_t> choices, extent_t to) {  // rows one source sends to ep rank `to`
    std::size_t rows = 0;
    for (extent_t expert = to * own; expert < (to + 1) * own; ++expert) rows += std::size_t(choices[std::size_t(expert)]);
    return rows;
  };
  std::vector<std::size_t> sent(static_cast<std::size_t>(ep)), received(sent), shared(static_cast<std::size_t>(etp)), elements;
  for_each_layer(m.layers, a.fold, stage, [&](extent_t layer) {
    for (extent_t micro = 0; micro < micro_batches && !m.dense(layer); ++micro) {
      for (extent_t p = 0; p < ep; ++p) {
        sent[std::size_t(p)] = rows_between(pairs(layer, micro, rank), p);
        received[std::size_t(p)] = rows_between(pairs(layer, micro, ep_group[p]), ep_rank);
      }
      for (extent_t q = 0; q < etp; ++q) {
        shared[std::size_t(q)] = 0;
        for (extent_t source : group_of(moe, over_ep, etp_group[q]))
          shared[std::size_t(q)] += rows_between(pairs(layer, micro, source), ep_rank);
      }
      const auto travel = [&](const row_exchange& x) {
        const bool over_experts = x.over == axis_id::ep;
        elements = !over_experts ? shared : x.to_experts ? sent : received;
        for (std::size_t& e : elements) e *= std::size_t(x.width);
        table.add_v(over_experts ? over_ep : over_etp, x.op, over_experts ? ep_rank : etp_rank, elements, x.size);
      };
      for (int again = 0; again < (a.recompute.twice(recompute_part::moe) ? 2 : 1); ++again)
        for_each_row_exchange<Precision>(a, traffic_pass::forward, travel);
      for_each_row_exchange<Precision>(a, traffic_pass::backward, travel);
    }
  });
  return table;
}

}  // namespace moefold
