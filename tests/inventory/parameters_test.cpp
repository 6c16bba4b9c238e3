#include <moefold/inventory/parameters.hpp>

#include <moefold/core/precision.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/mesh/coordinate.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

#include <cmath>
#include <map>

using namespace moefold;
using testing::mapping;

namespace {

constexpr model_shape mixtral_8x7b{
    .layers = 32, .hidden = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .experts = 8, .top_k = 2, .ffn = 14336, .vocabulary = 32000};

// By hand: embedding and head, then per layer two norms, q and o, k and v, router, three matrices for each expert, then the last norm.
static_assert(count_parameters(model_shape{}) ==
              2 * 256 * 128 + 4 * (2 * 128 + 2 * 128 * 128 + 2 * 64 * 128 + 8 * 128 + 8 * 3 * 144 * 128) + 128);
static_assert(count_parameters(model_shape{}) == 2'036'864);
static_assert(count_parameters(mixtral_8x7b) == 46'702'792'704);  // 46.7 B, as published

constexpr model_shape small{.layers = 5, .hidden = 32, .heads = 4, .kv_heads = 4, .head_dim = 8, .experts = 8, .ffn = 12, .vocabulary = 50};

static_assert(layer_of({.kind = parameter_kind::embedding}, 7) == -1 && layer_of({.kind = parameter_kind::head}, 7) == 7 &&
              layer_of({.kind = parameter_kind::final_norm}, 7) == 7 && layer_of({.kind = parameter_kind::query, .layer = 3}, 7) == 3);
static_assert(of_expert(parameter_kind::gate) && of_expert(parameter_kind::up) && of_expert(parameter_kind::down) &&
              !of_expert(parameter_kind::shared_gate) && !of_expert(parameter_kind::router));

}  // namespace

TEST_SUITE("inventory/parameters") {
  TEST_CASE("what all ranks hold, divided by the replicas, is the whole model, in every mapping") {
    for (const mapping& m : testing::mappings())
      for (const model_shape& model : {small, model_shape{.layers = 7}, model_shape{.layers = 7, .qkv_bias = true, .qk_norm = true}}) {
        CAPTURE(m.name);
        extent_t padding = 0, stored = 0;
        for (extent_t rank = 0; rank < m.fold.world(); ++rank)
          for_each_parameter(model, m.fold, coordinate_of(m.fold.attention, rank)[axis_id::pp], [&](const parameter_fact& p) {
            const extents& mesh = p.placement.mesh_of(m.fold);
            const extent_t replicas = mesh.of(p.placement.replicas());
            const coordinate at = coordinate_of(mesh, rank);
            for (int i = 0; i < axis_count; ++i)
              if (p.placement.replicas().contains(axis_id(i)) && at[axis_id(i)] != 0) return;  // count the first replica only
            CHECK(replicas * mesh.of(p.placement.sharded()) * mesh.of(axis_id::pp) == mesh.ranks());
            stored += local_elements(p, m.fold);
            padding += p.padding * (at[axis_id::tp] == 0 && p.placement.sharded().contains(axis_id::tp) ? 1 : 0);
          });
        CHECK(stored - padding == count_parameters(model));
      }
  }
  TEST_CASE("every parameter lies as the contract says: sharded where, summed over what, decayed or not") {
    const axis_set dense{axis_id::cp, axis_id::dp}, everywhere{axis_id::tp, axis_id::cp, axis_id::dp};
    struct facts {
      std::string name;
      std::vector<extent_t> extent;
      axis_set replicas;
      bool decay, ones;
    };
    const std::vector<facts> expected = {{"embedding", {50, 32}, dense, true, false},
                                         {"layers.0.attention.norm", {32}, everywhere, false, true},
                                         {"layers.0.attention.query", {32, 32}, dense, true, false},
                                         {"layers.0.attention.key", {32, 32}, dense, true, false},
                                         {"layers.0.attention.value", {32, 32}, dense, true, false},
                                         {"layers.0.attention.output", {32, 32}, dense, true, false},
                                         {"layers.0.moe.norm", {32}, everywhere, false, true},
                                         {"layers.0.moe.router", {8, 32}, everywhere, true, false},
                                         {"layers.0.moe.gate", {8, 12, 32}, axis_id::edp, true, false},
                                         {"layers.0.moe.up", {8, 12, 32}, axis_id::edp, true, false},
                                         {"layers.0.moe.down", {8, 32, 12}, axis_id::edp, true, false},
                                         {"final_norm", {32}, everywhere, false, true},
                                         {"head", {50, 32}, dense, true, false}};
    model_shape one = small;
    one.layers = 1;
    std::size_t at = 0;
    for_each_parameter(one, {}, 0, [&](const parameter_fact& p) {
      REQUIRE(at < expected.size());
      const facts& right = expected[at++];
      CAPTURE(right.name);
      CHECK(p.name() == right.name);
      REQUIRE(p.extent.rank == int(right.extent.size()));
      for (int i = 0; i < p.extent.rank; ++i) CHECK(p.extent[i] == right.extent[std::size_t(i)]);
      CHECK(p.placement.replicas() == right.replicas);
      CHECK(p.decay == right.decay);
      CHECK((p.init_std == 0) == right.ones);
      CHECK(p.init_mean == (right.ones ? 1 : 0));
    });
    CHECK(at == expected.size());
  }
  TEST_CASE(
      "projections have biases, cut and summed as their rows, and heads have gains, replicated, where the model says so; none of them "
      "decays") {
    model_shape one = small;
    one.layers = 1, one.kv_heads = 2, one.head_dim = 6;
    const auto attention = [](const model_shape& m) {
      std::vector<std::string> names;
      for_each_parameter(m, {}, 0, [&](const parameter_fact& p) {
        if (p.name().find(".attention.") == std::string::npos) return;
        names.push_back(p.name().substr(std::string("layers.0.attention.").size()));
        const std::string& name = names.back();
        if (name.ends_with("_bias")) {
          CHECK(p.extent == (name == "query_bias" ? shape{24} : shape{12}));
          CHECK((p.placement == value_of<rows_over_tp> && !p.decay && p.init_std == 0 && p.init_mean == 0));
        }
        if (name.ends_with("_norm"))
          CHECK((p.extent == shape{6} && p.placement == value_of<replicated> && !p.decay && p.init_std == 0 && p.init_mean == 1));
      });
      return names;
    };
    using names = std::vector<std::string>;
    CHECK(attention(one) == names{"norm", "query", "key", "value", "output"});
    one.qkv_bias = true;
    CHECK(attention(one) == names{"norm", "query", "query_bias", "key", "key_bias", "value", "value_bias", "output"});
    one.qk_norm = true;
    CHECK(attention(one) ==
          names{"norm", "query", "query_bias", "key", "key_bias", "value", "value_bias", "query_norm", "key_norm", "output"});
    model_shape bare = one;
    bare.qkv_bias = bare.qk_norm = false;
    CHECK(count_parameters(one) - count_parameters(bare) == 24 + 2 * 12 + 2 * 6);
  }
  TEST_CASE("a dense layer has an MLP over tp in place of router and experts; the layers behind it are as ever") {
    for (const activation_function activation : {activation_function::swiglu, activation_function::gelu}) {
      model_shape two = small;
      two.layers = 2, two.dense_layers = 1, two.dense_ffn = 20, two.shared_ffn = 6, two.activation = activation;
      const bool gated = activation == activation_function::swiglu;
      std::vector<std::string> dense, moe;
      for_each_parameter(two, {}, 0, [&](const parameter_fact& p) {
        if (p.layer == 0) dense.push_back(p.name());
        if (p.layer == 1) moe.push_back(p.name());
        if (p.kind == parameter_kind::mlp_norm) CHECK((p.extent == shape{32} && p.placement == value_of<replicated> && !p.decay));
        if (p.kind == parameter_kind::mlp_up) CHECK((p.extent == shape{20, 32} && p.placement == value_of<rows_over_tp> && p.decay));
        if (p.kind == parameter_kind::mlp_down) {
          CHECK((p.extent == shape{32, 20} && p.placement == value_of<columns_over_tp> && p.decay));
          CHECK(p.init_std == doctest::Approx(two.init_std / 2));
        }
      });
      CHECK(dense.size() == (gated ? 9 : 8));
      CHECK(dense[5] == "layers.0.mlp.norm");
      CHECK(dense.back() == "layers.0.mlp.down");
      CHECK(moe.size() == (gated ? 13 : 11));
      CHECK(count_parameters(two) == 2 * 50 * 32 + 32 + 2 * (2 * 32 + 4 * 32 * 32) + 8 * 32 + (gated ? 3 : 2) * 32 * (20 + 8 * 12 + 6));
    }
  }
  TEST_CASE("the embedding is on the first stage, norm and head on the last, and each layer on one") {
    const folding_extents fold = make_folding({{axis_id::pp, 3}}, {{axis_id::pp, 3}});
    std::map<std::string, int> stages_of;
    for (extent_t stage = 0; stage < 3; ++stage)
      for_each_parameter(small, fold, stage, [&](const parameter_fact& p) {
        CHECK(++stages_of[p.name()] == 1);
        if (p.name() == "embedding") CHECK(stage == 0);
        if (p.name() == "head" || p.name() == "final_norm") CHECK(stage == 2);
      });
    CHECK(stages_of.size() == 3 + 10 * 5);
  }
  TEST_CASE("a vocabulary that TP does not divide is padded, and the padding is no parameter") {
    CHECK(padded_vocabulary(small, 1) == 50);
    CHECK(padded_vocabulary(small, 4) == 52);
    const folding_extents fold = make_folding({{axis_id::tp, 4}}, {{axis_id::ep, 4}});
    for_each_parameter(small, fold, 0, [&](const parameter_fact& p) {
      if (p.kind != parameter_kind::embedding && p.kind != parameter_kind::head) return;
      CHECK(p.extent[0] == 52);
      CHECK(p.padding == 2 * 32);
      CHECK(p.parameters() == 50 * 32);
      CHECK(local_elements(p, fold) == 13 * 32);
    });
  }
  TEST_CASE("output projections start smaller by the root of twice the layers") {
    for_each_parameter(model_shape{.layers = 8}, {}, 0, [&](const parameter_fact& p) {
      const bool projects = p.kind == parameter_kind::output || p.kind == parameter_kind::down;
      if (p.init_std > 0) CHECK(p.init_std == doctest::Approx(projects ? 0.02 / 4 : 0.02).epsilon(1e-15));
    });
  }
  TEST_CASE("a tied embedding is one parameter: once on one stage; on several the first and the last hold it, in a buffer of its own") {
    model_shape tied = small;
    tied.tied_embeddings = true;
    CHECK(count_parameters(tied) == count_parameters(small) - 50 * 32);
    for (const mapping& m : testing::mappings()) {
      CAPTURE(m.name);
      const extent_t stages = m.fold.attention.of(axis_id::pp), cp_dp = m.fold.attention.of(axis_set{axis_id::cp, axis_id::dp});
      for (extent_t stage = 0; stage < stages; ++stage) {
        int tables = 0;
        for_each_parameter(tied, m.fold, stage, [&](const parameter_fact& p) {
          CHECK(p.kind != parameter_kind::head);
          if (p.kind != parameter_kind::embedding) return;
          ++tables;
          CHECK(layer_of(p, 5) == (stage == 0 ? -1 : 5));
          CHECK(p.name() == "embedding");
          CHECK(p.placement.replicas_in(m.fold) == cp_dp * (stages > 1 ? 2 : 1));
        });
        CHECK(tables == int(stage == 0 || stage == stages - 1));
        const parameter_buffers buffers = buffers_of(tied, m.fold, stage);
        CHECK(buffers.count == 3 + int(tables > 0 && stages > 1));
        for (const parameter_buffer& b : buffers.buffer)
          if (b.placement.ends)
            CHECK(b.elements == padded_vocabulary(tied, m.fold.attention.of(axis_id::tp)) / m.fold.attention.of(axis_id::tp) * 32);
      }
    }
  }
  TEST_CASE("the constant square root is the library's") {
    for (const double x : {1.0, 2.0, 8.0, 64.0, 1e6, 0.25}) CHECK(square_root(x) == doctest::Approx(std::sqrt(x)).epsilon(1e-15));
  }
}
