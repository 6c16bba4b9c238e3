#pragma once
// Which parameters a model has and how each one lies on a folding: the one list that the engine builds from, that initialisation, optimizer
// and checkpoint walk, and that the planner counts.
//
//   name                       global extents      placement                 replicas (sum and optimizer shard)
//   embedding, head            [V, H]              rows over tp              cp x dp
//   tied embedding, no head    [V, H]              rows over tp, ends        {first, last stage} x cp x dp; one stage: cp x dp
//   layers.N.attention.norm    [H]                 replicated                tp x cp x dp
//   layers.N.attention.query   [heads * d, H]      rows over tp              cp x dp        key, value alike: [kv_heads * d, H]
//   layers.N.attention.query_bias [heads * d]      rows over tp              cp x dp        key_bias, value_bias alike: where projections have one
//   layers.N.attention.query_norm, key_norm [d]    replicated                tp x cp x dp   where heads are normalised
//   layers.N.attention.output  [H, heads * d]      columns over tp           cp x dp
//   layers.N.moe.norm, final_norm [H]              replicated                tp x cp x dp
//   layers.N.moe.router        [E, H]              replicated                tp x cp x dp
//   layers.N.moe.gate, up      [E, F, H]           experts over ep, F over etp   edp
//   layers.N.moe.down          [E, H, F]           experts over ep, F over etp   edp               gelu: no gate
//   layers.N.moe.shared.gate, up [Fs, H]           rows over tp              cp x dp               with a shared expert; gelu: no gate
//   layers.N.moe.shared.down   [H, Fs]             columns over tp           cp x dp
//   layers.N.moe.shared.output_gate [1, H]         replicated                tp x cp x dp          where it is gated
//   dense layers: layers.N.mlp.norm, gate, up, down as moe.norm and moe.shared.*, of width dense_ffn, in place of all of moe.*
#include <moefold/core/model_shape.hpp>
#include <moefold/inventory/stages.hpp>
#include <moefold/mesh/extents.hpp>
#include <moefold/mesh/placement.hpp>

#include <string>

namespace moefold {

using replicated = placement<attention_axes>;
using rows_over_tp = placement<attention_axes, shard<tag::tp, 0>>;
using columns_over_tp = placement<attention_axes, shard<tag::tp, 1>>;
using expert_rows = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>>;
using expert_columns = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 2>>;

enum class parameter_kind : std::uint8_t {
  embedding,
  attention_norm,
  query,
  key,
  value,
  output,
  moe_norm,
  router,
  gate,
  up,
  down,
  shared_gate,
  shared_up,
  shared_down,
  shared_output_gate,
  final_norm,
  head,
  mlp_norm,
  mlp_gate,
  mlp_up,
  mlp_down,
  query_bias,
  key_bias,
  value_bias,
  query_norm,
  key_norm
};

constexpr const char* name_of(parameter_kind kind) {
  constexpr const char* names[] = {"embedding",
                                   "attention.norm",
                                   "attention.query",
                                   "attention.key",
                                   "attention.value",
                                   "attention.output",
                                   "moe.norm",
                                   "moe.router",
                                   "moe.gate",
                                   "moe.up",
                                   "moe.down",
                                   "moe.shared.gate",
                                   "moe.shared.up",
                                   "moe.shared.down",
                                   "moe.shared.output_gate",
                                   "final_norm",
                                   "head",
                                   "mlp.norm",
                                   "mlp.gate",
                                   "mlp.up",
                                   "mlp.down",
                                   "attention.query_bias",
                                   "attention.key_bias",
                                   "attention.value_bias",
                                   "attention.query_norm",
                                   "attention.key_norm"};
  return names[int(kind)];
}

/// Of an MoE layer's experts; the shared one and the router are not.
constexpr bool of_expert(parameter_kind kind) {
  return kind == parameter_kind::gate || kind == parameter_kind::up || kind == parameter_kind::down;
}

/// One parameter of the whole model.
struct parameter_fact {
  parameter_kind kind{};
  extent_t layer = -1;   // -1: belongs to no layer
  shape extent{};        // global, the vocabulary padded to a multiple of TP
  extent_t padding = 0;  // elements that only pad: value 0, gradient 0, not counted
  placement_value placement{};
  bool decay = false;   // weight decay applies
  double init_std = 0;  // it starts as normal numbers of this width around init_mean: matrices around 0; gains are ones, biases zeros
  double init_mean = 0;

  bool as_head = false;  // the copy of a tied embedding that the head of the last stage uses

  constexpr extent_t parameters() const { return extent.size() - padding; }
  std::string name() const { return layer < 0 ? name_of(kind) : "layers." + std::to_string(layer) + "." + name_of(kind); }
};

/// Rows of embedding and head as stored: the vocabulary, padded to a multiple of TP.
constexpr extent_t padded_vocabulary(const model_shape& m, extent_t tp) { return (m.vocabulary + tp - 1) / tp * tp; }

/// Square root by Newton's method, for constant expressions.
constexpr double square_root(double x) {
  double r = x > 1 ? x : 1;
  for (int i = 0; i < 64; ++i) {
    const double next = 0.5 * (r + x / r);
    if (next == r) break;
    r = next;
  }
  return r;
}

namespace detail {

/// Hands the parameters of one model to f(parameter_fact), in storage order: before(), layer(0), layer(1), ..., behind().
template <class F>
class parameter_list {
 public:
  constexpr parameter_list(const model_shape& model, const folding_extents& fold, F& f)
      : m(model), stages_(fold.attention.of(axis_id::pp)), vocabulary_(padded_vocabulary(m, fold.attention.of(axis_id::tp))),
        output_std_(m.init_std / square_root(2.0 * double(m.layers))), f_(f) {}

