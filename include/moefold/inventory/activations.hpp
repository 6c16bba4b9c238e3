#pragma once
// What one micro-batch keeps between its forward and its backward, tensor by tensor, exactly as the layers take it from their arena; and what a
// rank needs while it works. Rows at the experts depend on the routing: balanced, or the worst that dropless can bring.
//
//   block, per layer      normed x2, h, y [rows, H]; rstd x2 [rows]                                    rows = S/(CP*TP) * B, T = rows * TP
//   attention             q, out [T, heads/TP * d]; k, v [T, kv/TP * d]; lse [heads/TP, T]; with qk_norm q and k once more, rstd [T, heads/TP], [T, kv/TP]
//   router                choices and weights [rows, k]; logits [rows, E]; load [E]; pull [B or 1, E], losses [5]; with a capacity the kept choices [rows, k] and
//                         how many were dropped
//   ticket                row and slot maps, counts; batch [R, H], weight [R]
//   experts               gate, up, act [R, F/ETP]            shared expert   gate, up, act [T, Fs/TP]; its gate's z [rows, H], opening [rows]
//   dense layers          in place of router to experts: gate, up, act [T, Fd/TP]
//   stage                 input [rows, H]; last stage: normed [rows, H], rstd [rows], softmax - onehot [T, V/TP], in accumulate_t as logits are
#include <moefold/core/context_facts.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/inventory/scaled_products.hpp>

namespace moefold {

/// What the sizes of activations depend on.
struct activation_shape {
  model_shape model{};
  folding_extents fold{};
  extent_t sequence = 0;     // S
  extent_t micro_batch = 1;  // B
  moe_facts facts{};         // the MoE layers' choices
  recompute_rule recompute{};
  context_facts context{};  // how attention reaches other context-parallel ranks

