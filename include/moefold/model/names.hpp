#pragma once
// Which published model family a shape belongs to, and under which names its tensors stand in files that transformers reads and writes.
// The family follows from the numbers alone, so a file that any program wrote finds its parameters, and what we write finds its program.
//
//   family     scores            attention             shared expert                dense layers   router and experts in files
//   mixtral    softmax_after     plain                 none                         none           block_sparse_moe.gate, experts.{e}.w1 w3 w2
//   qwen2_moe  softmax           bias or plain         gated by a projection        first ones     mlp.gate, mlp.experts.{e}.{gate,up,down}_proj
//   qwen3_moe  softmax           norms of q and k      none                         first ones     as qwen2_moe
//   glm4_moe   sigmoid, groups   bias, norms, or not   a multiple of ffn, no gate   first ones     as qwen2_moe, and mlp.gate.e_score_correction_bias
// Models of dense layers only: qwen2 with biases, qwen3 with norms, mistral with a window, llama plain; mlp.{gate,up,down}_proj, as in all dense layers.
#include <moefold/checkpoint/published_segment.hpp>
#include <moefold/inventory/parameters.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moefold {

enum class model_family : std::uint8_t { mixtral, qwen2_moe, qwen3_moe, glm4_moe, llama, mistral, qwen2, qwen3 };
inline constexpr int family_count = 8;

