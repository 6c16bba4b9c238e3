#include <moefold/layers/parameter_store.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

#include <map>

using namespace moefold;

namespace {

// 5 layers for uneven stages, 11 tokens for padding on every tp, odd widths where a folding allows them.
constexpr model_shape model{.layers = 5,
                            .hidden = 6,
                            .heads = 4,
                            .kv_heads = 4,
                            .head_dim = 2,
                            .experts = 8,
                            .top_k = 2,
                            .ffn = 2,
                            .vocabulary = 11,
                            .qkv_bias = true,
                            .qk_norm = true};

extent_t stages_of(const folding_extents& fold) { return fold.attention.of(axis_id::pp); }

/// The whole model by name, as one rank initialises it.
template <class Precision>
std::map<std::string, std::vector<double>> whole_model(std::uint64_t seed) {
  parameter_store<Precision> store(model, {}, 0);
  store.initialise(seed);
  std::map<std::string, std::vector<double>> whole;
  for (const auto& e : store.entries()) whole[e.fact.name()].assign(e.value.begin(), e.value.end());
  return whole;
}

/// Ranks that hold a replica, from the definition: all of a stage, divided by those the tensor is cut over.
extent_t replicas_of(const parameter_fact& p, const folding_extents& fold) {
  extent_t cuts = 1;
  for (int i = 0; i < p.placement.count; ++i) cuts *= p.placement.mesh_of(fold).of(p.placement.cuts[std::size_t(i)].axis);
  return fold.world() / stages_of(fold) / cuts;
}

}  // namespace