  constexpr extent_t rows() const { return sequence / (fold.attention.of(axis_id::cp) * fold.attention.of(axis_id::tp)) * micro_batch; }
  constexpr extent_t tokens() const { return rows() * fold.attention.of(axis_id::tp); }  // T, of the CP part
  constexpr extent_t own_experts() const { return model.experts / fold.moe.of(axis_id::ep); }
  /// Ranks whose tokens can come to this rank's experts.
  constexpr extent_t sources() const { return fold.moe.of(axis_id::ep) * fold.moe.of(axis_id::etp); }
  /// Rows an expert can get of one source rank: all its tokens, or what the capacity leaves.
  constexpr extent_t rows_of_source() const {
    const extent_t set = facts.tokens.full_sequence ? sequence * micro_batch : rows();
    return facts.tokens.drops() ? facts.tokens.padded_rows(rows(), set, model.top_k, model.experts) : rows();
  }
  constexpr bool padded() const { return facts.tokens.drops() && facts.tokens.padded; }
  /// Rows at this rank's experts if routing is even: each etp rank sees the rows of all of them.
  constexpr extent_t balanced_rows() const {
    return padded() ? worst_rows() : std::min(rows() * model.top_k * fold.moe.of(axis_id::etp), worst_rows());
  }
  /// Most rows that routing can send here: every token of ep x etp chooses as many of these experts as it may, and as the capacity allows.
  constexpr extent_t worst_rows() const {
    const extent_t full = own_experts() * sources() * rows_of_source();
    return padded() ? full : std::min(full, rows() * sources() * std::min(model.top_k, own_experts()));
  }
  /// Rows this rank sends, fillers included, at most.
  constexpr extent_t sent_rows() const { return padded() ? model.experts * rows_of_source() : rows() * model.top_k; }
  /// Whether the router's choices may differ from those of its scores alone: then both are counted.
  constexpr bool corrected() const { return model.expert_bias || model.chosen_groups < model.expert_groups; }
  constexpr extent_t balance_sets() const { return facts.balance.sequence > 0 ? micro_batch : 1; }
};

namespace detail {

/// Adds up pieces of an arena: each is rounded up to its alignment and none is empty.
struct arena_count {
  extent_t bytes = 0;
  constexpr void take(extent_t elements, extent_t size) { bytes += std::max<extent_t>(1, (elements * size + 63) / 64) * 64; }
};

}  // namespace detail

/// What a block takes for one micro-batch: kept from forward to backward, and taken anew in either pass, for its duration, by what is recomputed.
struct block_memory {
  extent_t kept = 0, again = 0;  // bytes
};

/// Of a block when `arriving` rows arrive at this rank's experts; of a dense one.
template <class Precision>
constexpr block_memory memory_of_block(const activation_shape& a, extent_t arriving, bool dense = false) {
  using enum recompute_part;
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const model_shape& m = a.model;
  const extent_t rows = a.rows(), tokens = a.tokens(), tp = a.fold.attention.of(axis_id::tp), ep = a.fold.moe.of(axis_id::ep);
  const extent_t etp = a.fold.moe.of(axis_id::etp), own = a.own_experts();
  detail::arena_count kept, again;
  kept.take(rows * m.hidden, t);  // y
  detail::arena_count& block = a.recompute.full ? again : kept;
  for (int i = 0; i < 2; ++i) (a.recompute.twice(norms) ? again : kept).take(rows * m.hidden, t);  // normed
  block.take(rows * m.hidden, t);                                                                  // h
  for (int i = 0; i < 2; ++i) block.take(rows, acc);                                               // rstd
  block.take(tokens * m.q_width() / tp, t);                                                        // q
  for (int i = 0; i < 2; ++i) block.take(tokens * m.kv_width() / tp, t);                           // k, v
  if (m.qk_norm)
    for (const extent_t heads : {m.heads / tp, m.kv_heads / tp})
      block.take(tokens * heads * m.head_dim, t), block.take(tokens * heads, acc);
  if (!a.recompute.has(core_attention)) {
    block.take(tokens * m.q_width() / tp, t);  // out
    block.take(tokens * m.heads / tp, acc);    // log-sum-exp
  }
  const int inner = (m.activation == activation_function::swiglu ? 3 : 2) - int(a.recompute.has(activation));  // gate, up, act
  if (dense) {
    for (int i = 0; i < inner; ++i) block.take(tokens * m.dense_ffn / tp, t);
    return {kept.bytes, again.bytes};
  }
  const auto counted = [&a](detail::arena_count& to) {
    if (a.facts.balance.any()) to.take(extent_t(balance_kinds), 8);                 // sums of the losses
    if (a.facts.tokens.drops()) to.take(1, 8);                                      // dropped pairs
    for (int i = 0; i < (a.corrected() ? 2 : 1); ++i) to.take(a.model.experts, 8);  // load
  };
  if (a.recompute.twice(moe)) counted(kept);  // once more
  detail::arena_count& keep = a.recompute.twice(moe) ? again : kept;
  keep.take(rows * m.top_k, 4);      // chosen experts
  keep.take(rows * m.top_k, acc);    // their weights
  keep.take(rows * m.experts, acc);  // logits
  counted(keep);
  if (a.facts.balance.any()) keep.take(a.balance_sets() * m.experts, acc);  // pull
  if (a.facts.tokens.drops()) keep.take(rows * m.top_k, 4);                 // kept experts
  if (a.facts.dispatch == dispatch_kind::all_gather) {
    keep.take(etp, 8), keep.take(ep, 8);       // tokens of the peers
    keep.take(own, 8), keep.take(own + 1, 8);  // counts, offsets
    keep.take(rows * ep * etp * m.top_k, 4);   // row of slot
    keep.take(arriving, 4);                    // slot of row
  } else {
    keep.take(m.experts, 8);                                    // counts
    keep.take(rows * m.top_k, 4), keep.take(a.sent_rows(), 4);  // row of slot, slot of row
    keep.take(etp * ep * own, 8);                               // counts of all sources
    for (int i = 0; i < 2; ++i) keep.take(ep, 8);               // rows sent, received
    keep.take(etp, 8);                                          // rows shared
    keep.take(own + 1, 8), keep.take(own * ep, 8);              // offsets, first rows
    keep.take(arriving, 4);                                     // order of the batch
  }
  keep.take(arriving * m.hidden, t);  // batch
  keep.take(arriving, acc);           // its weights
  for (int i = 0; i < inner; ++i) keep.take(arriving * m.ffn / etp, t);
  if (m.shared_ffn > 0) {
    for (int i = 0; i < inner; ++i) keep.take(tokens * m.shared_ffn / tp, t);
    if (m.shared_gate) keep.take(rows * m.hidden, t), keep.take(rows, acc);
  }
  return {kept.bytes, again.bytes};
}

/// Bytes one block with a MoE layer keeps for one micro-batch when `arriving` rows arrive at this rank's experts.
template <class Precision>
constexpr extent_t kept_by_block(const activation_shape& a, extent_t arriving) {
  return memory_of_block<Precision>(a, arriving).kept;
}
/// Bytes a rank needs besides, once, for what is recomputed: of one block at a time.
template <class Precision>
constexpr extent_t recomputed_by_block(const activation_shape& a, extent_t arriving) {
  const extent_t moe = a.model.moe_layers() > 0 ? memory_of_block<Precision>(a, arriving).again : 0;
  return a.model.dense_layers > 0 ? std::max(moe, memory_of_block<Precision>(a, arriving, true).again) : moe;
}

/// Bytes a chunk keeps for one micro-batch besides its blocks: its input, or the embedding.
template <class Precision>
constexpr extent_t kept_by_chunk_input(const activation_shape& a) {
  detail::arena_count keep;
  keep.take(a.rows() * a.model.hidden, sizeof(typename Precision::storage));
  return keep.bytes;
}
/// Bytes that head and loss keep for one micro-batch, on the last stage; there are as many places for them as its schedule keeps micro-batches alive in the
/// last chunk.
template <class Precision>
constexpr extent_t kept_by_head(const activation_shape& a) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const extent_t tp = a.fold.attention.of(axis_id::tp);
  detail::arena_count keep;
  keep.take(a.rows() * a.model.hidden, t);
  keep.take(a.rows(), acc);
  keep.take(a.tokens() * padded_vocabulary(a.model, tp) / tp, acc);
  return keep.bytes;
}

