#pragma once
// Causal grouped-query attention with heads over tp and context over cp. Rows come in and leave in the sequence-parallel layout, so that whatever
// follows sees only a bag of tokens.
//
//   x [T/TP, H] -gather-> [T, H] -Wq Wk Wv-> q [S/CP, B, heads/TP, d], k v [S/CP, B, kv/TP, d] -RoPE-> context policy -Wo-> sum, scatter -> [T/TP, H]
//                                  + biases, where the model has them; q and k of every head -RMSNorm-> before RoPE, where it normalises heads
//   T = S/CP * B tokens of this CP part. Traffic over tp: forward 1 all-gather + 1 reduce-scatter; backward 2 all-gathers + 1 reduce-scatter.
#include <moefold/attention/policy.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/inventory/legality.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/linear.hpp>
#include <moefold/layers/norm.hpp>
#include <moefold/layers/sequence.hpp>
#include <moefold/ops/bias.hpp>
#include <moefold/ops/rope.hpp>

#include <memory>
#include <vector>

namespace moefold {

template <class Precision>
struct attention_weights {
  linear<Precision, rows_over_tp> query;      // [heads/TP * d, H]
  linear<Precision, rows_over_tp> key;        // [kv/TP * d, H]
  linear<Precision, rows_over_tp> value;      // [kv/TP * d, H]
  linear<Precision, columns_over_tp> output;  // [H, heads/TP * d]

  // qkv_bias and qk_norm; empty where the model has none
  parameter<Precision, rows_over_tp> query_bias{};              // [heads/TP * d]
  parameter<Precision, rows_over_tp> key_bias{}, value_bias{};  // [kv/TP * d]
  parameter<Precision, replicated> query_norm{}, key_norm{};    // [d]
};

/// The layer over values: communicators and numbers instead of a mesh, so that all foldings share one instantiation.
template <class Precision, class Comm, class Context = cp_all_gather>
class attention_layer {
 public:
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  using context_groups = typename Context::template groups<Comm>;

  struct saved {
    view<const T> x;                      // [T/TP, H], the caller's
    std::span<const std::int32_t> first;  // [S, B], the caller's: where documents begin (attention/sequence_map.hpp); empty: nowhere
    view<T> q, k, v;                      // roped, [S/CP, B, heads or kv over TP, d], or what the context policy has made of them
    view<T> out;                          // [S/CP, B, heads/TP, d]; out and lse only where they are kept
    view<A> lse;                          // [B, heads/TP, S/CP]
    typename norm_layer<Precision>::saved query_norm,
        key_norm;  // q and k as projected, and a number per token and head; where heads are normalised
  };

