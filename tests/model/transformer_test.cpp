#include <moefold/model/transformer.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <memory>
#include <numeric>

using namespace moefold;

namespace {

constexpr model_shape small{
    .layers = 1, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .experts = 4, .ffn = 6, .vocabulary = 11, .init_std = 0.3};
constexpr extent_t sequence = 4;

model_shape with_layers(extent_t layers) {
  model_shape m = small;
  m.layers = layers;
  return m;
}

/// One micro-batch of two sequences; some labels do not count.
micro_batch tokens(int salt = 0) {
  micro_batch batch{{0, 0, 2, {sequence}}, {}, {}};
  for (int i = 0; i < 2 * sequence; ++i) {
    batch.ids.push_back((i * i + 3 * i + salt) % 11);
    batch.labels.push_back(i == 3 ? -1 : (7 * i + salt) % 11);
  }
  return batch;
}

/// One stage of a pipeline, alone: its groups have one rank each, what travels between stages is carried by hand.
struct stage {
  using type = transformer_stage<fp64, self_comm>;
  self_comm world;
  group_set<self_comm> groups{world, {}};
  parameter_store<fp64> store;
  type layers;
  host_context context;
  type::saved saved;
  tensor<double> dx;
  routing_tap tap;

  explicit stage(const model_shape& model, extent_t stages = 1, extent_t which = 0)
      : store(model, fold(stages), which), layers(model, sequence, fold(stages), which, store, groups), dx({2 * sequence, model.hidden}) {
    store.initialise(3);
  }
  stage(const stage&) = delete;
  static folding_extents fold(extent_t stages) {
    return stages == 1 ? folding_extents{} : make_folding({{axis_id::pp, stages}}, {{axis_id::pp, stages}});
  }

  double forward(const micro_batch& batch, view<const double> input = {}) { return forward(batch, saved, input); }
  double forward(const micro_batch& batch, type::saved& s, view<const double> input = {}) {
    s.keep.clear();
    s.batch = &batch;
    if (!layers.first()) {
      s.input = s.keep.take<double>(input.extent(0), input.extent(1));
      std::copy(input.begin(), input.end(), s.input.begin());
    }
    return layers.forward(host_exec(context), s, &tap);
  }
  void backward(view<const double> dy = {}) { backward(saved, dy); }
  void backward(const type::saved& s, view<const double> dy = {}) { layers.backward(host_exec(context), dy, dx.view(), s); }
};

}  // namespace