/// Bytes one micro-batch keeps in one chunk of a stage between backward_input and backward_weight: the factors dy and x of every weight gradient
/// (layers/deferred.hpp), when every block receives `arriving` rows.
template <class Precision>
constexpr extent_t deferred_by_chunk(const activation_shape& a, extent_t stage, extent_t chunk, extent_t arriving) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const model_shape& m = a.model;
  const extent_t tokens = a.tokens(), tp = a.fold.attention.of(axis_id::tp), etp = a.fold.moe.of(axis_id::etp);
  const bool gated = m.activation == activation_function::swiglu;
  const layer_range layers = chunk_layers(m.layers, a.fold, stage, chunk);
  const extent_t dense_blocks = dense_in(layers, m.dense_layers);
  detail::arena_count attention, block, dense, rest;  // block: the MoE layer
  const auto product = [&](detail::arena_count& to, extent_t rows, extent_t one, extent_t other) {
    if (rows > 0) to.take(rows * one, t), to.take(rows * other, t);
  };
  for (const extent_t width : {m.q_width(), m.q_width(), m.kv_width(), m.kv_width()}) product(attention, tokens, width / tp, m.hidden);
  block.take(a.rows() * m.experts, acc), block.take(a.rows() * m.hidden, t);  // router
  for (int i = 0; i < (gated ? 3 : 2); ++i) {                                 // experts
    product(block, arriving, m.hidden, m.ffn / etp);
    product(dense, tokens, m.hidden, m.dense_ffn / tp);
    block.take(a.own_experts() + 1, 8);
    if (m.shared_ffn > 0) product(block, tokens, m.hidden, m.shared_ffn / tp);
  }
  if (stage == a.fold.attention.of(axis_id::pp) - 1 && chunk == a.fold.layers.chunks - 1)
    rest.take(tokens * padded_vocabulary(m, tp) / tp, acc), rest.take(tokens * m.hidden, t);
  return rest.bytes + layers.count * attention.bytes + (layers.count - dense_blocks) * block.bytes + dense_blocks * dense.bytes;
}

