#pragma once
// One pipeline stage of the transformer, as one rank holds it: embedding in the first chunk of the first stage, blocks, final norm and loss in the last
// chunk of the last. A chunk is a run of neighbouring layers; a stage has one unless its schedule interleaves. A chunk may have no block at all.
//
//   first:  ids -> embedding -> blocks -> y        then:  x -> blocks -> y        last:  x -> blocks -> norm -> head and loss
#include <moefold/comm/groups.hpp>
#include <moefold/inventory/traffic.hpp>
#include <moefold/layers/embedding.hpp>
#include <moefold/layers/loss.hpp>
#include <moefold/layers/parameter_store.hpp>
#include <moefold/model/block.hpp>
#include <moefold/model/stage_events.hpp>

#include <vector>

namespace moefold {

/// The tokens of one micro-batch as one CP part sees them.
struct micro_batch {
  batch_place place{};
  std::vector<std::int32_t> ids;        // [S/CP, B] in the part's own order; read on the first stage
  std::vector<std::int32_t> labels;     // the same shape; read on the last stage; negative: ignored
  std::vector<std::uint8_t> padding{};  // the same shape, not 0: padding; empty: none. Read on every stage
  std::vector<std::int32_t>
      first{};             // [S, B], rank after rank of cp: where each token's document begins; empty: one document. Read on every stage
  extent_t index = 0;      // which micro-batch of the step
  double loss_weight = 1;  // N / T_step (moe/routing.hpp)
  std::uint64_t seed = 0;  // of jitter
  bool training = true;

  /// What the MoE layers of a rank need to know of its own tokens. `padded`: padding, where the exec reads it.
  routing_context context(std::span<const std::uint8_t> padded, routing_tap* tap) const {
    const std::size_t own = std::size_t(place.part.local_tokens() * place.batch), begin = std::size_t(place.part.tp_rank) * own;
    return {place, padded.empty() ? padded : padded.subspan(begin, own), loss_weight, index, seed, training, tap};
  }
};

/// Exec: what it runs on; its memory holds the parameters and everything that is kept.
template <class Precision, class Comm, class Context = cp_all_gather, class MoePolicy = moe_defaults, class Exec = host_exec>
class transformer_stage {
 public:
  using T = typename Precision::storage;
  using exec = Exec;
  using memory = typename Exec::memory;
  using block_type = block_layer<Precision, Comm, Context, MoePolicy>;

  /// What one micro-batch in flight in one chunk keeps between its forward and its backward. Reused from step to step.
  struct saved {
    basic_arena<memory> keep;
    int chunk = 0;
    deferred_products_of<Exec> deferred;   // weight gradients that backward_input left for backward_weight
    basic_arena<memory>* again = nullptr;  // of the rank, for what is recomputed; none needed where nothing is
    basic_arena<memory>* head = nullptr;   // for what head and loss keep; left out, it lies in keep
    const micro_batch* batch = nullptr;    // the caller's
    std::span<const std::int32_t> ids;     // the batch's, where the exec reads them; of the first chunk
    view<T> input;                         // [T/TP, H], received from the previous stage
    view<T> output;                        // [T/TP, H], sent to the next stage
    std::vector<typename block_type::saved> blocks;
    typename norm_layer<Precision>::saved norm;
    typename loss_layer<Precision, Comm>::saved loss;
  };