  /// Local, or collective over cp where the context policy makes groups (cp_combined). `sequence` is S; tp and cp must outlive the layer. Throws config_error if model, sequence or weights do not fit the groups.
  /// keep_core: off, attention over the kept q, k and v is computed again in backward (core/recompute.hpp).
  attention_layer(const model_shape& model, extent_t sequence, attention_weights<Precision> weights, Comm& tp, Comm& cp,
                  bool keep_core = true)
      : attention_layer(model, sequence, weights, tp, cp, std::make_shared<context_groups>(cp, false), keep_core) {}
  /// The same on groups of the context policy that several layers share.
  attention_layer(const model_shape& model, extent_t sequence, attention_weights<Precision> weights, Comm& tp, Comm& cp,
                  std::shared_ptr<context_groups> groups, bool keep_core = true)
      : attention_layer(model, sequence, weights, tp, cp, std::move(groups), keep_core,
                        std::make_shared<const std::vector<std::int32_t>>(context_positions(sequence, cp.size()))) {}
  /// The same with positions that several layers share: context_positions(sequence, cp.size()), in memory of the exec that the layer runs on, which must
  /// outlive it.
  attention_layer(const model_shape& model, extent_t sequence, attention_weights<Precision> weights, Comm& tp, Comm& cp,
                  std::shared_ptr<context_groups> groups, bool keep_core, std::span<const std::int32_t> positions)
      : model_(model), weights_(weights), tp_(&tp), cp_(&cp), groups_(std::move(groups)), keep_core_(keep_core), positions_(positions) {
    require<config_error>(extent_t(positions.size()) == sequence, "moefold: attention over sequences of ", sequence, " tokens was given ",
                          positions.size(), " positions; pass context_positions(sequence, cp)");
    check(model);
    require_window(sequence, model.sliding_window);
    require_heads(model.heads, tp.size());
    require_kv_heads(model.kv_heads, tp.size());
    require_pieces(sequence, sequence_pieces(tp.size(), cp.size()));
    require_context_ranks(cp.size(), context_pieces(Context::facts, cp.size()));
    require_context_heads(model.kv_heads, head_pieces(Context::facts, tp.size(), cp.size()));
    const extent_t q_width = model.q_width() / tp.size(), kv_width = model.kv_width() / tp.size();
    require_weight(name_of(parameter_kind::query), weights.query.weight, {q_width, model.hidden});
    require_weight(name_of(parameter_kind::key), weights.key.weight, {kv_width, model.hidden});
    require_weight(name_of(parameter_kind::value), weights.value.weight, {kv_width, model.hidden});
    require_weight(name_of(parameter_kind::output), weights.output.weight, {model.hidden, q_width});
    const auto of_model = [](bool there, extent_t width) { return shape{there ? width : 0}; };
    require_weight(name_of(parameter_kind::query_bias), weights.query_bias, of_model(model.qkv_bias, q_width));
    require_weight(name_of(parameter_kind::key_bias), weights.key_bias, of_model(model.qkv_bias, kv_width));
    require_weight(name_of(parameter_kind::value_bias), weights.value_bias, of_model(model.qkv_bias, kv_width));
    require_weight(name_of(parameter_kind::query_norm), weights.query_norm, of_model(model.qk_norm, model.head_dim));
    require_weight(name_of(parameter_kind::key_norm), weights.key_norm, of_model(model.qk_norm, model.head_dim));
  }

  /// x [T/TP, H] -> y [T/TP, H], assigned. first: where the documents of packed sequences begin, read until backward. Collective over tp and cp.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s, std::span<const std::int32_t> first = {}) const {
    const extent_t tokens = x.extent(0) * tp_->size(), part = extent_t(positions_.size()) / cp_->size(), batch = tokens / part;
    require(part * batch == tokens, "moefold: attention got ", tokens, " tokens per CP part, which is no multiple of S/CP = ", part);
    const extent_t heads = model_.heads / tp_->size(), kv = model_.kv_heads / tp_->size(), d = model_.head_dim;
    s = {x,
         first,
         keep.template take<T>(part, batch, heads, d),
         keep.template take<T>(part, batch, kv, d),
         keep.template take<T>(part, batch, kv, d),
         {},
         {},
         {},
         {}};
    if (keep_core_) take_core(keep, s);
    const auto raw = [&](view<T> head) { return model_.qk_norm ? keep.template take<T>(head.shape()) : head; };
    const view<T> q = raw(s.q), k = raw(s.k);  // before the norms
    {
      scratch local(e);
      view<const T> all = gather_rows_of_group<T>(e, *tp_, x, local);
      project(e, weights_.query, weights_.query_bias, all, q.as({tokens, heads * d}));
      project(e, weights_.key, weights_.key_bias, all, k.as({tokens, kv * d}));
      project(e, weights_.value, weights_.value_bias, all, s.v.as({tokens, kv * d}));
    }
    if (model_.qk_norm) {
      norm(weights_.query_norm).forward(e, view<const T>(by_head(q)), by_head(s.q), keep, s.query_norm);
      norm(weights_.key_norm).forward(e, view<const T>(by_head(k)), by_head(s.k), keep, s.key_norm);
    }
    rope_forward(e, s.q, own_positions(), model_.rope_theta);
    rope_forward(e, s.k, own_positions(), model_.rope_theta);
    scratch local(e);
    const saved core = core_of(e, s, true, local);
    view<T> partial = partial_rows<T, Exec>(*tp_, y, local);
    weights_.output.forward(e, view<const T>(core.out.as({tokens, heads * d})), partial);
    sum_and_scatter_rows<T>(e, *tp_, partial, y);
  }