  constexpr void before() const { table(parameter_kind::embedding); }
  constexpr void layer(extent_t l) const {
    using enum parameter_kind;
    gain(attention_norm, l, m.hidden);
    matrix(query, l, m.q_width(), m.hidden, value_of<rows_over_tp>, m.init_std);
    if (m.qkv_bias) bias(query_bias, l, m.q_width());
    matrix(key, l, m.kv_width(), m.hidden, value_of<rows_over_tp>, m.init_std);
    if (m.qkv_bias) bias(key_bias, l, m.kv_width());
    matrix(value, l, m.kv_width(), m.hidden, value_of<rows_over_tp>, m.init_std);
    if (m.qkv_bias) bias(value_bias, l, m.kv_width());
    if (m.qk_norm) gain(query_norm, l, m.head_dim), gain(key_norm, l, m.head_dim);
    matrix(output, l, m.hidden, m.q_width(), value_of<columns_over_tp>, output_std_);
    const bool gated = m.activation == activation_function::swiglu;
    if (m.dense(l)) {
      gain(mlp_norm, l, m.hidden);
      if (gated) matrix(mlp_gate, l, m.dense_ffn, m.hidden, value_of<rows_over_tp>, m.init_std);
      matrix(mlp_up, l, m.dense_ffn, m.hidden, value_of<rows_over_tp>, m.init_std);
      matrix(mlp_down, l, m.hidden, m.dense_ffn, value_of<columns_over_tp>, output_std_);
      return;
    }
    gain(moe_norm, l, m.hidden);
    matrix(router, l, m.experts, m.hidden, value_of<replicated>, m.init_std);
    if (gated) expert(gate, l, m.ffn, m.hidden, value_of<expert_rows>, m.init_std);
    expert(up, l, m.ffn, m.hidden, value_of<expert_rows>, m.init_std);
    expert(down, l, m.hidden, m.ffn, value_of<expert_columns>, output_std_);
    if (m.shared_ffn == 0) return;
    if (gated) matrix(shared_gate, l, m.shared_ffn, m.hidden, value_of<rows_over_tp>, m.init_std);
    matrix(shared_up, l, m.shared_ffn, m.hidden, value_of<rows_over_tp>, m.init_std);
    matrix(shared_down, l, m.hidden, m.shared_ffn, value_of<columns_over_tp>, output_std_);
    if (m.shared_gate) matrix(shared_output_gate, l, 1, m.hidden, value_of<replicated>, m.init_std);
  }
  constexpr void behind() const {
    gain(parameter_kind::final_norm, -1, m.hidden);
    if (!m.tied_embeddings)
      table(parameter_kind::head);
    else if (stages_ > 1)
      table(parameter_kind::embedding, true);
  }

 private:
  constexpr void matrix(parameter_kind kind, extent_t layer, extent_t rows, extent_t columns, const placement_value& where,
                        double init) const {
    f_(parameter_fact{kind, layer, {rows, columns}, 0, where, true, init});
  }
  constexpr void expert(parameter_kind kind, extent_t layer, extent_t rows, extent_t columns, const placement_value& where,
                        double init) const {
    f_(parameter_fact{kind, layer, {m.experts, rows, columns}, 0, where, true, init});
  }
  constexpr void gain(parameter_kind kind, extent_t layer, extent_t width) const {
    f_(parameter_fact{kind, layer, {width}, 0, value_of<replicated>, false, 0, 1});
  }
  constexpr void bias(parameter_kind kind, extent_t layer, extent_t width) const {
    f_(parameter_fact{kind, layer, {width}, 0, value_of<rows_over_tp>, false});
  }
  constexpr void table(parameter_kind kind, bool as_head = false) const {
    const placement_value rows = m.tied_embeddings ? value_of<rows_over_tp>.on_ends(stages_) : value_of<rows_over_tp>;
    f_(parameter_fact{kind, -1, {vocabulary_, m.hidden}, (vocabulary_ - m.vocabulary) * m.hidden, rows, true, m.init_std, 0, as_head});
  }

  const model_shape& m;
  extent_t stages_, vocabulary_;
  double output_std_;
  F& f_;
};

}  // namespace detail

/// Calls f(parameter_fact) for every parameter of one pipeline stage, in storage order.
template <class F>
constexpr void for_each_parameter(const model_shape& m, const folding_extents& fold, extent_t stage, F&& f) {
  const detail::parameter_list list(m, fold, f);
  if (stage == 0) list.before();
  for_each_layer(m.layers, fold, stage, [&](extent_t l) { list.layer(l); });
  if (stage == fold.attention.of(axis_id::pp) - 1) list.behind();
}

/// Parameters of the whole model, padding not counted.
constexpr extent_t count_parameters(const model_shape& m) {
  const folding_extents one{};
  extent_t total = 0;
  for_each_parameter(m, one, 0, [&](const parameter_fact& p) { total += p.parameters(); });
  return total;
}

/// Elements of one parameter that one rank holds.
constexpr extent_t local_elements(const parameter_fact& p, const folding_extents& fold) { return p.placement.local(p.extent, fold).size(); }

/// The same of all parameters of one layer.
constexpr extent_t elements_of_layer(const model_shape& m, const folding_extents& fold, extent_t layer) {
  extent_t elements = 0;
  const auto add = [&](const parameter_fact& p) { elements += local_elements(p, fold); };
  detail::parameter_list(m, fold, add).layer(layer);
  return elements;
}

/// The layer a parameter is used with: -1 for the embedding, the number of layers for what comes behind the last one.
constexpr extent_t layer_of(const parameter_fact& p, extent_t layers) {
  if (p.layer >= 0) return p.layer;
  return p.kind == parameter_kind::embedding && !p.as_head ? -1 : layers;
}

}  // namespace moefold
