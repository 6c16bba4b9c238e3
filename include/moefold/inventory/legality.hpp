#pragma once
// Whether a model fits a folding: each rule once, as a compile error for the types of a run and as the same sentence for values.
// In short: E % EP, F % ETP, heads, kv heads and shared ffn % TP, S % (TP*CP) and, when CP > 1, S % (2*CP*TP), S <= window; global batch % (DP*B).
#include <moefold/core/context_facts.hpp>
#include <moefold/core/layer_split.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/mesh/extents.hpp>
#include <moefold/mesh/folding.hpp>

namespace moefold {

MOEFOLD_RULE(heads, heads, tp, heads % tp == 0, "moefold: the attention heads must be a multiple of TP; choose a TP that divides them")
MOEFOLD_RULE(kv_heads, kv_heads, tp, kv_heads % tp == 0,
             "moefold: the key/value heads must be a multiple of TP; choose a TP that divides them, and use CP for the rest")
MOEFOLD_RULE(experts, experts, ep, experts % ep == 0, "moefold: the experts must be a multiple of EP; choose an EP that divides them")
MOEFOLD_RULE(ffn, ffn, etp, ffn % etp == 0, "moefold: the expert ffn width must be a multiple of ETP; choose an ETP that divides it")
MOEFOLD_RULE(shared_ffn, shared_ffn, tp, shared_ffn % tp == 0,
             "moefold: the shared expert's ffn width must be a multiple of TP; choose a TP that divides it")
MOEFOLD_RULE(dense_ffn, dense_ffn, tp, dense_ffn % tp == 0,
             "moefold: the ffn width of dense layers must be a multiple of TP; choose a TP that divides it")
MOEFOLD_RULE(pieces, sequence, pieces, sequence % pieces == 0,
             "moefold: the sequence must be a multiple of TP*CP, and of 2*CP*TP when CP > 1 (each CP rank owns two chunks); "
             "lengthen the sequence or lower CP or TP")
MOEFOLD_RULE(context_ranks, cp, exchanging, cp % exchanging == 0,
             "moefold: cp_combined<A> exchanges heads in groups of A ranks, so CP must be a multiple of A; change A or CP")
MOEFOLD_RULE(context_heads, kv_heads, tp_times_exchanging, kv_heads % tp_times_exchanging == 0,
             "moefold: exchanging heads for sequence needs key/value heads that are a multiple of TP * CP (of TP * A for cp_combined<A>); "
             "use cp_ring, or fewer context ranks")
MOEFOLD_RULE(length, sequence, least, sequence >= least, "moefold: a sequence is at least 1 token long")
MOEFOLD_RULE(
    window, sequence, sliding_window, sliding_window == 0 || sequence <= sliding_window,
    "moefold: the model's tokens see only sliding_window tokens back, and attention here sees the whole sequence: shorten the sequence to "
    "the window, where both are the same, or set sliding_window = 0 to train a model that sees everything")
MOEFOLD_RULE(depth, layers, virtual_stages, layers >= virtual_stages,
             "moefold: every pipeline stage, and every chunk of one, needs at least one layer; lower PP, or give layer counts")
MOEFOLD_RULE(batch, global_batch, dp_times_micro_batch, global_batch > 0 && global_batch % dp_times_micro_batch == 0,
             "moefold: the global batch must be a positive multiple of DP * micro-batch; change --global-batch or --micro-batch")

/// How a step's sequences are shared: global batch % (DP * micro-batch) == 0. Throws config_error; safe for any numbers.
constexpr void check_batch_size(extent_t global_batch, extent_t dp, extent_t micro_batch) {
  constexpr extent_t most = extent_t{1} << 24;  // sequences: micro-batches are counted in int
  require<config_error>(micro_batch > 0, "moefold: the micro-batch is at least 1 sequence (given ", micro_batch, ")");
  require<config_error>(global_batch <= most, "moefold: the global batch is at most ", most, " sequences (given ", global_batch, ")");
  require<config_error>(micro_batch <= most, "moefold: the micro-batch is at most ", most, " sequences (given ", micro_batch, ")");
  require_batch(global_batch, dp * micro_batch);
}

/// Equal pieces into which a sequence is cut: TP*CP, twice that when CP > 1.
constexpr extent_t sequence_pieces(extent_t tp, extent_t cp) { return cp > 1 ? 2 * cp * tp : cp * tp; }

/// The facts of a run's context policy.
template <class Run>
constexpr context_facts context_of = [] {
  if constexpr (requires { Run::context::facts; })
    return context_facts(Run::context::facts);
  else
    return context_facts{};
}();

/// Layers that a run needs at least: one for each virtual stage, unless it says otherwise.
template <class Run, extent_t Stages>
constexpr extent_t virtual_stages_of = [] {
  layer_split split;
  if constexpr (requires { Run::layers; }) split = Run::layers;
  if constexpr (requires { Run::schedule::chunks; }) split.chunks = Run::schedule::chunks;
  return least_layers(split, Stages);
}();

/// Whether a run's layer counts are those of its model and stages; no constant expression where they are not.
template <class Run, extent_t Stages>
constexpr bool layers_fit = [] {
  if constexpr (requires {
                  Run::layers;
                  Run::schedule::chunks;
                }) {
    layer_split split = Run::layers;
    split.chunks = Run::schedule::chunks;
    if (Stages > 0) check(split, Run::model.layers, Stages);
  }
  return true;
}();

/// Compile-time form: naming check_run<Run>::ok makes every broken rule of the run a compile error that shows its two numbers.
/// A dyn extent is -1 and divides everything: the run-time form below decides once the world size is known.
template <class Run, class Attention = typename Run::fold::attention, class Moe = typename Run::fold::moe>
struct check_run
    : check_model<Run::model>,
      check_length<Run::sequence, 1>,
      check_window<Run::sequence, Run::model.sliding_window>,
      check_heads<Run::model.heads, extent_of<Attention, tag::tp>>,
      check_kv_heads<Run::model.kv_heads, extent_of<Attention, tag::tp>>,
      check_experts<Run::model.experts, extent_of<Moe, tag::ep>>,
      check_ffn<Run::model.ffn, extent_of<Moe, tag::etp>>,
      check_shared_ffn<Run::model.shared_ffn, extent_of<Attention, tag::tp>>,
      check_pieces<Run::sequence, sequence_pieces(extent_of<Attention, tag::tp>, extent_of<Attention, tag::cp>)>,
      check_context_ranks<extent_of<Attention, tag::cp>, context_pieces(context_of<Run>, extent_of<Attention, tag::cp>)>,
      check_context_heads<Run::model.kv_heads, head_pieces(context_of<Run>, extent_of<Attention, tag::tp>, extent_of<Attention, tag::cp>)>,
      check_dense_ffn<Run::model.dense_ffn, extent_of<Attention, tag::tp>>,
      check_depth<Run::model.layers, virtual_stages_of<Run, extent_of<Attention, tag::pp>>> {
  static_assert(layers_fit<Run, extent_of<Attention, tag::pp>>);
  static constexpr bool ok = true;
};

/// Run-time form. Throws config_error naming the first rule that does not hold.
constexpr void check(const model_shape& model, extent_t sequence, const folding_extents& fold) {
  check(model);
  const extent_t tp = fold.attention.of(axis_id::tp), cp = fold.attention.of(axis_id::cp);
  require_heads(model.heads, tp);
  require_kv_heads(model.kv_heads, tp);
  require_experts(model.experts, fold.moe.of(axis_id::ep));
  require_ffn(model.ffn, fold.moe.of(axis_id::etp));
  require_shared_ffn(model.shared_ffn, tp);
  require_dense_ffn(model.dense_ffn, tp);
  require_length(sequence, 1);
  require_window(sequence, model.sliding_window);
  require_pieces(sequence, sequence_pieces(tp, cp));
  check(fold.layers, model.layers, fold.attention.of(axis_id::pp));
  require_depth(model.layers, least_layers(fold.layers, fold.attention.of(axis_id::pp)));
}

}  // namespace moefold