  /// dy [T/TP, H] -> dx [T/TP, H], assigned; weight gradients are accumulated. Collective over tp and cp.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& kept) const {
    scratch local(e);
    const saved s = core_of(e, kept, false, local);
    const extent_t tokens = dy.extent(0) * tp_->size(), q_width = s.q.extent(2) * s.q.extent(3), kv_width = s.k.extent(2) * s.k.extent(3);
    view<T> dout = local.template take<T>(s.out.shape()), dq = local.template take<T>(s.q.shape());
    view<T> dk = local.template take<T>(s.k.shape()), dv = local.template take<T>(s.v.shape());
    weights_.output.backward(e, gather_rows_of_group<T>(e, *tp_, dy, local), view<const T>(s.out.as({tokens, q_width})),
                             dout.as({tokens, q_width}));
    Context::template backward<T, A>(e, *groups_, map(s), dout, s.q, s.k, s.v, s.out, s.lse, dq, dk, dv);
    rope_backward(e, dq, own_positions(), model_.rope_theta);
    rope_backward(e, dk, own_positions(), model_.rope_theta);
    if (model_.qk_norm) {
      norm(weights_.query_norm).backward(e, view<const T>(by_head(dq)), by_head(dq), s.query_norm);
      norm(weights_.key_norm).backward(e, view<const T>(by_head(dk)), by_head(dk), s.key_norm);
    }
    if (model_.qkv_bias) {  // at once, whatever is deferred: it costs next to nothing
      bias_backward(e, dq.as({tokens, q_width}), weights_.query_bias.gradient);
      bias_backward(e, dk.as({tokens, kv_width}), weights_.key_bias.gradient);
      bias_backward(e, dv.as({tokens, kv_width}), weights_.value_bias.gradient);
    }
    view<const T> x = gather_rows_of_group<T>(e, *tp_, s.x, local);
    view<T> partial = partial_rows<T, Exec>(*tp_, dx, local);
    weights_.query.backward(e, view<const T>(dq.as({tokens, q_width})), x, partial);
    weights_.key.backward(e, view<const T>(dk.as({tokens, kv_width})), x, partial, T(1));
    weights_.value.backward(e, view<const T>(dv.as({tokens, kv_width})), x, partial, T(1));
    sum_and_scatter_rows<T>(e, *tp_, partial, dx);
  }

 private:
  attention_layer(const model_shape& model, extent_t sequence, attention_weights<Precision> weights, Comm& tp, Comm& cp,
                  std::shared_ptr<context_groups> groups, bool keep_core, std::shared_ptr<const std::vector<std::int32_t>> own)
      : attention_layer(model, sequence, weights, tp, cp, std::move(groups), keep_core, std::span<const std::int32_t>(*own)) {
    own_positions_ = std::move(own);
  }
  /// y = x W^T, and the bias where there is one.
  template <class Exec>
  static void project(Exec e, const linear<Precision, rows_over_tp>& weight, const parameter<Precision, rows_over_tp>& bias,
                      view<const T> x, view<T> y) {
    if (bias.value.empty()) return weight.forward(e, x, y);
    bias_forward(e, bias.value, y);
    weight.forward(e, x, y, T(1));
  }
  norm_layer<Precision> norm(const parameter<Precision, replicated>& gain) const { return {gain, model_.norm_eps}; }
  /// [S/CP, B, heads, d] as a row for every token and head.
  static view<T> by_head(view<T> x) { return x.as({x.extent(0) * x.extent(1) * x.extent(2), x.extent(3)}); }
  template <class Arena>
  static void take_core(Arena& to, saved& s) {
    s.out = to.template take<T>(s.q.shape());
    s.lse = to.template take<A>(s.q.extent(1), s.q.extent(2), s.q.extent(0));
  }
  /// s with out and lse: computed in forward, and once more in backward where they were not kept.
  template <class Exec>
  saved core_of(Exec e, saved s, bool forward, scratch<Exec>& local) const {
    if (!forward && keep_core_) return s;
    if (!keep_core_) {  // the policy may leave other numbers in q, k and v
      take_core(local, s);
      for (view<T>* x : {&s.q, &s.k, &s.v}) {
        const view<T> own = local.template take<T>(x->shape());
        copy(e, view<const T>(*x), own);
        *x = own;
      }
    }
    Context::template forward<T, A>(e, *groups_, map(s), s.q, s.k, s.v, s.out, s.lse);
    return s;
  }
  sequence_map map(const saved& s) const { return {positions_, s.first}; }
  std::span<const std::int32_t> own_positions() const {
    return sequence_map{positions_, {}}.part(mutated(mutant::local_positions) ? 0 : cp_->rank(), cp_->size()).position;
  }

  model_shape model_;
  attention_weights<Precision> weights_;
  Comm* tp_;
  Comm* cp_;
  std::shared_ptr<context_groups> groups_;
  bool keep_core_;
  std::span<const std::int32_t> positions_;                         // [S], rank after rank
  std::shared_ptr<const std::vector<std::int32_t>> own_positions_;  // behind positions_, where nobody else keeps them
};

