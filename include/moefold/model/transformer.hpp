#pragma once
// One pipeline stage of the transformer, as one rank holds it: embedding on the first stage, its blocks, final norm and loss on the last.
//
//   stage 0:  ids -> embedding -> blocks -> y        stage p:  x -> blocks -> y        last:  x -> blocks -> norm -> head and loss
#include <moefold/comm/groups.hpp>
#include <moefold/layers/embedding.hpp>
#include <moefold/layers/loss.hpp>
#include <moefold/layers/parameter_store.hpp>
#include <moefold/model/block.hpp>

#include <vector>

namespace moefold {

/// The tokens of one micro-batch as one CP part sees them.
struct micro_batch {
  batch_place place{};
  std::vector<std::int32_t> ids;     // [S/CP, B] in the part's own order; read on the first stage
  std::vector<std::int32_t> labels;  // the same shape; read on the last stage; negative: ignored
};

template <class Precision, class Comm, class Context = cp_all_gather, class MoePolicy = moe_defaults>
class transformer_stage {
 public:
  using T = typename Precision::storage;
  using block_type = block_layer<Precision, Comm, Context, MoePolicy>;

  /// What one micro-batch in flight keeps between its forward and its backward. Reused from step to step.
  struct saved {
    arena keep;
    const micro_batch* batch = nullptr;  // the caller's
    view<T> input;                       // [T/TP, H], received from the previous stage
    view<T> output;                      // [T/TP, H], sent to the next stage
    std::vector<typename block_type::saved> blocks;
    typename norm_layer<Precision>::saved norm;
    typename loss_layer<Precision, Comm>::saved loss;
  };

  /// Local. The store and the groups must outlive the stage. Throws config_error if the model does not fit the folding.
  transformer_stage(const model_shape& model, extent_t sequence, const folding_extents& fold, extent_t rank,
                    parameter_store<Precision>& store, group_set<Comm>& groups)
      : model_(model), stage_(stage_of(fold, rank)), stages_(fold.attention.of(axis_id::pp)),
        layers_(stage_layers(model.layers, stages_, stage_)) {
    check(model, sequence, fold);
    using enum parameter_kind;
    Comm &tp = groups.template over<tag::tp>(), &cp = groups.template over<tag::cp>();
    Comm &ep = groups.template over<tag::ep>(), &etp = groups.template over<tag::etp>();
    const auto norm = [&](parameter_kind kind, extent_t layer) {
      return norm_layer<Precision>{store.template get<replicated>(kind, layer), model.norm_eps};
    };
    if (first()) embedding_ = {store.template get<rows_over_tp>(embedding), &tp, model.vocabulary};
    for (extent_t l = layers_.first; l < layers_.first + layers_.count; ++l) {
      attention_weights<Precision> a{{store.template get<rows_over_tp>(query, l)},
                                     {store.template get<rows_over_tp>(key, l)},
                                     {store.template get<rows_over_tp>(value, l)},
                                     {store.template get<columns_over_tp>(output, l)}};
      moe_weights<Precision> m{store.template get<replicated>(router, l), store.template get<expert_rows>(gate, l),
                               store.template get<expert_rows>(up, l), store.template get<expert_columns>(down, l)};
      blocks_.emplace_back(norm(attention_norm, l), attention_layer<Precision, Comm, Context>(model, sequence, a, tp, cp),
                           norm(moe_norm, l), moe_layer<Precision, Comm, MoePolicy>(model, m, ep, etp));
    }
    if (last()) {
      norm_ = norm(final_norm, -1);
      loss_ = {{store.template get<rows_over_tp>(head)}, &tp, model.vocabulary};
    }
  }

  bool first() const { return stage_ == 0; }
  bool last() const { return stage_ == stages_ - 1; }
  const layer_range& layers() const { return layers_; }

  /// Runs the stage on *s.batch (first stage) or s.input; leaves s.output (not last) or returns the summed loss of this rank's own tokens (last,
  /// else 0). Everything kept is in s.keep, behind s.input. Collective over tp, cp, ep and etp.
  template <class Exec>
  double forward(Exec e, saved& s, routing_tap* tap) const {
    const extent_t rows = s.batch->place.part.local_tokens() * s.batch->place.batch;
    view<T> x = s.input;
    if (first()) {
      x = s.keep.template take<T>(rows, model_.hidden);
      embedding_.forward(e, s.batch->ids, x);
    }
    s.blocks.resize(blocks_.size());
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      view<T> y = s.keep.template take<T>(rows, model_.hidden);
      blocks_[b].forward(e, view<const T>(x), y, s.keep, s.blocks[b], layers_.first + extent_t(b), s.batch->place, tap);
      x = y;
    }
    s.output = x;
    if (!last()) return 0;
    view<T> normed = s.keep.template take<T>(rows, model_.hidden);
    norm_.forward(e, view<const T>(x), normed, s.keep, s.norm);
    return loss_.forward(e, view<const T>(normed), s.batch->labels, s.keep, s.loss);
  }

  /// dy [T/TP, H]: gradient of s.output (ignored on the last stage) -> dx [T/TP, H]: gradient of s.input (unused on the first stage).
  /// Parameter gradients are accumulated. Collective over tp, cp, ep and etp.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    scratch local(e);
    view<T> from = local.template take<T>(dx.extent(0), dx.extent(1)), to = local.template take<T>(dx.extent(0), dx.extent(1));
    if (last()) {
      loss_.backward(e, to, s.loss);
      norm_.backward(e, view<const T>(to), from, s.norm);
    } else {
      copy(e, dy, from);
    }
    for (std::size_t b = blocks_.size(); b-- > 0;) {
      blocks_[b].backward(e, view<const T>(from), to, s.blocks[b]);
      std::swap(from, to);
    }
    if (first())
      embedding_.backward(e, view<const T>(from), s.batch->ids);
    else
      copy(e, view<const T>(from), dx);
  }

  /// Adds this rank's choices of the micro-batch to load [layers of the whole model, E].
  void add_load(const saved& s, view<std::int64_t> load) const {
    for (std::size_t b = 0; b < blocks_.size(); ++b)
      for (const std::int32_t expert : s.blocks[b].moe.router.choice.expert) ++load(layers_.first + extent_t(b), expert);
  }

 private:
  model_shape model_;
  extent_t stage_, stages_;
  layer_range layers_;
  embedding_layer<Precision, Comm> embedding_;
  std::vector<block_type> blocks_;
  norm_layer<Precision> norm_;
  loss_layer<Precision, Comm> loss_;
};

}  // namespace moefold
