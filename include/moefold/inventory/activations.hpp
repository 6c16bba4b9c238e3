#pragma once
// What one micro-batch keeps between its forward and its backward, tensor by tensor, exactly as the layers take it from their arena; and what a
// rank needs while it works. Rows at the experts depend on the routing: balanced, or the worst that dropless can bring.
//
//   block, per layer      normed x2, h, y [rows, H]; rstd x2 [rows]                                    rows = S/(CP*TP) * B, T = rows * TP
//   attention             q, out [T, heads/TP * d]; k, v [T, kv/TP * d]; lse [heads/TP, T]
//   router, ticket        choices and weights [rows, k]; row and slot maps [rows * k]; counts; batch [R, H], weight [R]
//   experts               gate, up, act [R, F/ETP]
//   stage                 input [rows, H]; last stage: normed [rows, H], rstd [rows], softmax - onehot [T, V/TP]
#include <moefold/inventory/parameters.hpp>

namespace moefold {

/// What the sizes of activations depend on.
struct activation_shape {
  model_shape model{};
  folding_extents fold{};
  extent_t sequence = 0;     // S
  extent_t micro_batch = 1;  // B

  constexpr extent_t rows() const { return sequence / (fold.attention.of(axis_id::cp) * fold.attention.of(axis_id::tp)) * micro_batch; }
  constexpr extent_t tokens() const { return rows() * fold.attention.of(axis_id::tp); }  // T, of the CP part
  constexpr extent_t own_experts() const { return model.experts / fold.moe.of(axis_id::ep); }
  /// Rows at this rank's experts if routing is even: each etp rank sees the rows of all of them.
  constexpr extent_t balanced_rows() const { return rows() * model.top_k * fold.moe.of(axis_id::etp); }
  /// Most rows that dropless routing can send here: every token of ep x etp chooses as many of these experts as it may.
  constexpr extent_t worst_rows() const {
    return rows() * fold.moe.of(axis_id::ep) * fold.moe.of(axis_id::etp) * std::min(model.top_k, own_experts());
  }
};

namespace detail {

/// Adds up pieces of an arena: each is rounded up to its alignment and none is empty.
struct arena_count {
  extent_t bytes = 0;
  constexpr void take(extent_t elements, extent_t size) { bytes += std::max<extent_t>(1, (elements * size + 63) / 64) * 64; }
};

}  // namespace detail

/// Bytes one block keeps for one micro-batch when `arriving` rows arrive at this rank's experts.
template <class Precision>
constexpr extent_t kept_by_block(const activation_shape& a, extent_t arriving) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const model_shape& m = a.model;
  const extent_t rows = a.rows(), tokens = a.tokens(), tp = a.fold.attention.of(axis_id::tp), ep = a.fold.moe.of(axis_id::ep);
  const extent_t etp = a.fold.moe.of(axis_id::etp), own = a.own_experts();
  detail::arena_count keep;
  for (int i = 0; i < 4; ++i) keep.take(rows * m.hidden, t);             // two normed, h, y
  for (int i = 0; i < 2; ++i) keep.take(rows, acc);                      // rstd
  for (int i = 0; i < 2; ++i) keep.take(tokens * m.q_width() / tp, t);   // q, out
  for (int i = 0; i < 2; ++i) keep.take(tokens * m.kv_width() / tp, t);  // k, v
  keep.take(tokens * m.heads / tp, acc);                                 // log-sum-exp
  keep.take(rows * m.top_k, 4);                                          // chosen experts
  keep.take(rows * m.top_k, acc);                                        // their weights
  keep.take(m.experts, 8);                                               // counts
  for (int i = 0; i < 2; ++i) keep.take(rows * m.top_k, 4);              // row of slot, slot of row
  keep.take(etp * ep * own, 8);                                          // counts of all sources
  for (int i = 0; i < 2; ++i) keep.take(ep, 8);                          // rows sent, received
  keep.take(etp, 8);                                                     // rows shared
  keep.take(own + 1, 8);                                                 // offsets
  keep.take(arriving, 4);                                                // order of the batch
  keep.take(arriving * m.hidden, t);                                     // batch
  keep.take(arriving, acc);                                              // its weights
  for (int i = 0; i < 3; ++i) keep.take(arriving * m.ffn / etp, t);      // gate, up, act
  return keep.bytes;
}

/// Bytes a stage keeps for one micro-batch besides its blocks.
template <class Precision>
constexpr extent_t kept_by_stage(const activation_shape& a, extent_t stage) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const extent_t tp = a.fold.attention.of(axis_id::tp);
  detail::arena_count keep;
  keep.take(a.rows() * a.model.hidden, t);  // input, or the embedding
  if (stage == a.fold.attention.of(axis_id::pp) - 1) {
    keep.take(a.rows() * a.model.hidden, t);
    keep.take(a.rows(), acc);
    keep.take(a.tokens() * padded_vocabulary(a.model, tp) / tp, t);
  }
  return keep.bytes;
}

/// Bytes one micro-batch keeps on a stage when every block receives `arriving` rows.
template <class Precision>
constexpr extent_t kept_by_micro_batch(const activation_shape& a, extent_t stage, extent_t arriving) {
  const extent_t layers = stage_layers(a.model.layers, a.fold.attention.of(axis_id::pp), stage).count;
  return kept_by_stage<Precision>(a, stage) + layers * kept_by_block<Precision>(a, arriving);
}

/// An upper bound on the scratch of a rank: the widest point of a MoE layer at worst routing, of attention, and of head and loss, added up.
template <class Precision>
constexpr extent_t scratch_bound(const activation_shape& a) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const model_shape& m = a.model;
  const extent_t tp = a.fold.attention.of(axis_id::tp), cp = a.fold.attention.of(axis_id::cp), slots = a.rows() * m.top_k;
  const extent_t moe = a.worst_rows() * (5 * (m.hidden + 1) + 3 * m.ffn / a.fold.moe.of(axis_id::etp)) + 4 * slots * (m.hidden + 1) +
                       3 * a.rows() * m.experts;
  const extent_t attention = a.tokens() * (3 * m.hidden + (3 * m.q_width() + (4 + 4 * cp) * m.kv_width()) / tp);
  const extent_t loss = a.tokens() * (3 * m.hidden + 3 * (tp + 2));
  return (moe + attention + loss + 4 * a.rows() * m.hidden) * std::max(t, acc) + (extent_t{4} << 20);
}

}  // namespace moefold
