#pragma once
// The plain numbers of a Mixture-of-Experts transformer, and the rules they obey by themselves. A structural type: a constant of the run.
#include <moefold/core/error.hpp>

namespace moefold {

/// How a router turns logits into the weights of the chosen experts.
enum class score_function : std::uint8_t {
  softmax_after,   // p = softmax(logits of the chosen k); needs k > 1. Equals softmax before choosing with the k shares renormalised
  softmax_before,  // p = softmax(all logits) of the chosen, not renormalised
  sigmoid          // s = sigmoid(logits); p = s / sum of the chosen s when k > 1, else s
};

/// What an expert computes between its matrices: silu(gate) * up, or gelu(up) without a gate matrix.
enum class activation_function : std::uint8_t { swiglu, gelu };

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

  score_function score = score_function::softmax_after;
  double weight_scale = 1.0;   // the routed scaling factor: every weight is multiplied by it
  extent_t expert_groups = 1;  // G, equal groups of experts ...
  extent_t chosen_groups = 1;  // g, ... of which a token may use the best g
  bool expert_bias = false;    // auxiliary-loss-free balancing: a bias that only chooses; sigmoid scores
  activation_function activation = activation_function::swiglu;
  extent_t shared_ffn = 0;   // width of the shared expert; 0: none
  bool shared_gate = false;  // the shared expert's output is multiplied by sigmoid of a learned projection

  bool qkv_bias = false;  // query, key and value projections add a bias (Qwen2)
  bool qk_norm = false;   // RMSNorm over every query and key head before RoPE (Qwen3)
  extent_t sliding_window =
      0;  // a token sees so many tokens back, itself included; 0: all. Sequences may not be longer: then both are the same

  bool tied_embeddings = false;  // the head multiplies with the table of the embedding: one parameter
  extent_t dense_layers = 0;     // the first layers have an MLP for all tokens in place of the MoE layer
  extent_t dense_ffn = 0;        // its width

  constexpr extent_t q_width() const { return heads * head_dim; }
  constexpr extent_t kv_width() const { return kv_heads * head_dim; }
  constexpr bool dense(extent_t layer) const { return layer < dense_layers; }
  constexpr extent_t moe_layers() const { return layers - dense_layers; }
  constexpr bool operator==(const model_shape&) const = default;
};

MOEFOLD_RULE(head_groups, heads, kv_heads, heads % kv_heads == 0,
             "moefold: heads must be a multiple of kv_heads; each key/value head serves equally many query heads")
MOEFOLD_RULE(rope_pairs, head_dim, pair, head_dim % pair == 0, "moefold: RoPE rotates pairs; head_dim must be even")
MOEFOLD_RULE(top_k, top_k, experts, top_k >= 1 && top_k <= experts, "moefold: top_k must lie between 1 and experts")
MOEFOLD_RULE(single_choice, top_k, softmax_after, top_k > 1 || softmax_after == 0,
             "moefold: with top_k = 1 softmax over the chosen is always 1 and the router cannot learn; use score_function::softmax_before")
MOEFOLD_RULE(group_size, experts, expert_groups, expert_groups >= 1 && experts % expert_groups == 0,
             "moefold: experts must be a multiple of expert_groups; all groups are equally large")
MOEFOLD_RULE(group_choice, chosen_groups, expert_groups, chosen_groups >= 1 && chosen_groups <= expert_groups,
             "moefold: chosen_groups must lie between 1 and expert_groups")
MOEFOLD_RULE(group_share, top_k, chosen_groups, chosen_groups >= 1 && top_k % chosen_groups == 0,
             "moefold: top_k must be a multiple of chosen_groups; each chosen group is judged by its best top_k / chosen_groups experts")
MOEFOLD_RULE(group_room, choices_per_group, experts_per_group, choices_per_group <= experts_per_group,
             "moefold: a group is judged by its best top_k / chosen_groups experts and must have as many; use fewer or larger groups")
MOEFOLD_RULE(bias_scores, expert_bias, sigmoid, expert_bias == 0 || sigmoid == 1,
             "moefold: expert_bias works on sigmoid scores; use score_function::sigmoid, or balance losses instead")