TEST_SUITE("layers/parameter_store") {
  TEST_CASE("in every mapping each global element has the single rank's number and lies on exactly as many ranks as it has replicas") {
    const auto whole = whole_model<fp32>(42);
    for (const testing::mapping& mapping : testing::mappings()) {
      const folding_extents& fold = mapping.fold;
      CAPTURE(mapping.name);
      std::map<std::string, std::vector<extent_t>> held, expected;
      for (const auto& [name, numbers] : whole) held[name].resize(numbers.size()), expected[name].resize(numbers.size());
      std::size_t wrong = 0, padding = 0, expected_padding = 0;
      for (extent_t rank = 0; rank < fold.world(); ++rank) {
        parameter_store<fp32> store(model, fold, rank);
        store.initialise(42);
        for (const auto& e : store.entries()) {
          REQUIRE(whole.count(e.fact.name()) == 1);
          const auto& numbers = whole.at(e.fact.name());
          auto& ranks = held[e.fact.name()];
          REQUIRE(e.fact.parameters() == extent_t(numbers.size()));
          std::fill(expected[e.fact.name()].begin(), expected[e.fact.name()].end(), replicas_of(e.fact, fold));
          if (rank == 0) expected_padding += std::size_t(e.fact.padding * replicas_of(e.fact, fold));
          for (extent_t i = 0; i < extent_t(e.value.size()); ++i) {
            const std::size_t global = std::size_t(e.slice.global_index(i));
            if (global < numbers.size()) {
              ++ranks[global];
              wrong += e.value[std::size_t(i)] != float(numbers[global]);
            } else {
              wrong += e.value[std::size_t(i)] != 0;
              ++padding;
            }
          }
        }
      }
      CHECK(wrong == 0);
      CHECK(held == expected);
      if (stages_of(fold) == 1) CHECK(padding == expected_padding);
    }
  }
  TEST_CASE("the entries tile the buffers without gap, values and gradients alike; the filler behind them is zero and stays zero") {
    for (const testing::mapping& mapping : testing::mappings()) {
      const folding_extents& fold = mapping.fold;
      CAPTURE(mapping.name);
      for (extent_t rank = 0; rank < fold.world(); ++rank) {
        const extent_t bucket = std::array<extent_t, 4>{default_bucket, 0, 1, 700}[std::size_t(rank) % 4];
        parameter_store<fp32> store(model, fold, rank, bucket);
        store.initialise(1);
        std::vector<extent_t> next(store.flats().size(), 0);
        bool tiled = true;
        for (const auto& e : store.entries()) {
          const auto& flat = store.flats()[std::size_t(e.buffer)];
          tiled = tiled && e.offset == next[std::size_t(e.buffer)] && e.value.data() == flat.values.data() + e.offset &&
                  e.gradient.data() == flat.gradients.data() + e.offset && e.value.shape() == e.slice.extent &&
                  e.gradient.shape() == e.slice.extent && e.fact.placement.replicas() == flat.fact.placement.replicas() &&
                  flat.fact.lowest <= e.layer && e.layer <= flat.fact.highest && (bucket != 1 || flat.fact.lowest == flat.fact.highest);
          next[std::size_t(e.buffer)] += extent_t(e.value.size());
        }
        for (std::size_t f = 0; f < next.size(); ++f) {
          const auto& flat = store.flats()[f];
          tiled = tiled && next[f] == flat.fact.elements && extent_t(flat.values.size()) % flat.fact.replicas == 0 &&
                  extent_t(flat.values.size()) - next[f] < flat.fact.replicas;
          for (std::size_t i = std::size_t(next[f]); i < flat.values.size(); ++i)
            tiled = tiled && flat.values[i] == 0 && flat.gradients[i] == 0;
        }
        CHECK(tiled);
      }
    }
  }
  TEST_CASE("it holds exactly the bytes that the inventory promised") {
    for (const auto& [name, fold] : testing::mappings())
      for (extent_t rank = 0; rank < fold.world(); ++rank) {
        const extent_t stage = coordinate_of(fold.attention, rank)[axis_id::pp];
        const extent_t bucket = std::array<extent_t, 4>{default_bucket, 0, 1, 700}[std::size_t(rank) % 4];
        const parameter_store<fp32> narrow(model, fold, rank, bucket);
        const parameter_store<fp64> wide(model, fold, rank);
        const parameter_memory promised = memory_of_parameters<fp32>(model, fold, stage, 2, bucket),
                               promised_wide = memory_of_parameters<fp64>(model, fold, stage);
        CHECK((extent_t(narrow.parameter_bytes()) == promised.parameters && extent_t(narrow.gradient_bytes()) == promised.gradients));
        CHECK((extent_t(wide.parameter_bytes()) == promised_wide.parameters && extent_t(wide.gradient_bytes()) == promised_wide.gradients));
      }
  }
  TEST_CASE(
      "gains start as ones, biases as zeros, matrices as normal numbers of their width, no two of the same; another seed is another "
      "model") {
    auto a = whole_model<fp64>(42), b = whole_model<fp64>(43), again = whole_model<fp64>(42);
    CHECK(a == again);
    for (const auto& parameter : a) {
      const auto& [name, numbers] = parameter;
      CAPTURE(parameter.first);
      double squares = 0;
      for (const double x : numbers) squares += x * x / double(numbers.size());
      if (name.ends_with("norm")) {
        CHECK(std::all_of(numbers.begin(), numbers.end(), [](double x) { return x == 1; }));
      } else if (name.ends_with("bias")) {
        CHECK(std::all_of(numbers.begin(), numbers.end(), [](double x) { return x == 0; }));
      } else {
        const bool output = name.ends_with("output") || name.ends_with("down");
        CHECK(std::sqrt(squares) == doctest::Approx(model.init_std / (output ? std::sqrt(10.0) : 1.0)).epsilon(0.4));
        CHECK(numbers != b[name]);
      }
    }
    CHECK(a["embedding"] != a["head"]);
    CHECK(a["layers.0.attention.query"] != a["layers.1.attention.query"]);
    CHECK(a["layers.0.moe.gate"] != a["layers.0.moe.up"]);
  }
  TEST_CASE("a fresh store is zero, and zeroed gradients are zero everywhere") {
    parameter_store<fp64> store(model, {}, 0);
    const auto zero = [](const tensor<double>& t) { return std::all_of(t.begin(), t.end(), [](double x) { return x == 0; }); };
    for (auto& flat : store.flats()) {
      CHECK((zero(flat.values) && zero(flat.gradients)));
      std::fill(flat.gradients.begin(), flat.gradients.end(), 3.0);
    }
    store.zero_gradients();
    for (const auto& flat : store.flats()) CHECK(zero(flat.gradients));
  }
  TEST_CASE("a layer gets its parameter under the placement it expects, or an error that names it") {
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::pp, 2}}, {{axis_id::ep, 2}, {axis_id::pp, 2}});
    parameter_store<fp64> store(model, fold, 1);
    const auto query = store.get<rows_over_tp>(parameter_kind::query, 2);
    CHECK((query.value.shape() == shape{4, 6} && query.gradient.shape() == shape{4, 6}));
    CHECK(store.get<expert_columns>(parameter_kind::down, 0).value.shape() == shape{4, 6, 2});
    query.gradient[0] = 5;
    CHECK(store.get<rows_over_tp>(parameter_kind::query, 2).gradient[0] == 5);
    CHECK_THROWS_WITH_AS(store.get<columns_over_tp>(parameter_kind::query, 2),
                         "moefold: layers.2.attention.query lies differently from what its layer expects", error);
    CHECK_THROWS_WITH_AS(store.get<rows_over_tp>(parameter_kind::query, 3),
                         "moefold: this rank holds no parameter attention.query of layer 3", error);
    CHECK_THROWS_AS(store.get<rows_over_tp>(parameter_kind::head), error);  // on the other stage
  }
  TEST_CASE("a moved store keeps its parameters where they are") {
    parameter_store<fp64> store(model, {}, 0);
    store.initialise(1);
    const auto before = store.get<replicated>(parameter_kind::router, 0);
    parameter_store<fp64> moved(std::move(store));
    CHECK(moved.get<replicated>(parameter_kind::router, 0).value.data() == before.value.data());
    moved.zero_gradients();
  }
  TEST_CASE("a model has the same weights in buckets of any size") {
    const folding_extents fold{};
    parameter_store<fp32> one(model, fold, 0, 0), many(model, fold, 0, 1);
    one.initialise(3), many.initialise(3);
    CHECK(one.flats().size() < many.flats().size());
    for (std::size_t i = 0; i < one.entries().size(); ++i)
      CHECK(std::equal(one.entries()[i].value.begin(), one.entries()[i].value.end(), many.entries()[i].value.begin()));
    CHECK_THROWS_WITH_AS(parameter_store<fp32>(model, fold, 0, -1), doctest::Contains("0 elements (no limit) or more (given -1)"),
                         config_error);
  }
}
