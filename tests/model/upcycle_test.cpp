#include <moefold/model/upcycle.hpp>

#include <moefold/model/llama.hpp>
#include <moefold/ops/route.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <numeric>

using namespace moefold;
using doctest::Contains;

namespace {

constexpr extent_t wide = 12;  // of the dense MLP
constexpr model_shape dense{.layers = 1,
                            .hidden = 6,
                            .heads = 2,
                            .kv_heads = 2,
                            .head_dim = 4,
                            .experts = 1,
                            .top_k = 1,
                            .ffn = wide,
                            .vocabulary = 5,
                            .score = score_function::softmax_before,
                            .dense_layers = 1,
                            .dense_ffn = wide};

/// `dense` as an MoE model of E experts of which a token uses k, each of them a piece of the MLP cut into so many.
constexpr model_shape moe(extent_t experts, extent_t k, extent_t pieces) {
  model_shape m = dense;
  m.dense_layers = m.dense_ffn = 0, m.experts = experts, m.top_k = k, m.ffn = wide / pieces, m.score = score_function::softmax_after;
  return m;
}
constexpr model_shape sigmoid(model_shape m, extent_t groups = 1, extent_t chosen = 1) {
  m.score = score_function::sigmoid, m.weight_scale = 2.5, m.expert_groups = groups, m.chosen_groups = chosen;
  return m;
}

std::vector<double> numbers(const std::string& name, extent_t count) {
  std::vector<double> x(std::size_t(count), 0.0);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = random_stream(3, name).normal(i);
  return x;
}
parameter_fact fact_of(const model_shape& m, parameter_kind kind) {
  parameter_fact found;
  for_each_parameter(m, folding_extents{}, 0, [&](const parameter_fact& p) {
    if (p.kind == kind) found = p;
  });
  return found;
}
/// The parameter's elements, taken from the dense model's tensors.
std::vector<double> weights(const model_shape& m, parameter_kind kind, const model_shape& from = dense) {
  const parameter_fact p = fact_of(m, kind);
  const upcycled_parameter to = upcycled(from, m, p);
  std::vector<double> all;
  for (const published_segment& s : to.segments) {
    REQUIRE(s.first == extent_t(all.size()));
    const std::vector<double> tensor = numbers(s.tensor, s.needed.size());
    REQUIRE(s.first_in_tensor + s.count <= extent_t(tensor.size()));
    for (extent_t i = 0; i < s.count; ++i) all.push_back(tensor[std::size_t(s.first_in_tensor + i)] * to.scale);
  }
  REQUIRE(extent_t(all.size()) == p.parameters());
  return all;
}
/// down (silu(gate x) * up x), of width F, added to y with a weight.
void mlp(const double* gate, const double* up, const double* down, extent_t ffn, const std::vector<double>& x, double weight,
         std::vector<double>& y) {
  const extent_t hidden = extent_t(x.size());
  for (extent_t f = 0; f < ffn; ++f) {
    const double g = std::inner_product(x.begin(), x.end(), gate + f * hidden, 0.0),
                 u = std::inner_product(x.begin(), x.end(), up + f * hidden, 0.0);
    for (extent_t h = 0; h < hidden; ++h) y[std::size_t(h)] += weight * down[h * ffn + f] * g / (1 + std::exp(-g)) * u;
  }
}
/// The largest difference between the MoE layer's output and the dense MLP's, over some tokens.
double difference(const model_shape& m, double router_width = 1) {
  const upcycling u = upcycling_of(dense, m);
  const std::vector<double> gate = weights(m, parameter_kind::gate), up = weights(m, parameter_kind::up),
                            down = weights(m, parameter_kind::down);
  const std::string mlp_name = "model.layers.0.mlp.";
  const std::vector<double> dense_gate = numbers(mlp_name + "gate_proj.weight", wide * m.hidden),
                            dense_up = numbers(mlp_name + "up_proj.weight", wide * m.hidden),
                            dense_down = numbers(mlp_name + "down_proj.weight", wide * m.hidden);
  parameter_fact p = fact_of(m, parameter_kind::router);
  p.init_std = router_width;
  std::vector<double> router(std::size_t(p.extent.size()), 0.0);
  draw_router(u, p, 11, {{p.extent, {}, p.extent}, {0, p.extent.size()}, p.extent.size()}, std::span(router));
  double worst = 0;
  for (extent_t token = 0; token < 20; ++token) {
    const std::vector<double> x = numbers("token " + std::to_string(token), m.hidden);
    std::vector<double> logits(std::size_t(m.experts), 0.0), scores, weight(std::size_t(m.top_k), 0.0), y(x.size(), 0.0),
        expected(x.size(), 0.0);
    for (extent_t e = 0; e < m.experts; ++e)
      logits[std::size_t(e)] = std::inner_product(x.begin(), x.end(), router.begin() + e * m.hidden, 0.0);
    scores = logits;
    std::vector<std::int32_t> chosen(std::size_t(m.top_k), 0), kept(std::size_t(m.experts), 0);
    std::vector<double> group(std::size_t(m.experts), 0.0), value(std::size_t(m.experts), 0.0);
    const route_rule rule(m);
    if (rule.groups > 1) detail::mask_groups(rule, m.experts, scores.data(), group.data(), kept.data(), value.data());
    detail::best_of(scores.data(), m.experts, m.top_k, chosen.data(), value.data());
    detail::weigh(rule, logits.data(), m.experts, chosen.data(), weight.data());
    const extent_t size = m.ffn * m.hidden;
    for (extent_t j = 0; j < m.top_k; ++j) {
      const extent_t at = chosen[std::size_t(j)] * size;
      mlp(gate.data() + at, up.data() + at, down.data() + at, m.ffn, x, weight[std::size_t(j)], y);
    }
    mlp(dense_gate.data(), dense_up.data(), dense_down.data(), wide, x, 1, expected);
    for (std::size_t h = 0; h < y.size(); ++h) worst = std::max(worst, std::abs(y[h] - expected[h]));
  }
  return worst;
}

}  // namespace

