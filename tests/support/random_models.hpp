#pragma once
// Random small models and foldings of them, the same for the same number on every machine. Odd sizes on purpose: whatever divides is legal.
#include <moefold/core/model_shape.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/mesh/extents.hpp>

#include <vector>

namespace moefold::testing {

/// Independent whole numbers by (case, name).
class random_numbers {
 public:
  explicit random_numbers(std::uint64_t seed) : seed_(seed) {}
  /// 0 .. below - 1.
  extent_t operator()(std::uint64_t i, std::string_view name, extent_t below) const {
    return extent_t(random_stream(seed_, name).bits(i) % std::uint64_t(below));
  }
  template <class T>
  T of(std::uint64_t i, std::string_view name, std::initializer_list<T> choices) const {
    return choices.begin()[(*this)(i, name, extent_t(choices.size()))];
  }

 private:
  std::uint64_t seed_;
};

/// A legal model: heads 4, experts 4 or 8, widths that 1, 2 and 4 divide.
inline model_shape random_model(const random_numbers& draw, std::uint64_t i) {
  model_shape m;
  m.layers = 4 + draw(i, "layers", 6), m.hidden = 4 * (1 + draw(i, "hidden", 5));
  m.heads = 4, m.kv_heads = 4, m.head_dim = 2 * (1 + draw(i, "head_dim", 3));
  m.experts = draw.of<extent_t>(i, "experts", {4, 8}), m.top_k = 2 + draw(i, "top_k", 2), m.ffn = 4 * (1 + draw(i, "ffn", 6));
  m.vocabulary = 20 + draw(i, "vocabulary", 30);
  if (draw(i, "gelu", 4) == 0) m.activation = activation_function::gelu;
  m.qkv_bias = draw(i, "bias", 3) == 0, m.qk_norm = draw(i, "norm", 3) == 0, m.tied_embeddings = draw(i, "tied", 3) == 0;
  if (draw(i, "shared", 3) == 0) m.shared_ffn = 4 * (1 + draw(i, "shared_ffn", 5)), m.shared_gate = draw(i, "shared_gate", 2) == 0;
  if (draw(i, "dense", 3) == 0) m.dense_layers = 1 + draw(i, "dense_layers", m.layers), m.dense_ffn = 4 * (1 + draw(i, "dense_ffn", 6));
  return m;
}

/// A legal folding of a random_model: TP, ETP, EP and CP of 1, 2 or 4, up to 4 stages of up to 2 chunks, weighing or not.
inline folding_extents random_folding(const random_numbers& draw, std::uint64_t i, const model_shape& m) {
  using enum axis_id;
  const extent_t tp_ranks = extent_t{1} << draw(i, "tp", 3), cp_ranks = extent_t{1} << draw(i, "cp", 3),
                 etp_ranks = extent_t{1} << draw(i, "etp", 3), ep_ranks = extent_t{1} << draw(i, "ep", 3), pp_ranks = 1 + draw(i, "pp", 4);
  extent_t dp_ranks = (extent_t{1} << draw(i, "dp", 4)) * (1 + 2 * draw(i, "odd", 2));
  while (tp_ranks * cp_ranks * dp_ranks % (etp_ranks * ep_ranks) != 0) dp_ranks *= 2;
  folding_extents fold =
      make_folding({{tp, tp_ranks}, {cp, cp_ranks}, {dp, dp_ranks}, {pp, pp_ranks}},
                   {{etp, etp_ranks}, {ep, ep_ranks}, {edp, tp_ranks * cp_ranks * dp_ranks / (etp_ranks * ep_ranks)}, {pp, pp_ranks}});
  if (pp_ranks * 2 <= m.layers) fold.layers.chunks = 1 + draw(i, "chunks", 2);
  const bool spare = m.layers >= pp_ranks * fold.layers.chunks;
  fold.layers.embedding_weighs = spare && draw(i, "embedding", 3) == 0, fold.layers.head_weighs = spare && draw(i, "head", 3) == 0;
  return fold;
}

}  // namespace moefold::testing