  /// Local, or collective over cp where the context policy makes communicators (cp_combined; a ring with overlap). The store, the groups and the states
  /// must outlive the stage. Throws config_error if the model does not fit the folding.
  /// states: what the routers remember between steps; may be left out where neither the model nor a balance loss needs it.
  /// scales: what products with 8-bit inputs remember between steps; left out, they scale by the tensors of the moment.
  /// e: an exec of the stage's type; on the host it may be left out.
  template <works_on<memory> E>
  transformer_stage(E e, const model_shape& model, extent_t sequence, const folding_extents& fold, extent_t rank,
                    parameter_store<Precision, memory>& store, group_set<Comm>& groups,
                    router_states<typename Precision::accumulate, memory>* states = nullptr, const moe_facts& facts = facts_of<MoePolicy>(),
                    const recompute_rule& recompute = {}, bool overlap = false, scaling_states<Precision>* scales = nullptr)
      : model_(model), numbers_(activation_shape{model, fold, sequence, 1, facts}), recompute_(recompute), stage_(stage_of(fold, rank)),
        stages_(fold.attention.of(axis_id::pp)) {
    check(model, sequence, fold);
    using enum parameter_kind;
    const auto context = std::make_shared<typename block_type::attention_type::context_groups>(groups.template over<tag::cp>(), overlap);
    Comm &tp = groups.template over<tag::tp>(), &cp = groups.template over<tag::cp>();
    {
      const std::vector<std::int32_t> positions = context_positions(sequence, cp.size());
      positions_ = uploaded<memory>(e, std::span(positions));
    }
    const moe_groups<Comm> over{&groups.template over<tag::ep>(), &groups.template over<tag::etp>(), &tp,
                                &groups.template over<tag::tp, tag::cp>(), &groups.template over<tag::tp, tag::cp, tag::dp>()};
    const bool gated = model.activation == activation_function::swiglu;
    const auto norm = [&](parameter_kind kind, extent_t layer) {
      return norm_layer<Precision>{store.template get<replicated>(kind, layer), model.norm_eps};
    };
    const auto seen = [&](parameter_kind weight, extent_t layer) {
      return scales ? scales->of(layer, weight) : product_inputs<Precision>{};
    };
    if (first()) embedding_ = {store.template get<rows_over_tp>(embedding), &tp, model.vocabulary};
    for (extent_t c = 0; c < fold.layers.chunks; ++c) {
      const layer_range own = chunk_layers(model.layers, fold, stage_, c);
      chunks_.push_back({own, c == 0 ? 0 : chunks_.back().first_block + std::size_t(chunks_.back().layers.count)});
    }
    for_each_layer(model.layers, fold, stage_, [&](extent_t l) {
      attention_weights<Precision> a{{store.template get<rows_over_tp>(query, l), seen(query, l)},
                                     {store.template get<rows_over_tp>(key, l), seen(key, l)},
                                     {store.template get<rows_over_tp>(value, l), seen(value, l)},
                                     {store.template get<columns_over_tp>(output, l), seen(output, l)}};
      if (model.qkv_bias) {
        a.query_bias = store.template get<rows_over_tp>(query_bias, l);
        a.key_bias = store.template get<rows_over_tp>(key_bias, l);
        a.value_bias = store.template get<rows_over_tp>(value_bias, l);
      }
      if (model.qk_norm)
        a.query_norm = store.template get<replicated>(query_norm, l), a.key_norm = store.template get<replicated>(key_norm, l);
      using enum recompute_part;
      attention_layer<Precision, Comm, Context> attend(model, sequence, a, tp, cp, context, !recompute.has(core_attention),
                                                       positions_.view());
      if (model.dense(l)) {
        mlp_weights<Precision> m{{}, {store.template get<rows_over_tp>(mlp_up, l)}, {store.template get<columns_over_tp>(mlp_down, l)}, {}};
        if (gated) m.gate = {store.template get<rows_over_tp>(mlp_gate, l)};
        blocks_.emplace_back(norm(attention_norm, l), std::move(attend), norm(mlp_norm, l),
                             mlp_layer<Precision, Comm>{m, model.activation, &tp, !recompute.has(activation)}, recompute);
        return;
      }
      moe_weights<Precision> m{store.template get<replicated>(router, l),
                               {},
                               store.template get<expert_rows>(up, l),
                               store.template get<expert_columns>(down, l),
                               {}};
      m.inputs = {seen(gate, l), seen(up, l), seen(down, l)};
      if (gated) m.gate = store.template get<expert_rows>(gate, l);
      if (model.shared_ffn > 0) {
        if (gated) m.shared.gate = {store.template get<rows_over_tp>(shared_gate, l), seen(shared_gate, l)};
        m.shared.up = {store.template get<rows_over_tp>(shared_up, l), seen(shared_up, l)};
        m.shared.down = {store.template get<columns_over_tp>(shared_down, l), seen(shared_down, l)};
        if (model.shared_gate) m.shared.output = store.template get<replicated>(shared_output_gate, l);
      }
      blocks_.emplace_back(
          norm(attention_norm, l), std::move(attend), norm(moe_norm, l),
          moe_layer<Precision, Comm, MoePolicy>(model, m, over, states ? states->of(l) : router_state<typename Precision::accumulate>{},
                                                facts, !recompute.has(activation)),
          recompute);
    });
    if (last(chunks() - 1)) {
      norm_ = norm(final_norm, -1);
      loss_ = {{store.template get<rows_over_tp>(model.tied_embeddings ? embedding : head)}, &tp, model.vocabulary};
    }
  }