/// The same of the stage's chunk that keeps most: what is set aside for each pair that a schedule keeps alive.
template <class Precision>
constexpr extent_t deferred_by_micro_batch(const activation_shape& a, extent_t stage, extent_t arriving) {
  extent_t most = 0;
  for (extent_t c = 0; c < a.fold.layers.chunks; ++c) most = std::max(most, deferred_by_chunk<Precision>(a, stage, c, arriving));
  return most;
}

/// Bytes that a block of each kind keeps for one micro-batch: the same on every stage.
struct kept_bytes {
  extent_t moe = 0, dense = 0;
};
template <class Precision>
constexpr kept_bytes kept_by_blocks(const activation_shape& a, extent_t arriving) {
  return {a.model.moe_layers() > 0 ? kept_by_block<Precision>(a, arriving) : 0,
          a.model.dense_layers > 0 ? memory_of_block<Precision>(a, arriving, true).kept : 0};
}

/// Bytes one micro-batch keeps in one chunk of a stage, head and loss aside.
template <class Precision>
constexpr extent_t kept_by_chunk(const activation_shape& a, extent_t stage, extent_t chunk, const kept_bytes& block) {
  const layer_range own = chunk_layers(a.model.layers, a.fold, stage, chunk);
  const extent_t dense = dense_in(own, a.model.dense_layers);
  return kept_by_chunk_input<Precision>(a) + (own.count - dense) * block.moe + dense * block.dense;
}

/// The same of the stage's largest chunk: what is set aside for each pair that a schedule keeps alive.
template <class Precision>
constexpr extent_t kept_by_micro_batch(const activation_shape& a, extent_t stage, const kept_bytes& block) {
  extent_t most = 0;
  for (extent_t c = 0; c < a.fold.layers.chunks; ++c) most = std::max(most, kept_by_chunk<Precision>(a, stage, c, block));
  return most;
}
/// When every block receives `arriving` rows.
template <class Precision>
constexpr extent_t kept_by_micro_batch(const activation_shape& a, extent_t stage, extent_t arriving) {
  return kept_by_micro_batch<Precision>(a, stage, kept_by_blocks<Precision>(a, arriving));
}

namespace detail {

/// Elements that the largest product of a rank widens where storage is narrower than its accumulate type: both inputs and the
/// output (ops/gemm.hpp).
constexpr extent_t widened_elements(const activation_shape& a, extent_t arriving) {
  const model_shape& m = a.model;
  const extent_t tp = a.fold.attention.of(axis_id::tp);
  const auto product = [&](extent_t rows, extent_t width) { return rows * m.hidden + width * m.hidden + rows * width; };
  return std::max({product(a.tokens(), m.q_width() / tp), product(a.tokens(), m.kv_width() / tp),
                   product(a.tokens(), padded_vocabulary(m, tp) / tp), product(a.tokens(), std::max(m.shared_ffn, m.dense_ffn) / tp),
                   product(a.rows(), m.experts), product(arriving, m.ffn / a.fold.moe.of(axis_id::etp))});
}

/// Elements of the quantised copies of the largest product whose inputs are 8-bit values: x, dy and W, of all local experts (layers/scaled_product.hpp).
constexpr extent_t quantised_elements(const activation_shape& a, extent_t arriving) {
  const model_shape& m = a.model;
  const extent_t tp = a.fold.attention.of(axis_id::tp), tokens = a.tokens(), ffn = m.ffn / a.fold.moe.of(axis_id::etp);
  const auto product = [&](extent_t rows, extent_t width, extent_t count) { return rows * (m.hidden + width) + count * width * m.hidden; };
  return std::max({product(tokens, m.q_width() / tp, 1), product(tokens, m.kv_width() / tp, 1),
                   product(tokens, std::max(m.shared_ffn, m.dense_ffn) / tp, 1), product(arriving, ffn, a.own_experts())});
}

}  // namespace detail

