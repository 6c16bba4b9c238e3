#include <moefold/model/transformer.hpp>

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/moe/all_gather.hpp>
#include <moefold/moe/all_to_all.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <memory>
#include <numeric>
#include <set>

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
    double loss = 0;
    layers.forward(host_exec(context), s, &tap, view<double>(&loss, {1}));
    return loss;
  }
  void backward(view<const double> dy = {}) { backward(saved, dy); }
  void backward(const type::saved& s, view<const double> dy = {}) { layers.backward(host_exec(context), dy, dx.view(), s); }
};

template <template <class, class> class Dispatcher>
struct dispatched_by : moe_defaults {
  template <class T, class Comm>
  using dispatcher = Dispatcher<T, Comm>;
};

/// One micro-batch of a whole model on one rank of the folding, weights rounded to bf16 in either precision; against the inventory to the byte.
template <class Precision, class Policy>
struct whole_model {
  using comm = recording<thread_comm>;
  static constexpr model_shape model = [] {
    model_shape m{.layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 8, .vocabulary = 24};
    m.init_std = 0.2, m.shared_ffn = 8, m.shared_gate = true, m.qkv_bias = true, m.qk_norm = true;
    return m;
  }();
  static constexpr extent_t sequence = 16, batch = 2;
  std::vector<std::vector<double>> gradients;
  std::vector<std::string> names;  // of the parameters
  double loss = 0;

  whole_model(thread_comm& world, const folding_extents& fold, routing_tap& tap, const routing_trace& choices) {
    traffic_log log;
    comm recorded(world.split(0, world.rank(), "world"), log);
    group_set<comm> groups(recorded, fold);
    parameter_store<Precision> store(model, fold, world.rank());
    store.initialise(3);
    for (auto& entry : store.entries())
      for (auto& w : entry.value) w = typename Precision::storage(float(bf16(float(w))));
    const transformer_stage<Precision, comm, cp_all_gather, Policy> stage(model, sequence, fold, world.rank(), store, groups);
    micro_batch b{place(fold, world.rank()), {}, {}};
    for (int i = 0; i < batch * sequence; ++i) {
      const int at = i + int(b.place.first_sample) * 5;
      b.ids.push_back((at * at + 3 * at) % 24), b.labels.push_back((7 * at + 2) % 24);
    }
    host_context context;
    typename decltype(stage)::saved s;
    s.batch = &b;
    const traffic_log before = log;
    stage.forward(host_exec(context), s, &tap, view<double>(&loss, {1}));
    tensor<typename Precision::storage> dx({batch * sequence / fold.attention.of(axis_id::tp), model.hidden});
    stage.backward(host_exec(context), {}, dx.view(), s);
    for (const auto& entry : store.entries()) {
      gradients.emplace_back(entry.gradient.begin(), entry.gradient.end());
      names.push_back(entry.fact.name());
    }

    const activation_shape a{model, fold, sequence, batch, facts_of<Policy>()};
    extent_t kept = kept_by_chunk_input<Precision>(a) + kept_by_head<Precision>(a);
    for (const auto& block : s.blocks) kept += kept_by_block<Precision>(a, block.moe.ticket.batch.extent(0));
    CHECK(extent_t(s.keep.peak()) == kept);
    CHECK(extent_t(context.scratch.peak()) <= scratch_bound<Precision>(a) - (4 << 20));
    world.barrier(host_exec(context)).wait(host_exec(context));  // then every rank has recorded its choices
    std::vector<std::int64_t> counts;
    const auto pairs = [&](extent_t layer, extent_t, extent_t source) -> std::span<const std::int64_t> {
      counts.assign(std::size_t(model.experts), 0);
      for (extent_t t = 0; t < a.rows(); ++t)
        for (extent_t j = 0; j < model.top_k; ++j) ++counts[std::size_t(choices.at(place(fold, source), layer, t)[j])];
      return counts;
    };
    const traffic_log travelled = log - before;
    const traffic_table foretold = step_traffic<Precision>(a, world.rank(), 1, pairs);
    for (const traffic_cell& cell : foretold.cells()) {
      const std::string axis = cell.axis();
      if (axis != "tp" && axis != "ep" && axis != "etp") continue;  // the rest is the trainer's
      CAPTURE(axis);
      CAPTURE(name_of(cell.op));
      CHECK(travelled(comm_label(axis), cell.op) == traffic_count{cell.calls, cell.messages, cell.bytes});
    }
  }
  static batch_place place(const folding_extents& fold, extent_t rank) {
    const coordinate at = coordinate_of(fold.attention, rank);
    return {0, at[axis_id::dp] * batch, batch, {sequence, 1, 0, fold.attention.of(axis_id::tp), at[axis_id::tp]}};
  }
};

