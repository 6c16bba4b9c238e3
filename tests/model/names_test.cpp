#include <moefold/model/names.hpp>

#include <moefold/model/deepseek.hpp>
#include <moefold/model/llama.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>

using namespace moefold;
using doctest::Contains;

namespace {

/// The same model with small numbers: every kind of parameter stays.
constexpr model_shape small(model_shape m) {
  if (m.moe_layers() == 0) return m;
  m.layers = m.dense_layers > 0 ? 4 : 2, m.hidden = 12, m.kv_heads = 2, m.heads = 4, m.head_dim = 4, m.vocabulary = 13;
  m.experts = 8, m.top_k = m.expert_groups > 1 ? 4 : 2, m.ffn = 6;
  if (m.expert_groups > 1) m.expert_groups = 4, m.chosen_groups = 2;
  if (m.shared_ffn > 0) m.shared_ffn = 18;
  if (m.dense_layers > 0) m.dense_layers = 1, m.dense_ffn = 10;
  return m;
}
constexpr model_shape tied = [] {
  model_shape m = qwen3_30b_a3b;
  m.tied_embeddings = true, m.dense_layers = 1, m.dense_ffn = 10;
  return m;
}();
constexpr model_shape dense{.hidden = 12, .dense_layers = 4, .dense_ffn = 10};
const std::vector<model_shape> zoo = {
    mixtral_8x7b, mixtral_8x22b, mixtral_8x22b_g8t8, qwen2_57b_a14b, qwen3_30b_a3b, qwen3_235b_a22b, llama3_8x70b, deepseek_v3_style, tied};

const published_tensor* find(const std::vector<published_tensor>& all, const std::string& name) {
  const auto at = std::find_if(all.begin(), all.end(), [&](const published_tensor& t) { return t.name == name; });
  return at == all.end() ? nullptr : &*at;
}
parameter_fact fact_of(const model_shape& m, parameter_kind kind, extent_t layer) {
  parameter_fact found;
  for_each_parameter(m, folding_extents{}, 0, [&](const parameter_fact& p) {
    if (p.kind == kind && p.layer == layer) found = p;
  });
  return found;
}

}  // namespace