/// The block at the surface: carries its mesh in its type, and a wrong one does not compile. For trainers of one's own, on weights in one's own memory.
template <class Policy, class Mesh, class Comm>
class attention
    : check_heads<Policy::model.heads, extent_of<Mesh, tag::tp>>,
      check_kv_heads<Policy::model.kv_heads, extent_of<Mesh, tag::tp>>,
      check_window<Policy::sequence, Policy::model.sliding_window>,
      check_pieces<Policy::sequence, sequence_pieces(extent_of<Mesh, tag::tp>, extent_of<Mesh, tag::cp>)>,
      check_context_ranks<extent_of<Mesh, tag::cp>, context_pieces(Policy::context::facts, extent_of<Mesh, tag::cp>)>,
      check_context_heads<Policy::model.kv_heads, head_pieces(Policy::context::facts, extent_of<Mesh, tag::tp>, extent_of<Mesh, tag::cp>)>,
      public attention_layer<typename Policy::precision, Comm, typename Policy::context> {
 public:
  using base = attention_layer<typename Policy::precision, Comm, typename Policy::context>;
  /// tp and cp are the communicators of this rank's groups<Mesh, tag::tp> and groups<Mesh, tag::cp>.
  attention(attention_weights<typename Policy::precision> weights, Comm& tp, Comm& cp)
      : base(Policy::model, Policy::sequence, weights, sized(tp, cp), cp) {}

 private:
  /// tp, once both groups have the sizes of the mesh: said before the layer below looks at weights and sequence.
  static Comm& sized(Comm& tp, const Comm& cp) {
    constexpr extent_t tp_ranks = extent_of<Mesh, tag::tp>, cp_ranks = extent_of<Mesh, tag::cp>;
    require<config_error>(tp.size() == tp_ranks && cp.size() == cp_ranks, "moefold: attention on a mesh with tp ", tp_ranks, " and cp ",
                          cp_ranks, " was given groups of ", tp.size(), " and ", cp.size(),
                          " ranks; split the world by groups<Mesh, tag::tp> and groups<Mesh, tag::cp>");
    return tp;
  }
};

}  // namespace moefold