/// What a rank takes for as long as one operation needs it, in elements: upper bounds of the places that need most, when `arriving` rows arrive.
struct scratch_elements {
  extent_t moe = 0, attention = 0, loss = 0;  // one of them at a time; moe: or a dense layer
  extent_t block = 0;                         // what surrounds them
  extent_t again = 0;                         // recomputed, beside them
  extent_t widened = 0, quantised = 0;        // copies of one product's inputs and output

  constexpr extent_t sum() const { return moe + attention + loss + block + again + widened + quantised; }
};
template <class Precision>
constexpr scratch_elements scratch_of(const activation_shape& a, extent_t arriving) {
  constexpr extent_t t = sizeof(typename Precision::storage), acc = sizeof(typename Precision::accumulate);
  const model_shape& m = a.model;
  const extent_t tp = a.fold.attention.of(axis_id::tp), cp = a.fold.attention.of(axis_id::cp), rows = a.rows(), k = m.top_k;
  const extent_t slots = std::max(a.sent_rows(), rows * k), everybody = rows * a.sources();
  const extent_t experts = arriving * (5 * (m.hidden + 1) + 3 * m.ffn / a.fold.moe.of(axis_id::etp));
  const extent_t travel = a.facts.dispatch == dispatch_kind::all_gather ? 4 * everybody * (m.hidden + 4 * k) : 4 * slots * (m.hidden + 1);
  const extent_t router = rows * (4 * m.experts + 2 * m.hidden + 3 * k) + (a.balance_sets() + 4) * 4 * (m.experts + 1);
  const extent_t dropping = a.facts.tokens.drops() ? (a.facts.tokens.full_sequence ? tp * cp : 1) * rows * (7 * k + 3) : 0;
  const extent_t mlp = std::max(m.shared_ffn, m.dense_ffn);
  const extent_t shared = mlp > 0 ? a.tokens() * (3 * m.hidden + 3 * mlp / tp + 2) + 4 * rows * m.hidden : 0;
  scratch_elements needs;
  needs.moe = experts + travel + router + dropping + shared;
  needs.attention = a.tokens() * (3 * m.hidden + (3 * m.q_width() + (a.context.gathers ? 4 + 4 * cp : 24) * m.kv_width()) / tp) +
                    (a.context.gathers ? 0 : a.tokens() * (10 * m.q_width() + 6 * m.heads) / tp);
  needs.loss = a.tokens() * (3 * m.hidden + 3 * (tp + 2));
  needs.block = 4 * rows * m.hidden;
  needs.widened = t < acc ? detail::widened_elements(a, arriving) : 0;
  needs.quantised = quantising_policy<Precision> ? detail::quantised_elements(a, arriving) : 0;
  if (a.recompute.any())  // an output nobody reads, out and log-sum-exp, activations
    needs.again = rows * m.hidden + a.tokens() * (2 * m.q_width() + 2 * m.kv_width() + m.heads + mlp) / tp +
                  arriving * m.ffn / a.fold.moe.of(axis_id::etp);
  return needs;
}

/// Bytes set aside for the scratch of a rank: at worst routing, and as if all places needed theirs at once and every element were as wide as the widest.
template <class Precision>
constexpr extent_t scratch_bound(const activation_shape& a) {
  constexpr extent_t widest = std::max(sizeof(typename Precision::storage), sizeof(typename Precision::accumulate));
  return scratch_of<Precision>(a, a.worst_rows()).sum() * widest + (extent_t{4} << 20);
}

/// Bytes of scratch that a rank can be expected to use when `arriving` rows arrive: the place that needs most, its elements stored as tensors are. Products
/// take them as they are: the host's, which widen them first, need more.
template <class Precision>
constexpr extent_t scratch_estimate(const activation_shape& a, extent_t arriving) {
  const scratch_elements needs = scratch_of<Precision>(a, arriving);
  return (std::max({needs.moe, needs.attention, needs.loss}) + needs.block + needs.again) * extent_t(sizeof(typename Precision::storage)) +
         needs.quantised;
}

}  // namespace moefold
