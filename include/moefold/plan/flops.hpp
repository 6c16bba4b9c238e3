#pragma once
// The arithmetic of a model and of a rank. Per token, for MFU, after a convention that publications share; per rank and micro-batch, exactly the multiply-adds
// that the host engine's products make (core/exec.hpp counts them).
//
//   F = 6 { layers [h (q + 2 kv) + q h + 3 h (k f + f_s) + h E] + h V } + c layers s q      c = 12: every query with every key; 6: causal, half of them
// 6: two flops a multiply-add, and backward costs twice forward. Three matrices an expert with a gate, else two. What is recomputed is never counted, nor is
// looking up the embedding. The paper (arXiv 2504.14960) and Megatron-Core until 2025-02 count attention in full; Megatron-Core since then counts half.
#include <moefold/inventory/activations.hpp>

namespace moefold {

/// Whether model flops count what a causal mask hides.
enum class attention_flops : std::uint8_t { full, causal };
constexpr const char* name_of(attention_flops a) { return a == attention_flops::full ? "full" : "causal"; }

/// Matrices between H and the inner width of an MLP.
constexpr extent_t mlp_matrices(const model_shape& m) { return m.activation == activation_function::swiglu ? 3 : 2; }

/// Weights of matrices that one token meets on its way through the model.
constexpr extent_t weights_per_token(const model_shape& m) {
  const extent_t attention = m.hidden * (2 * m.q_width() + 2 * m.kv_width());
  const extent_t moe = m.hidden * (mlp_matrices(m) * (m.top_k * m.ffn + m.shared_ffn) + m.experts + extent_t(m.shared_gate));
  const extent_t dense = m.hidden * mlp_matrices(m) * m.dense_ffn;
  return m.layers * attention + m.moe_layers() * moe + m.dense_layers * dense + m.hidden * m.vocabulary;
}
/// Flops of one token in training, forward and backward. A double: exact below 2^53.
constexpr double flops_per_token(const model_shape& m, extent_t sequence, attention_flops counted) {
  return 6 * double(weights_per_token(m)) + (counted == attention_flops::full ? 12.0 : 6.0) * double(m.layers * sequence * m.q_width());
}
constexpr double flops_per_step(const model_shape& m, extent_t sequence, extent_t global_batch, attention_flops counted) {
  return flops_per_token(m, sequence, counted) * double(sequence) * double(global_batch);
}
/// Parameters that work on a token: all but the experts it does not choose.
constexpr extent_t active_parameters(const model_shape& m) {
  return count_parameters(m) - m.moe_layers() * (m.experts - m.top_k) * mlp_matrices(m) * m.ffn * m.hidden;
}

/// Multiply-adds of a rank's products: of weights with activations, and of attention where every query of the rank meets every key of the sequence, which is
/// what blocks as long as a short sequence do; longer ones skip what lies behind a block's queries.
struct product_count {
  extent_t weights = 0, attention = 0;
  constexpr extent_t total() const { return weights + attention; }
  constexpr product_count& operator+=(const product_count& o) {
    weights += o.weights, attention += o.attention;
    return *this;
  }
  friend constexpr product_count operator*(product_count p, extent_t times) { return {p.weights * times, p.attention * times}; }
};

/// Of one block for one micro-batch, forward, backward, and what its recomputation makes again, when `arriving` rows arrive at this rank's experts.
constexpr product_count products_of_block(const activation_shape& a, extent_t arriving, bool dense) {
  const model_shape& m = a.model;
  const extent_t tp = a.fold.attention.of(axis_id::tp), tokens = a.tokens(), h = m.hidden;
  const extent_t projections = tokens * h * (2 * m.q_width() + 2 * m.kv_width()) / tp;
  const extent_t scores = tokens * a.sequence * m.q_width() / tp;
  const extent_t experts = arriving * h * mlp_matrices(m) * m.ffn / a.fold.moe.of(axis_id::etp);
  const extent_t mlp = tokens * h * mlp_matrices(m) * (dense ? m.dense_ffn : m.shared_ffn) / tp;
  const extent_t inner = dense ? mlp : experts + mlp + a.rows() * h * m.experts;  // with the router
  product_count all{3 * (projections + inner), (2 + 5) * scores};                 // backward makes the scores once more
  if (a.recompute.full) all += {projections + inner, 2 * scores};
  if (a.recompute.has(recompute_part::core_attention)) all.attention += 2 * scores;
  if (!dense && a.recompute.has(recompute_part::moe)) all.weights += inner;
  return all;
}
/// Of the head for one micro-batch, on the last stage.
constexpr product_count products_of_head(const activation_shape& a) {
  const extent_t tp = a.fold.attention.of(axis_id::tp);
  return {3 * a.tokens() * a.model.hidden * padded_vocabulary(a.model, tp) / tp, 0};
}

}  // namespace moefold