  transformer_stage(const model_shape& model, extent_t sequence, const folding_extents& fold, extent_t rank,
                    parameter_store<Precision>& store, group_set<Comm>& groups,
                    router_states<typename Precision::accumulate>* states = nullptr, const moe_facts& facts = facts_of<MoePolicy>(),
                    const recompute_rule& recompute = {}, bool overlap = false,
                    scaling_states<Precision>* scales = nullptr) requires works_on<Exec, host_memory>
      : transformer_stage(no_exec{}, model, sequence, fold, rank, store, groups, states, facts, recompute, overlap, scales) {}

  int chunks() const { return int(chunks_.size()); }
  bool first(int chunk = 0) const { return stage_ == 0 && chunk == 0; }
  bool last(int chunk = 0) const { return stage_ == stages_ - 1 && chunk == chunks() - 1; }
  const layer_range& layers(int chunk = 0) const { return chunks_[std::size_t(chunk)].layers; }

  /// Runs chunk s.chunk on *s.batch (first chunk) or s.input; leaves s.output (not last) or adds the summed loss of this rank's own tokens to loss [1]
  /// (last). Everything kept is in s.keep, behind s.input, and *s.head. Collective over tp, cp, ep and etp.
  void forward(Exec e, saved& s, routing_tap* tap, view<double> loss, const stage_events& events = {}) const {
    const micro_batch& batch = *s.batch;
    const extent_t rows = batch.place.part.local_tokens() * batch.place.batch;
    const std::span<const std::int32_t> documents = there(e, batch.first, s);
    const routing_context where = batch.context(there(e, batch.padding, s), tap);
    view<T> x = s.input;
    if (first(s.chunk)) {
      events.about_to_use(-1);
      s.ids = there(e, batch.ids, s);
      x = s.keep.template take<T>(rows, model_.hidden);
      embedding_.forward(e, s.ids, x);
    }
    const chunk_blocks& own = chunks_[std::size_t(s.chunk)];
    s.blocks.resize(std::size_t(own.layers.count));
    for (std::size_t b = 0; b < s.blocks.size(); ++b) {
      const extent_t layer = own.layers.first + extent_t(b);
      events.about_to_use(layer);
      view<T> y = s.keep.template take<T>(rows, model_.hidden);
      blocks_[own.first_block + b].forward(e, view<const T>(x), y, s.keep, again_of(s), s.blocks[b], layer, where, documents);
      x = y;
    }
    s.output = x;
    if (!last(s.chunk)) return;
    events.about_to_use(model_.layers);
    basic_arena<memory>& keep = s.head != nullptr ? *s.head : s.keep;
    view<T> normed = keep.template take<T>(rows, model_.hidden);
    norm_.forward(e, view<const T>(x), normed, keep, s.norm);
    loss_.forward(e, view<const T>(normed), there(e, batch.labels, s), keep, s.loss, loss);
  }