/// As config.json says it: model_type.
constexpr const char* name_of(model_family family) {
  constexpr const char* names[] = {"mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "llama", "mistral", "qwen2", "qwen3"};
  return names[int(family)];
}

/// The family that computes exactly what this shape says. Throws config_error that names the number no published family has.
constexpr model_family family_of(const model_shape& m) {
  check(m);
  const auto need = [](bool holds, const auto&... parts) {
    require<config_error>(holds, "moefold: no published model family can express this model: ", parts...);
  };
  need(m.activation == activation_function::swiglu, "its activation is gelu; experts of published models are SwiGLU");
  if (m.moe_layers() == 0) {
    need(!m.qk_norm || !m.qkv_bias,
         "norms of query and key heads (qwen3) and biases of their projections (qwen2) do not come together in dense models");
    return m.qk_norm            ? model_family::qwen3
         : m.qkv_bias           ? model_family::qwen2
         : m.sliding_window > 0 ? model_family::mistral
                                : model_family::llama;
  }
  if (m.score == score_function::sigmoid) {
    need(!m.shared_gate, "with sigmoid scores (glm4_moe) the shared expert has no gate; leave shared_gate false");
    need(m.shared_ffn > 0 && m.shared_ffn % m.ffn == 0, "with sigmoid scores (glm4_moe) shared_ffn is ffn once or several times (given ",
         m.shared_ffn, ", ffn ", m.ffn, ")");
    need(m.sliding_window == 0, "with sigmoid scores (glm4_moe) there is no sliding window (given ", m.sliding_window, ")");
    need(m.experts / m.expert_groups >= 2 && (m.expert_groups == 1 || m.top_k == 2 * m.chosen_groups),
         "with sigmoid scores (glm4_moe) a group is judged by its best two experts, so top_k is 2 * chosen_groups (given ", m.top_k,
         " and ", m.chosen_groups, ")");
    return model_family::glm4_moe;
  }
  need(m.weight_scale == 1, "weight_scale ", m.weight_scale, " comes with sigmoid scores only");
  need(m.expert_groups == 1, m.expert_groups, " groups of experts come with sigmoid scores only");
  if (m.shared_ffn > 0) {
    need(m.shared_gate, "with softmax scores (qwen2_moe) the shared expert is gated; set shared_gate");
    need(!m.qk_norm, "norms of query and key heads (qwen3_moe) and a shared expert (qwen2_moe) do not come together with softmax scores");
    return model_family::qwen2_moe;
  }
  if (m.qk_norm) {
    need(!m.qkv_bias, "norms of query and key heads (qwen3_moe) and biases of their projections do not come together with softmax scores");
    return model_family::qwen3_moe;
  }
  need(!m.qkv_bias, "biases of query, key and value come with a shared expert (qwen2_moe) or sigmoid scores (glm4_moe)");
  need(m.dense_layers == 0,
       "dense layers come with a shared expert (qwen2_moe), norms of query and key heads (qwen3_moe) or sigmoid scores");
  need(m.score == score_function::softmax_after,
       "plain attention (mixtral) comes with softmax_after; softmax_before is of qwen2_moe and qwen3_moe");
  return model_family::mixtral;
}

/// How files hold experts: a tensor each, as published and as transformers saves them, or as transformers 5 keeps them in memory:
/// mlp.experts.gate_up_proj [E, 2F, H] (in each expert all rows of gate, then all of up) and mlp.experts.down_proj [E, H, F].
enum class expert_layout : std::uint8_t { per_expert, fused };

namespace detail {

inline std::string published_layer(extent_t layer) { return "model.layers." + std::to_string(layer) + "."; }

/// Of every kind but experts: what follows the layer's prefix, or the whole name.
constexpr const char* published_name(parameter_kind kind, model_family family, expert_layout layout) {
  using enum parameter_kind;
  const bool plural = family == model_family::glm4_moe;
  switch (kind) {
    case embedding: return "model.embed_tokens.weight";
    case final_norm: return "model.norm.weight";
    case head: return "lm_head.weight";
    case attention_norm: return "input_layernorm.weight";
    case query: return "self_attn.q_proj.weight";
    case key: return "self_attn.k_proj.weight";
    case value: return "self_attn.v_proj.weight";
    case output: return "self_attn.o_proj.weight";
    case query_bias: return "self_attn.q_proj.bias";
    case key_bias: return "self_attn.k_proj.bias";
    case value_bias: return "self_attn.v_proj.bias";
    case query_norm: return "self_attn.q_norm.weight";
    case key_norm: return "self_attn.k_norm.weight";
    case moe_norm:
    case mlp_norm: return "post_attention_layernorm.weight";
    case router:
      return family == model_family::mixtral && layout == expert_layout::per_expert ? "block_sparse_moe.gate.weight" : "mlp.gate.weight";
    case mlp_gate: return "mlp.gate_proj.weight";
    case mlp_up: return "mlp.up_proj.weight";
    case mlp_down: return "mlp.down_proj.weight";
    case shared_gate: return plural ? "mlp.shared_experts.gate_proj.weight" : "mlp.shared_expert.gate_proj.weight";
    case shared_up: return plural ? "mlp.shared_experts.up_proj.weight" : "mlp.shared_expert.up_proj.weight";
    case shared_down: return plural ? "mlp.shared_experts.down_proj.weight" : "mlp.shared_expert.down_proj.weight";
    case shared_output_gate: return "mlp.shared_expert_gate.weight";
    case gate:
    case up:
    case down: break;
  }
  return "";
}

inline std::string published_expert(parameter_kind kind, model_family family, extent_t expert) {
  using enum parameter_kind;
  const std::string e = std::to_string(expert);
  if (family == model_family::mixtral)
    return "block_sparse_moe.experts." + e + (kind == gate ? ".w1.weight" : kind == up ? ".w3.weight" : ".w2.weight");
  return "mlp.experts." + e + (kind == gate ? ".gate_proj.weight" : kind == up ? ".up_proj.weight" : ".down_proj.weight");
}

/// f(published tensor, segment of it) for every segment of a parameter, in our order.
template <class F>
void for_each_segment(const model_shape& m, const parameter_fact& p, expert_layout layout, F&& f) {
  using enum parameter_kind;
  const model_family family = family_of(m);
  const std::string prefix = p.layer < 0 ? "" : published_layer(p.layer);
  const auto emit = [&](const std::string& name, const shape& extent, extent_t first_in_tensor, extent_t first, extent_t count) {
    f(published_tensor{prefix + name, extent}, published_segment{prefix + name, first_in_tensor, first, count, extent});
  };
  if (!of_expert(p.kind)) {
    shape extent = p.extent;
    if (p.padding > 0) extent[0] -= p.padding / p.extent[1];
    return emit(published_name(p.kind, family, layout), extent, 0, 0, extent.size());
  }
  const extent_t experts = p.extent[0], rows = p.extent[1], columns = p.extent[2], size = rows * columns;
  if (layout == expert_layout::per_expert)
    for (extent_t e = 0; e < experts; ++e) emit(published_expert(p.kind, family, e), {rows, columns}, 0, e * size, size);
  else if (p.kind == down)
    emit("mlp.experts.down_proj", p.extent, 0, 0, p.extent.size());
  else
    for (extent_t e = 0; e < experts; ++e)
      emit("mlp.experts.gate_up_proj", {experts, 2 * rows, columns}, (2 * e + (p.kind == up)) * size, e * size, size);
}

}  // namespace detail

/// Where the elements of a parameter (of any folding: padding is left out) lie in published files. A tied head is the embedding.
inline std::vector<published_segment> published_segments(const model_shape& m, const parameter_fact& p,
                                                         expert_layout layout = expert_layout::per_expert) {
  std::vector<published_segment> all;
  detail::for_each_segment(m, p, layout, [&](const published_tensor&, published_segment s) { all.push_back(std::move(s)); });
  return all;
}

/// The bias that only chooses (expert_bias), of an MoE layer: a tensor [E] in fp32, beside the parameters. Files of glm4_moe always hold one: zeros
/// where the model has none.
inline std::string published_router_bias(extent_t layer) { return detail::published_layer(layer) + "mlp.gate.e_score_correction_bias"; }

/// Every tensor of the model's files, in our storage order, the router biases of a sigmoid model behind the rest.
inline std::vector<published_tensor> published_tensors(const model_shape& m, expert_layout layout = expert_layout::per_expert) {
  std::vector<published_tensor> all;
  for_each_parameter(m, folding_extents{}, 0, [&](const parameter_fact& p) {
    if (layout == expert_layout::fused && p.kind == parameter_kind::up) return;  // in the tensor of gate
    detail::for_each_segment(m, p, layout, [&](published_tensor t, const published_segment&) {
      if (all.empty() || all.back().name != t.name) all.push_back(std::move(t));
    });
  });
  if (m.score == score_function::sigmoid)
    for (extent_t l = m.dense_layers; l < m.layers; ++l) all.push_back({published_router_bias(l), {m.experts}});
  return all;
}

/// Which layout files have, from what they hold: has(name of a tensor) -> bool.
template <class Has>
expert_layout layout_of(const model_shape& m, Has&& has) {
  return m.moe_layers() > 0 && has(detail::published_layer(m.dense_layers) + "mlp.experts.gate_up_proj") ? expert_layout::fused
                                                                                                         : expert_layout::per_expert;
}

}  // namespace moefold
