#pragma once
// A dense model becomes a Mixture-of-Experts model: its MLPs are copied into experts, whole or cut into pieces, everything else stays, routers are new. He et
// al. 2024, "Upcycling Large Language Models into Mixture of Experts", arXiv 2410.07524. All of it is a list of segments of the dense model's files.
//
//   dense MLP  | piece 0 | piece 1 |    width Fd = G * F           G = 1: every expert is the whole MLP
//   experts    | 0 | 1 |   | 0 | 1 |    E, F: expert e is piece e % G of copy e / G; the routers' rows of one copy are equal (a virtual group)
//   down       * scale                  so that what a token's weights leave of a copy adds up to the dense MLP again
//
// The output at step 0 equals the dense model's, rounding aside, where `exact` says so: a token's weights have a sum that is known (softmax_after, or sigmoid
// scores with k > 1), it chooses whole copies (G divides k, and groups of experts hold whole copies), and no token is dropped. softmax_before and k = 1 sigmoid
// scores are scaled for a router that prefers nobody, and come near; where G does not divide k, a token sees parts of the MLP.
#include <moefold/core/rng.hpp>
#include <moefold/mesh/slice.hpp>
#include <moefold/model/names.hpp>

#include <span>

namespace moefold {

struct upcycling {
  extent_t pieces = 1;  // G
  double scale = 1;     // of the down matrices
  bool exact = false;
};

/// How `dense` (layers of its own only, as read_config gives it) becomes `m`. Throws config_error that names what does not fit.
constexpr upcycling upcycling_of(const model_shape& dense, const model_shape& m) {
  check(dense), check(m);
  const auto need = [](bool holds, const auto&... parts) {
    require<config_error>(holds, "moefold: the dense model cannot become this one: ", parts...);
  };
  need(dense.moe_layers() == 0, "it has MoE layers already; load it as it is");
  need(m.moe_layers() > 0, "no layer of this one has experts");
  const auto same = [&](const char* what, auto theirs, auto ours) {
    need(theirs == ours, "its ", what, " is ", theirs, ", this one's ", ours);
  };
  same("number of layers", dense.layers, m.layers);
  same("hidden", dense.hidden, m.hidden);
  same("number of heads", dense.heads, m.heads);
  same("kv_heads", dense.kv_heads, m.kv_heads);
  same("head_dim", dense.head_dim, m.head_dim);
  same("vocabulary", dense.vocabulary, m.vocabulary);
  same("rope_theta", dense.rope_theta, m.rope_theta);
  same("norm_eps", dense.norm_eps, m.norm_eps);
  same("qkv_bias", dense.qkv_bias, m.qkv_bias);
  same("qk_norm", dense.qk_norm, m.qk_norm);
  same("sliding_window", dense.sliding_window, m.sliding_window);
  need(dense.activation == m.activation, "one has SwiGLU, the other GELU");
  need(dense.tied_embeddings || !m.tied_embeddings,
       "its head is a matrix of its own, this one's is the embedding; leave tied_embeddings false");
  need(m.shared_ffn == 0, "a shared expert has nothing to start from; set shared_ffn to 0");
  if (m.dense_layers > 0) same("width of dense layers", dense.dense_ffn, m.dense_ffn);
  need(dense.dense_ffn % m.ffn == 0, "its width ", dense.dense_ffn, " is not a multiple of an expert's, ", m.ffn);
  upcycling u{dense.dense_ffn / m.ffn};
  need(m.experts % u.pieces == 0, "its MLPs are cut into ", u.pieces, " pieces, and ", m.experts, " experts are not whole copies");
  const bool sigmoid = m.score == score_function::sigmoid, known_sum = m.score == score_function::softmax_after || (sigmoid && m.top_k > 1);
  u.exact = known_sum && m.top_k % u.pieces == 0 && (m.experts / m.expert_groups) % u.pieces == 0;
  // What the weights of a token add up to: exactly, or at a router that prefers nobody. They are spread over k / G copies.
  const double sum = m.weight_scale * (known_sum ? 1 : sigmoid ? 0.5 : double(m.top_k) / double(m.experts));
  u.scale = double(u.pieces) / sum;
  return u;
}

/// Where a parameter of the upcycled model lies in the dense model's files, and by what to multiply it. No segments: a router, to be drawn.
struct upcycled_parameter {
  std::vector<published_segment> segments;
  double scale = 1;
};

/// Of m = what `dense` becomes. Cut experts' down matrices take a segment for each of their rows.
inline upcycled_parameter upcycled(const model_shape& dense, const model_shape& m, const parameter_fact& p) {
  using enum parameter_kind;
  const upcycling u = upcycling_of(dense, m);
  if (p.kind == router) return {};
  if (!of_expert(p.kind)) {
    parameter_fact theirs = p;
    if (p.kind == head && dense.tied_embeddings) theirs.kind = embedding;
    if (p.kind == moe_norm) theirs.kind = mlp_norm;
    return {published_segments(dense, theirs)};
  }
  parameter_fact mlp = p;
  const bool down_matrix = p.kind == down;
  mlp.kind = down_matrix ? mlp_down : p.kind == gate ? mlp_gate : mlp_up;
  mlp.extent = down_matrix ? shape{m.hidden, dense.dense_ffn} : shape{dense.dense_ffn, m.hidden};
  const published_segment whole = published_segments(dense, mlp).front();
  upcycled_parameter to{{}, down_matrix ? u.scale : 1};
  const extent_t size = m.ffn * m.hidden;
  for (extent_t e = 0; e < m.experts; ++e) {
    const extent_t piece = e % u.pieces;
    const auto add = [&](extent_t first_in_tensor, extent_t first, extent_t count) {
      to.segments.push_back({whole.tensor, first_in_tensor, e * size + first, count, whole.needed});
    };
    if (!down_matrix || u.pieces == 1)
      add(piece * size, 0, size);
    else  // a piece is some columns of [H, Fd]
      for (extent_t h = 0; h < m.hidden; ++h) add(h * dense.dense_ffn + piece * m.ffn, h * m.ffn, m.ffn);
  }
  return to;
}

/// A new router [E, H]: the numbers that initialisation draws for the first row of each copy, for all its rows. out: the piece's elements, in its order.
template <class T>
void draw_router(const upcycling& u, const parameter_fact& p, std::uint64_t seed, const tensor_piece& piece, std::span<T> out) {
  require(p.kind == parameter_kind::router && extent_t(out.size()) == piece.range.size(), "moefold: ", p.name(), " is no router, or its ",
          piece.range.size(), " elements do not fill ", out.size());
  const random_stream normal(seed, p.name());
  const extent_t hidden = p.extent[1], copy = u.pieces * hidden;
  piece.for_each_run([&](extent_t global, extent_t local, extent_t count) {
    for (extent_t i = 0; i < count; ++i) {
      const extent_t at = global + i;
      out[std::size_t(local + i)] = T(p.init_mean + p.init_std * normal.normal(std::uint64_t(at / copy * copy + at % hidden)));
    }
  });
}

}  // namespace moefold