TEST_SUITE("model/upcycle") {
  TEST_CASE("copied and cut experts together compute the dense MLP, for every way of routing that promises it") {
    for (const model_shape& m : {moe(8, 2, 1), moe(8, 2, 2), moe(8, 4, 2), moe(12, 6, 3), moe(8, 4, 4), moe(4, 4, 4), sigmoid(moe(8, 2, 1)),
                                 sigmoid(moe(16, 4, 2), 4, 2), sigmoid(moe(16, 4, 2), 2, 1)}) {
      CAPTURE(m.experts);
      CAPTURE(m.top_k);
      CAPTURE(m.ffn);
      CHECK(upcycling_of(dense, m).exact);
      CHECK(difference(m) < 1e-11);
    }
  }
  TEST_CASE("where weights do not add up to what is known, the promise is not made; at a router that prefers nobody it comes near") {
    model_shape before = moe(8, 2, 1);
    before.score = score_function::softmax_before;
    for (const model_shape& m : {before, sigmoid(moe(8, 1, 1))}) {
      CHECK(!upcycling_of(dense, m).exact);
      CHECK(difference(m) > 1e-3);
      CHECK(difference(m, 1e-9) < 1e-6);
    }
  }
  TEST_CASE("a token that does not choose whole copies is not promised anything") {
    CHECK(!upcycling_of(dense, moe(8, 3, 2)).exact);
    CHECK(difference(moe(8, 3, 2)) > 1e-3);
    CHECK(!upcycling_of(dense, sigmoid(moe(12, 6, 6), 12, 6)).exact);  // copies cut across groups of experts
  }
  TEST_CASE("the scale is that of Llama 3's copies, 1, and of pieces, their number") {
    constexpr model_shape llama3_70b = [] {
      model_shape m = llama3_8x70b;
      m.experts = m.top_k = 1, m.score = score_function::softmax_before, m.dense_layers = m.layers, m.dense_ffn = m.ffn;
      return m;
    }();
    static_assert(upcycling_of(llama3_70b, llama3_8x70b).exact && upcycling_of(llama3_70b, llama3_8x70b).scale == 1);
    static_assert(upcycling_of(dense, moe(8, 4, 4)).scale == 4 && upcycling_of(dense, sigmoid(moe(8, 4, 4))).scale == 4 / 2.5);
  }
  TEST_CASE("everything but routers comes from the dense model, norms and a tied head too") {
    const model_shape m = moe(8, 4, 2);
    for_each_parameter(m, folding_extents{}, 0, [&](const parameter_fact& p) {
      const upcycled_parameter from = upcycled(dense, m, p);
      CAPTURE(p.name());
      extent_t elements = 0;
      for (const published_segment& s : from.segments) elements += s.count;
      CHECK(elements == (p.kind == parameter_kind::router ? 0 : p.parameters()));
      CHECK(from.scale == (p.kind == parameter_kind::down ? 2 : 1));
    });
    model_shape tied = dense;
    tied.tied_embeddings = true;
    CHECK(upcycled(tied, m, fact_of(m, parameter_kind::head)).segments.front().tensor == "model.embed_tokens.weight");
    CHECK(upcycled(dense, m, fact_of(m, parameter_kind::moe_norm)).segments.front().tensor ==
          "model.layers.0.post_attention_layernorm.weight");
  }
  TEST_CASE("a router's rows differ between copies, are equal within one, and the same on every rank") {
    const model_shape m = moe(8, 4, 2);
    const parameter_fact p = fact_of(m, parameter_kind::router);
    const extent_t size = p.extent.size();
    std::vector<float> all(std::size_t(size), 0.f), part(10, 0.f);
    draw_router(upcycling{2}, p, 5, {{p.extent, {}, p.extent}, {0, size}, size}, std::span(all));
    draw_router(upcycling{2}, p, 5, {{p.extent, {}, p.extent}, {9, 19}, size}, std::span(part));
    CHECK(std::equal(part.begin(), part.end(), all.begin() + 9));
    for (extent_t e = 0; e < 8; e += 2) {
      CHECK(std::equal(all.begin() + e * 6, all.begin() + (e + 1) * 6, all.begin() + (e + 1) * 6));
      CHECK(all[std::size_t(e * 6)] ==
            float(p.init_std * random_stream(5, p.name()).normal(std::uint64_t(e * 6))));  // as initialisation draws it
    }
    CHECK(all[0] != all[12]);
  }
  TEST_CASE("what does not fit is named") {
    const auto refused = [](auto change, const char* words) {
      model_shape theirs = dense, ours = moe(8, 2, 1);
      change(theirs, ours);
      CHECK_THROWS_WITH_AS(upcycling_of(theirs, ours), Contains(words), config_error);
    };
    refused([](model_shape& d, model_shape&) { d = moe(8, 2, 1); }, "has MoE layers already");
    refused([](model_shape&, model_shape& m) { m = dense; }, "no layer of this one has experts");
    refused([](model_shape&, model_shape& m) { m.hidden = 8; }, "its hidden is 6, this one's 8");
    refused([](model_shape&, model_shape& m) { m.rope_theta = 5e5; }, "rope_theta is 10000, this one's 500000");
    refused([](model_shape& d, model_shape&) { d.qk_norm = true; }, "qk_norm is true");
    refused([](model_shape&, model_shape& m) { m.tied_embeddings = true; }, "leave tied_embeddings false");
    refused([](model_shape&, model_shape& m) { m.shared_ffn = 4; }, "set shared_ffn to 0");
    refused([](model_shape&, model_shape& m) { m.ffn = 5; }, "12 is not a multiple of an expert's, 5");
    refused([](model_shape&, model_shape& m) { m.ffn = 4; }, "8 experts are not whole copies");
    refused([](model_shape& d, model_shape&) { d.activation = activation_function::gelu; }, "SwiGLU");
  }
}