template <class Policy>
void check_bf16(const folding_extents& fold) {
  routing_trace shared(1, 2, 2 * 2, 16, 2);  // every rank records its own tokens; read after the barrier
  run_threads(int(fold.world()), [&](thread_comm& world) {
    routing_tap follow, lead;
    using wide = whole_model<fp32, Policy>;
    using narrow = whole_model<mixed_bf16, Policy>;
    lead.record = &shared;
    host_context context;
    const wide first(world, fold, lead, shared);
    world.barrier(host_exec(context)).wait(host_exec(context));
    follow.replay = &shared;
    const narrow second(world, fold, follow, shared);
    CHECK(std::abs(second.loss - first.loss) < 0.01 * first.loss);
    CHECK(second.loss != first.loss);
    REQUIRE(second.gradients.size() == first.gradients.size());
    for (std::size_t p = 0; p < first.gradients.size(); ++p) {
      double along = 0, a = 0, b = 0;
      for (std::size_t i = 0; i < first.gradients[p].size(); ++i) {
        const double x = first.gradients[p][i], y = second.gradients[p][i];
        along += x * y, a += x * x, b += y * y;
      }
      const std::string& name = first.names[p];
      CAPTURE(name);
      CHECK(along > 0.99 * std::sqrt(a * b));
      const bool summed = name.ends_with("_bias") || name.ends_with("_norm");  // over tokens, as they are: most of it cancels
      const double far = summed ? 0.1 : 0.03;
      CHECK(std::abs(std::sqrt(b) - std::sqrt(a)) < far * std::sqrt(a));
    }
  });
}

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
    own.layers.add_numbers(host_exec(own.context), own.saved, counts);
    for (const double n : counts) CHECK(n == 0);
  }
  TEST_CASE("so it is for biases and the gains of heads, and a backward in two parts gives the same bits") {
    model_shape model = small;
    model.qkv_bias = model.qk_norm = true;
    const micro_batch batch = tokens();
    stage own(model), probe(model), split(model);
    const auto shift = [](stage& s) {  // away from zeros and ones, which hide factors
      for (auto& entry : s.store.entries())
        if (entry.fact.init_std == 0)
          for (std::size_t i = 0; i < entry.value.size(); ++i) entry.value[i] += 0.2 * double(i % 3) - 0.1;
    };
    shift(own), shift(probe), shift(split);
    own.forward(batch), split.forward(batch);
    own.backward();
    split.layers.backward_input(host_exec(split.context), {}, split.dx.view(), split.saved);
    split.layers.backward_weight(host_exec(split.context), split.saved);
    CHECK(own.store.entries().size() == 13 + 5);
    for (std::size_t p = 0; p < own.store.entries().size(); ++p) {
      const auto& entry = own.store.entries()[p];
      CAPTURE(entry.fact.name());
      const auto slope = test::numerical_gradient(
          probe.store.entries()[p].value, [&] { return probe.forward(batch); }, 1e-4);
      CHECK(test::largest_error(entry.gradient, slope) < 1e-7);
      CHECK(test::largest_error(split.store.entries()[p].gradient, entry.gradient) == 0);
    }
  }
  TEST_CASE("the best next tokens are the labels that cost least; a stage that is not the last knows none") {
    micro_batch batch = tokens();
    stage s(small), first(with_layers(2), 2, 0);
    std::vector<std::int32_t> best(std::size_t(2 * sequence));
    const auto ask = [](stage& of, std::vector<std::int32_t>& ids) {
      of.layers.best_tokens(host_exec(of.context), of.saved, view<std::int32_t>(std::span(ids)));
    };
    s.forward(batch);
    ask(s, best);
    for (std::size_t t = 0; t < best.size(); ++t) {
      std::vector<double> loss;
      for (std::int32_t id = 0; id < 11; ++id) {
        std::fill(batch.labels.begin(), batch.labels.end(), -1);
        batch.labels[t] = id;
        loss.push_back(s.forward(batch));
      }
      CHECK(best[t] == std::min_element(loss.begin(), loss.end()) - loss.begin());
    }
    ask(s, best);  // of ignored labels too
    CHECK(std::set<std::int32_t>(best.begin(), best.end()).size() > 1);
    first.forward(batch);
    CHECK_THROWS_WITH_AS(ask(first, best), doctest::Contains("known to the last chunk of the last stage alone"), error);
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
    second.layers.add_numbers(host_exec(second.context), second.saved, load);
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
    s.layers.add_numbers(host_exec(s.context), s.saved, once);
    s.forward(batch);
    s.forward(batch);
    s.layers.add_numbers(host_exec(s.context), s.saved, twice);
    CHECK(std::equal(once.begin(), once.end(), twice.begin()));
  }
  TEST_CASE("a stage refuses a model that does not fit its folding") {
    self_comm world;
    group_set<self_comm> groups(world, {});
    const folding_extents fold = stage::fold(2);
    parameter_store<fp64> store(with_layers(2), fold, 0);
    CHECK_THROWS_AS((transformer_stage<fp64, self_comm>(small, sequence, fold, 0, store, groups)), config_error);
  }
  TEST_CASE("in bf16 the model is the fp32 model of the same weights and choices: loss, gradients; kept bytes and traffic as foretold") {
    using enum axis_id;
    for (const folding_extents& fold : {folding_extents{}, make_folding({{tp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}}),
                                        make_folding({{tp, 2}}, {{ep, 2}}), make_folding({{dp, 2}}, {{etp, 2}})}) {
      check_bf16<dispatched_by<all_to_all_dispatcher>>(fold);
      check_bf16<dispatched_by<all_gather_dispatcher>>(fold);
    }
  }
}
