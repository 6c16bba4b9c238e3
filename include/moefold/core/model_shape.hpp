#pragma once
// The plain numbers of a Mixture-of-Experts transformer, and the rules they obey by themselves. A structural type: a constant of the run.
#include <moefold/core/error.hpp>

namespace moefold {

/// Defaults: the byte-level default model, 2.04 M parameters.
struct model_shape {
  extent_t layers = 4;
  extent_t hidden = 128;      // H
  extent_t heads = 8;         // query heads
  extent_t kv_heads = 4;      // key/value heads; heads % kv_heads == 0
  extent_t head_dim = 16;     // d, even
  extent_t experts = 8;       // E
  extent_t top_k = 2;         // k
  extent_t ffn = 144;         // F, width of one expert
  extent_t vocabulary = 256;  // V
  double rope_theta = 10000.0;
  double norm_eps = 1e-5;
  double init_std = 0.02;  // of every matrix; output projections are scaled by 1/sqrt(2 * layers)

  constexpr extent_t q_width() const { return heads * head_dim; }
  constexpr extent_t kv_width() const { return kv_heads * head_dim; }
  constexpr bool operator==(const model_shape&) const = default;
};

MOEFOLD_RULE(head_groups, heads, kv_heads, heads % kv_heads == 0,
             "moefold: heads must be a multiple of kv_heads; each key/value head serves equally many query heads")
MOEFOLD_RULE(rope_pairs, head_dim, pair, head_dim % pair == 0, "moefold: RoPE rotates pairs; head_dim must be even")
MOEFOLD_RULE(top_k, top_k, experts, top_k >= 1 && top_k <= experts, "moefold: top_k must lie between 1 and experts")

/// Throws config_error if the numbers contradict each other, whatever the mapping.
constexpr void check(const model_shape& m) {
  require<config_error>(
      m.layers > 0 && m.hidden > 0 && m.heads > 0 && m.kv_heads > 0 && m.head_dim > 0 && m.experts > 0 && m.ffn > 0 && m.vocabulary > 0,
      "moefold: every number of a model_shape is at least 1 (layers ", m.layers, ", hidden ", m.hidden, ", heads ", m.heads, ", kv_heads ",
      m.kv_heads, ", head_dim ", m.head_dim, ", experts ", m.experts, ", ffn ", m.ffn, ", vocabulary ", m.vocabulary, ")");
  require_head_groups(m.heads, m.kv_heads);
  require_rope_pairs(m.head_dim, 2);
  require_top_k(m.top_k, m.experts);
  require<config_error>(
      m.rope_theta > 0 && m.norm_eps > 0 && m.init_std > 0 && m.rope_theta < 1e300 && m.norm_eps < 1 && m.init_std < 1e300,
      "moefold: rope_theta, norm_eps and init_std are positive, and norm_eps is small (given ", m.rope_theta, ", ", m.norm_eps, " and ",
      m.init_std, ")");
}

}  // namespace moefold