TEST_SUITE("model/names") {
  TEST_CASE(
      "every element of every published tensor is one element of ours, in both layouts, for every model of the zoo and in every mapping") {
    for (const model_shape& full : zoo)
      for (const expert_layout layout : {expert_layout::per_expert, expert_layout::fused})
        for (const extent_t tp : {1, 4}) {  // with 4, the tables have rows that pad
          const model_shape m = small(full);
          const folding_extents fold = make_folding({{axis_id::tp, tp}}, {{axis_id::ep, tp}});
          CAPTURE(int(layout));
          std::map<std::string, std::vector<int>> covered;
          for (const published_tensor& t : published_tensors(m, layout)) {
            CHECK(!covered.contains(t.name));
            covered[t.name].assign(std::size_t(t.extent.size()), 0);
          }
          for_each_parameter(m, fold, 0, [&](const parameter_fact& p) {
            extent_t next = 0;  // our own elements, in order and without a gap
            for (const published_segment& s : published_segments(m, p, layout)) {
              CAPTURE(s.tensor);
              CHECK(s.first == next);
              next += s.count;
              REQUIRE(covered.contains(s.tensor));
              std::vector<int>& tensor = covered[s.tensor];
              REQUIRE(s.first_in_tensor + s.count <= extent_t(tensor.size()));
              for (extent_t i = 0; i < s.count; ++i) ++tensor[std::size_t(s.first_in_tensor + i)];
            }
            CHECK(next == p.parameters());
          });
          if (m.score == score_function::sigmoid)
            for (extent_t l = 1; l < m.layers; ++l) std::fill_n(covered.at(published_router_bias(l)).begin(), m.experts, 1);
          for (const auto& tensor : covered) {
            CAPTURE(tensor.first);
            CHECK(std::all_of(tensor.second.begin(), tensor.second.end(), [](int count) { return count == 1; }));
          }
        }
  }
  TEST_CASE("a Mixtral's gate, up and down are w1, w3 and w2 of each expert, and lie after one another in the fused tensors") {
    const model_shape m = small(mixtral_8x7b);
    const parameter_fact up = fact_of(m, parameter_kind::up, 1);
    CHECK(published_segments(m, up)[3] == published_segment{"model.layers.1.block_sparse_moe.experts.3.w3.weight", 0, 3 * 72, 72, {6, 12}});
    CHECK(published_segments(m, fact_of(m, parameter_kind::gate, 1))[0].tensor == "model.layers.1.block_sparse_moe.experts.0.w1.weight");
    CHECK(published_segments(m, fact_of(m, parameter_kind::down, 0))[7].tensor == "model.layers.0.block_sparse_moe.experts.7.w2.weight");
    CHECK(published_segments(m, up, expert_layout::fused)[3] ==
          published_segment{"model.layers.1.mlp.experts.gate_up_proj", 7 * 72, 3 * 72, 72, {8, 12, 12}});
    CHECK(find(published_tensors(m, expert_layout::fused), "model.layers.1.mlp.experts.gate_up_proj")->extent == shape{8, 12, 12});
    CHECK(find(published_tensors(m, expert_layout::fused), "model.layers.1.mlp.gate.weight") != nullptr);
    CHECK(find(published_tensors(m), "model.layers.1.block_sparse_moe.experts.3.w2.weight")->extent == shape{12, 6});
  }
  TEST_CASE("names are those of files that transformers writes, family by family") {
    const auto has = [](const model_shape& m, const std::string& name, const shape& extent) {
      const std::vector<published_tensor> all = published_tensors(small(m));
      CAPTURE(name);
      REQUIRE(find(all, name) != nullptr);
      CHECK(find(all, name)->extent == extent);
    };
    has(mixtral_8x7b, "lm_head.weight", {13, 12});
    has(mixtral_8x7b, "model.norm.weight", {12});
    has(mixtral_8x7b, "model.layers.1.block_sparse_moe.gate.weight", {8, 12});
    has(qwen2_57b_a14b, "model.layers.1.self_attn.k_proj.bias", {8});
    has(qwen2_57b_a14b, "model.layers.0.mlp.shared_expert_gate.weight", {1, 12});
    has(qwen2_57b_a14b, "model.layers.0.mlp.shared_expert.down_proj.weight", {12, 18});
    has(qwen2_57b_a14b, "model.layers.1.mlp.experts.7.gate_proj.weight", {6, 12});
    has(qwen3_30b_a3b, "model.layers.0.self_attn.q_norm.weight", {4});
    has(deepseek_v3_style, "model.layers.0.mlp.down_proj.weight", {12, 10});
    has(deepseek_v3_style, "model.layers.1.mlp.shared_experts.up_proj.weight", {18, 12});
    has(deepseek_v3_style, "model.layers.3.mlp.gate.e_score_correction_bias", {8});
    CHECK(find(published_tensors(small(tied)), "lm_head.weight") == nullptr);
  }
  TEST_CASE("both copies of a tied embedding have the one published name") {
    const folding_extents two = make_folding({{axis_id::pp, 2}}, {{axis_id::pp, 2}});
    int copies = 0;
    for (const extent_t stage : {0, 1})
      for_each_parameter(small(tied), two, stage, [&](const parameter_fact& p) {
        if (p.kind != parameter_kind::embedding) return;
        ++copies;
        CHECK(published_segments(small(tied), p) == std::vector<published_segment>{{"model.embed_tokens.weight", 0, 0, 13 * 12, {13, 12}}});
      });
    CHECK(copies == 2);
  }
  TEST_CASE("the family follows from the numbers, and what none has is named") {
    static_assert(family_of(mixtral_8x22b_g8t8) == model_family::mixtral && family_of(llama3_8x70b) == model_family::mixtral);
    static_assert(family_of(qwen2_57b_a14b) == model_family::qwen2_moe && family_of(qwen3_235b_a22b) == model_family::qwen3_moe);
    static_assert(family_of(deepseek_v3_style) == model_family::glm4_moe);
    CHECK(std::string(name_of(family_of(tied))) == "qwen3_moe");
    static_assert(family_of(dense) == model_family::llama);
    const auto refused = [](model_shape m, auto change, const char* words) {
      change(m);
      CHECK_THROWS_WITH_AS(family_of(m), Contains(words), config_error);
    };
    refused(
        mixtral_8x7b, [](model_shape& m) { m.activation = activation_function::gelu; }, "SwiGLU");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.qkv_bias = true; }, "biases of query, key and value");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.dense_layers = 1, m.dense_ffn = 8; }, "dense layers");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.score = score_function::softmax_before; }, "softmax_before is of");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.weight_scale = 2; }, "weight_scale 2");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.expert_groups = 2; }, "2 groups");
    refused(
        mixtral_8x7b, [](model_shape& m) { m.top_k = 9; }, "top_k must lie between");
    refused(
        qwen2_57b_a14b, [](model_shape& m) { m.shared_gate = false; }, "set shared_gate");
    refused(
        qwen2_57b_a14b, [](model_shape& m) { m.qk_norm = true; }, "do not come together");
    refused(
        qwen3_30b_a3b, [](model_shape& m) { m.qkv_bias = true; }, "do not come together");
    refused(
        deepseek_v3_style, [](model_shape& m) { m.shared_ffn = 3000; }, "shared_ffn is ffn once or several times");
    refused(
        deepseek_v3_style, [](model_shape& m) { m.shared_ffn = 0; }, "shared_ffn is ffn once or several times");
    refused(
        deepseek_v3_style, [](model_shape& m) { m.shared_gate = true; }, "leave shared_gate false");
    refused(
        deepseek_v3_style, [](model_shape& m) { m.sliding_window = 64; }, "sliding window");
    refused(
        deepseek_v3_style, [](model_shape& m) { m.chosen_groups = 2; }, "best two experts");
  }
  TEST_CASE("the layout of a file is seen by its first MoE layer") {
    for (const model_shape& full : zoo)
      for (const expert_layout layout : {expert_layout::per_expert, expert_layout::fused}) {
        const std::vector<published_tensor> all = published_tensors(small(full), layout);
        CHECK(layout_of(small(full), [&](const std::string& name) { return find(all, name) != nullptr; }) == layout);
      }
  }
}