TEST_SUITE("model/transformer") {
  TEST_CASE("the gradient of every parameter equals finite differences of the loss, embedding to head") {
    const micro_batch batch = tokens();
    stage own(small), probe(small);
    own.forward(batch);
    own.backward();
    CHECK(own.tap.margin > 1e-2);
    for (std::size_t p = 0; p < own.store.entries().size(); ++p) {
      const auto& entry = own.store.entries()[p];
      CAPTURE(entry.fact.name());
      const auto slope = test::numerical_gradient(
          probe.store.entries()[p].value, [&] { return probe.forward(batch); }, 1e-4);
      CHECK(test::largest_error(entry.gradient, slope) < 1e-7);
    }
    CHECK(own.store.entries().size() == 13);
  }
  TEST_CASE("so it is for a dense layer, which counts no choices") {
    model_shape dense = small;
    dense.dense_layers = 1, dense.dense_ffn = 6;
    const micro_batch batch = tokens();
    stage own(dense), probe(dense);
    own.forward(batch);
    own.backward();
    CHECK(own.store.entries().size() == 12);
    for (std::size_t p = 0; p < own.store.entries().size(); ++p) {
      const auto& entry = own.store.entries()[p];
      CAPTURE(entry.fact.name());
      const auto slope = test::numerical_gradient(
          probe.store.entries()[p].value, [&] { return probe.forward(batch); }, 1e-4);
      CHECK(test::largest_error(entry.gradient, slope) < 1e-7);
    }
    tensor<double> counts({1, 4}, 0.0);
    own.layers.add_numbers(own.saved, counts);
    for (const double n : counts) CHECK(n == 0);
  }
  TEST_CASE("the table that embedding and head share gets the gradient of both") {
    model_shape tied = small;
    tied.tied_embeddings = true;
    const micro_batch batch = tokens();
    stage own(tied), probe(tied);
    own.forward(batch);
    own.backward();
    CHECK(own.store.entries().size() == 12);
    CHECK(own.store.entries()[0].fact.kind == parameter_kind::embedding);
    const auto slope = test::numerical_gradient(
        probe.store.entries()[0].value, [&] { return probe.forward(batch); }, 1e-4);
    CHECK(test::largest_error(own.store.entries()[0].gradient, slope) < 1e-7);
  }
  TEST_CASE("stages chained by hand are the whole model, bit for bit: loss and every gradient, on uneven stages too") {
    for (const std::pair<extent_t, extent_t> cut : {std::pair{2, 2}, {3, 2}, {4, 4}, {5, 3}}) {
      const extent_t layers = cut.first, stages = cut.second;
      CAPTURE(layers);
      CAPTURE(stages);
      const model_shape model = with_layers(layers);
      const micro_batch batch = tokens();
      stage whole(model);
      const double loss = whole.forward(batch);
      whole.backward();
      std::vector<std::unique_ptr<stage>> chain;
      double chained = 0;
      for (extent_t s = 0; s < stages; ++s) {
        chain.push_back(std::make_unique<stage>(model, stages, s));
        chained += chain.back()->forward(batch, s ? view<const double>(chain[std::size_t(s - 1)]->saved.output) : view<const double>{});
      }
      CHECK(chained == loss);
      std::size_t parameters = 0;
      for (std::size_t s = chain.size(); s-- > 0;) {
        chain[s]->backward(s + 1 < chain.size() ? view<const double>(chain[s + 1]->dx) : view<const double>{});
        for (const auto& part : chain[s]->store.entries())
          for (const auto& all : whole.store.entries())
            if (part.fact.name() == all.fact.name()) {
              CAPTURE(part.fact.name());
              CHECK(test::largest_error(part.gradient, all.gradient) == 0);
              ++parameters;
            }
      }
      CHECK(parameters == whole.store.entries().size());
    }
  }
  TEST_CASE("several micro-batches may be in flight; their gradients add up") {
    const micro_batch first = tokens(0), second = tokens(5);
    stage together(small), apart(small);
    stage::type::saved s[2];
    together.forward(first, s[0]);
    together.forward(second, s[1]);
    for (const auto& saved : s) together.backward(saved);
    for (const micro_batch* batch : {&first, &second}) {
      apart.forward(*batch);
      apart.backward();
    }
    for (std::size_t p = 0; p < together.store.entries().size(); ++p)
      CHECK(test::largest_error(together.store.entries()[p].gradient, apart.store.entries()[p].gradient) == 0);
  }
  TEST_CASE("with a head of zero the loss is log V for every label that counts") {
    stage s(small);
    for (auto& entry : s.store.entries())
      if (entry.fact.kind == parameter_kind::head) std::fill(entry.value.begin(), entry.value.end(), 0.0);
    CHECK(s.forward(tokens()) == doctest::Approx(7 * std::log(11.0)).epsilon(1e-13));
  }
  TEST_CASE("tokens whose labels do not count leave no gradient anywhere") {
    micro_batch batch = tokens();
    std::fill(batch.labels.begin(), batch.labels.end(), -1);
    stage s(small);
    CHECK(s.forward(batch) == 0);
    s.backward();
    for (const auto& entry : s.store.entries())
      CHECK(std::all_of(entry.gradient.begin(), entry.gradient.end(), [](double g) { return g == 0; }));
  }
  TEST_CASE("the load counts k choices of every token in the stage's own layers") {
    const model_shape model = with_layers(3);
    const micro_batch batch = tokens();
    stage second(model, 2, 1);
    const auto x = test::random_tensor<double>({2 * sequence, model.hidden}, 4);
    second.forward(batch, x);
    tensor<double> load({3, model.experts}, 0.0);
    second.layers.add_numbers(second.saved, load);
    for (extent_t layer = 0; layer < 3; ++layer) {
      const auto row = load.view().rows(layer, 1);
      CHECK(std::accumulate(row.begin(), row.end(), 0.0) == (layer < 2 ? 0 : double(2 * sequence * model.top_k)));
    }
  }
  TEST_CASE("a micro-batch whose forward is computed twice, as recomputation does, is counted once") {
    const micro_batch batch = tokens();
    stage s(small);
    s.forward(batch);
    tensor<double> once({small.layers, small.experts}, 0.0), twice({small.layers, small.experts}, 0.0);
    s.layers.add_numbers(s.saved, once);
    s.forward(batch);
    s.forward(batch);
    s.layers.add_numbers(s.saved, twice);
    CHECK(std::equal(once.begin(), once.end(), twice.begin()));
  }
  TEST_CASE("a stage refuses a model that does not fit its folding") {
    self_comm world;
    group_set<self_comm> groups(world, {});
    const folding_extents fold = stage::fold(2);
    parameter_store<fp64> store(with_layers(2), fold, 0);
    CHECK_THROWS_AS((transformer_stage<fp64, self_comm>(small, sequence, fold, 0, store, groups)), config_error);
  }
}