  /// dy [T/TP, H]: gradient of s.output (ignored on the last stage) -> dx [T/TP, H]: gradient of s.input (unused on the first stage).
  /// Parameter gradients are accumulated. Collective over tp, cp, ep and etp.
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s, const stage_events& events = {}) const {
    scratch local(e);
    view<T> from = local.template take<T>(dx.extent(0), dx.extent(1)), to = local.template take<T>(dx.extent(0), dx.extent(1));
    const bool first = this->first(s.chunk);
    if (last(s.chunk)) {
      loss_.backward(e, to, s.loss);
      norm_.backward(e, view<const T>(to), from, s.norm);
      events.gradients_ready(model_.layers);
    } else {
      copy(e, dy, from);
    }
    const chunk_blocks& own = chunks_[std::size_t(s.chunk)];
    for (std::size_t b = s.blocks.size(); b-- > 0;) {
      const block_type& block = blocks_[own.first_block + b];
      if (recompute_.any())
        block.backward(e, view<const T>(from), to, *s.again, s.blocks[b]);
      else
        block.backward(e, view<const T>(from), to, s.blocks[b]);
      events.gradients_ready(own.layers.first + extent_t(b));
      std::swap(from, to);
    }
    if (first) {
      embedding_.backward(e, view<const T>(from), s.ids);
      events.gradients_ready(-1);
    } else
      copy(e, view<const T>(from), dx);
  }

  /// The first part of backward: the gradient of the input. Weight gradients are left for backward_weight, but for those of norms, biases, embedding and
  /// the gate of a shared expert, which cost nothing. Collective as backward.
  void backward_input(Exec e, view<const T> dy, view<T> dx, saved& s) const {
    const deferring later(e, s.deferred);
    backward(e, dy, dx, s);
  }
  /// The second part: the weight gradients. Local.
  void backward_weight(Exec e, saved& s, const stage_events& events = {}) const {
    s.deferred.run(e);
    if (last(s.chunk)) events.gradients_ready(model_.layers);
    const layer_range& own = layers(s.chunk);
    for (extent_t l = own.first + own.count; l-- > own.first;) events.gradients_ready(l);
    if (first(s.chunk)) events.gradients_ready(-1);
  }

  /// Of the last chunk of the last stage, once its forward has run and in place of its backward: the likeliest token behind each of this rank's rows.
  /// ids [T/TP], in host memory. Collective over tp. Waits.
  void best_tokens(Exec e, const saved& s, view<std::int32_t> ids) const {
    require(last(s.chunk),
            "moefold: the next tokens are known to the last chunk of the last stage alone; ask the stage where last(chunk) holds");
    loss_.best_tokens(e, s.loss, ids);
  }

  /// Adds what this rank's layers counted in the micro-batch to all [layers of the whole model, layer_numbers::count], memory of the exec. Once per micro-batch, however
  /// often its forward was computed.
  void add_numbers(Exec e, const saved& s, view<double> all) const {
    const layer_range& own = layers(s.chunk);
    for (std::size_t b = 0; b < s.blocks.size(); ++b) {
      const extent_t layer = own.first + extent_t(b);
      if (!model_.dense(layer)) block_type::moe_type::add_numbers(e, s.blocks[b].moe, numbers_, all.rows(layer, 1));
    }
  }

 private:
  /// What the host has written, where the exec reads it, for as long as s.keep.
  template <class U>
  static std::span<const U> there(Exec e, const std::vector<U>& numbers, saved& s) {
    return on_exec(e, view<const U>(std::span(numbers)), s.keep).span();
  }
  basic_arena<memory>& again_of(saved& s) const {
    require(s.again != nullptr || !recompute_.any(), "moefold: a stage that recomputes (", describe(recompute_),
            ") needs an arena for it; point saved::again at one of the rank's");
    return s.again ? *s.again : s.keep;
  }

  model_shape model_;
  layer_numbers numbers_;
  recompute_rule recompute_;
  struct chunk_blocks {
    layer_range layers;
    std::size_t first_block;  // of blocks_
  };
  extent_t stage_, stages_;
  tensor<std::int32_t, memory> positions_;  // [S], rank after rank of cp
  std::vector<chunk_blocks> chunks_;
  embedding_layer<Precision, Comm> embedding_;
  std::vector<block_type> blocks_;
  norm_layer<Precision> norm_;
  loss_layer<Precision, Comm> loss_;
};

}  // namespace moefold