MOEFOLD_RULE(shared_gate, shared_gate, shared_ffn, shared_gate == 0 || shared_ffn > 0,
             "moefold: shared_gate gates the shared expert; give it a width, shared_ffn")
MOEFOLD_RULE(shared_width, shared_ffn, least, shared_ffn >= least, "moefold: shared_ffn is 0 (no shared expert) or above")

MOEFOLD_RULE(window_size, sliding_window, least, sliding_window >= least,
             "moefold: sliding_window is the number of tokens that a token sees, itself included, or 0 for all of them")

MOEFOLD_RULE(dense_depth, dense_layers, layers, dense_layers >= 0 && dense_layers <= layers,
             "moefold: dense_layers are the first of the model's layers; take 0 (none) to layers")
MOEFOLD_RULE(dense_width, dense_layers, dense_ffn, (dense_layers > 0) == (dense_ffn > 0) && dense_ffn >= 0,
             "moefold: dense layers have a width, dense_ffn, and without dense layers there is none")

/// Every rule of a model by itself, for types: a broken one is a compile error that shows its two numbers.
template <model_shape M>
struct check_model
    : check_head_groups<M.heads, M.kv_heads>,
      check_rope_pairs<M.head_dim, 2>,
      check_top_k<M.top_k, M.experts>,
      check_single_choice<M.top_k, M.score == score_function::softmax_after>,
      check_group_size<M.experts, M.expert_groups>,
      check_group_choice<M.chosen_groups, M.expert_groups>,
      check_group_share<M.top_k, M.chosen_groups>,
      check_group_room<M.top_k / (M.chosen_groups > 0 ? M.chosen_groups : 1), M.experts / (M.expert_groups > 0 ? M.expert_groups : 1)>,
      check_bias_scores<M.expert_bias, M.score == score_function::sigmoid>,
      check_shared_gate<M.shared_gate, M.shared_ffn>,
      check_shared_width<M.shared_ffn, 0>,
      check_window_size<M.sliding_window, 0>,
      check_dense_depth<M.dense_layers, M.layers>,
      check_dense_width<M.dense_layers, M.dense_ffn> {
  static constexpr bool ok = true;
};

/// Throws config_error if the numbers contradict each other, whatever the mapping.
constexpr void check(const model_shape& m) {
  require<config_error>(
      m.layers > 0 && m.hidden > 0 && m.heads > 0 && m.kv_heads > 0 && m.head_dim > 0 && m.experts > 0 && m.ffn > 0 && m.vocabulary > 0,
      "moefold: every number of a model_shape is at least 1 (layers ", m.layers, ", hidden ", m.hidden, ", heads ", m.heads, ", kv_heads ",
      m.kv_heads, ", head_dim ", m.head_dim, ", experts ", m.experts, ", ffn ", m.ffn, ", vocabulary ", m.vocabulary, ")");
  require_head_groups(m.heads, m.kv_heads);
  require_rope_pairs(m.head_dim, 2);
  require_top_k(m.top_k, m.experts);
  require_single_choice(m.top_k, m.score == score_function::softmax_after);
  require_group_size(m.experts, m.expert_groups);
  require_group_choice(m.chosen_groups, m.expert_groups);
  require_group_share(m.top_k, m.chosen_groups);
  require_group_room(m.top_k / m.chosen_groups, m.experts / m.expert_groups);
  require_bias_scores(m.expert_bias, m.score == score_function::sigmoid);
  require_shared_gate(m.shared_gate, m.shared_ffn);
  require_shared_width(m.shared_ffn, 0);
  require_window_size(m.sliding_window, 0);
  require_dense_depth(m.dense_layers, m.layers);
  require_dense_width(m.dense_layers, m.dense_ffn);
  require<config_error>(m.weight_scale > 0 && m.weight_scale < 1e300, "moefold: weight_scale is a finite number above 0 (given ",
                        m.weight_scale, "); 1 leaves the weights as they are");
  require<config_error>(
      m.rope_theta > 0 && m.norm_eps > 0 && m.init_std > 0 && m.rope_theta < 1e300 && m.norm_eps < 1 && m.init_std < 1e300,
      "moefold: rope_theta, norm_eps and init_std are positive, and norm_eps is small (given ", m.rope_theta, ", ", m.norm_eps, " and ",
      m.init_std, ")");
}

}  // namespace moefold
