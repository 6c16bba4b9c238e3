#include <moefold/pipeline/runner.hpp>

#include <moefold/comm/thread.hpp>
#include <moefold/model/transformer.hpp>
#include <moefold/schedule/forward_only.hpp>
#include <moefold/schedule/gpipe.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/one_f_one_b.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

#include <map>
#include <mutex>

using namespace moefold;

namespace {

constexpr model_shape model{
    .layers = 5, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .experts = 4, .ffn = 6, .vocabulary = 11, .init_std = 0.3};
constexpr extent_t sequence = 4, batch = 2, rows = sequence * batch;

std::vector<micro_batch> micro_batches(int count) {
  std::vector<micro_batch> all;
  for (int m = 0; m < count; ++m) {
    all.push_back({{0, m * batch, batch, {sequence}}, {}, {}});
    for (int i = 0; i < rows; ++i) {
      all.back().ids.push_back((i * i + 3 * i + 5 * m) % 11);
      all.back().labels.push_back((7 * i + m) % 11);
    }
  }
  return all;
}

struct outcome {
  double loss = 0;
  std::map<std::string, tensor<double>> gradient;
  std::vector<int> fed, live;  // micro-batches in the order of their forward on stage 0; most states in use, by stage
};

/// Five layers; where there are more virtual stages some have none.
layer_split split_for(int virtual_stages) {
  if (virtual_stages <= 5) return {};
  layer_split split;
  split.given = virtual_stages;
  for (int l = 0; l < 5; ++l) ++split.counts[std::size_t((l * 7 + 2) % virtual_stages)];
  return split;
}

template <class Schedule>
outcome play(int stages, int count) {
  folding_extents fold = stages == 1 ? folding_extents{} : make_folding({{axis_id::pp, stages}}, {{axis_id::pp, stages}});
  fold.layers = split_for(stages * Schedule::chunks);
  fold.layers.chunks = Schedule::chunks;
  const std::vector<micro_batch> batches = micro_batches(count);
  outcome result;
  std::mutex guard;
  run_threads(stages, [&](thread_comm& world) {
    const int stage = world.rank();
    group_set<thread_comm> groups(world, fold);
    parameter_store<fp64> store(model, fold, stage);
    store.initialise(3);
    const transformer_stage<fp64, thread_comm> layers(model, sequence, fold, stage, store, groups);
    host_context context;
    const int live = Schedule::live(stage, stages, count);
    runner runs(layers, groups.template over<tag::pp>(), groups.stages_for_gradients(), rows, model.hidden, live, 0);
    std::vector<int> fed;
    int done = 0;
    struct seen {
      std::vector<extent_t> before, ready;
    } events;
    const stage_events told{&events, [](void* to, extent_t layer) { static_cast<seen*>(to)->before.push_back(layer); },
                            [](void* to, extent_t layer) { static_cast<seen*>(to)->ready.push_back(layer); }};
    const double loss = runs.run(
        host_exec(context), Schedule::steps(stage, stages, count), static_cast<routing_tap*>(nullptr),
        [&](int m) {
          fed.push_back(m);
          return &batches[std::size_t(m)];
        },
        [&](const auto&) { ++done; }, told);
    CHECK(done == count * Schedule::chunks);
    std::vector<extent_t> own;  // every layer of the stage: told before each forward, and once when its gradients are final
    if (stage == 0) own.push_back(-1);
    for_each_layer(model.layers, fold, stage, [&](extent_t l) { own.push_back(l); });
    if (stage == stages - 1) own.push_back(model.layers);
    std::sort(events.ready.begin(), events.ready.end());
    CHECK(events.ready == (count > 0 && Schedule::trains ? own : std::vector<extent_t>{}));
    std::sort(events.before.begin(), events.before.end());
    std::vector<extent_t> used;
    for (const extent_t l : own) used.insert(used.end(), std::size_t(count), l);
    CHECK(events.before == used);
    CHECK((runs.peak() > 0) == (count > 0));
    std::scoped_lock lock(guard);
    result.loss += loss;
    if (stage == 0) result.fed = fed;
    for (const auto& entry : store.entries()) result.gradient[entry.fact.name()] = test::copy_of(entry.gradient);
  });
  return result;
}

}  // namespace

TEST_SUITE("pipeline/runner") {
  TEST_CASE("any number of micro-batches on 1, 2 and 4 stages gives the loss and gradients of one stage, bit for bit") {
    for (const int count : {1, 2, 3, 4, 7}) {
      const outcome one = play<one_f_one_b>(1, count);
      CHECK(one.gradient.size() == 3 + 10 * std::size_t(model.layers));
      for (const int stages : {2, 4}) {
        CAPTURE(count);
        CAPTURE(stages);
        const outcome many = play<one_f_one_b>(stages, count);
        CHECK(many.loss == one.loss);
        for (const auto& parameter : one.gradient) {
          const auto& gradient = parameter.second;
          CAPTURE(parameter.first);
          CHECK(test::largest_error(many.gradient.at(parameter.first), gradient) == 0);
          CHECK(test::largest_error(gradient, tensor<double>(gradient.shape(), 0.0)) > 0);
        }
      }
    }
  }
  TEST_CASE_TEMPLATE(
      "every schedule gives the loss and the gradients of one stage bit for bit, also with chunks and stages without a layer",
      Schedule, gpipe, one_f_one_b, interleaved<1>, interleaved<2>, interleaved<4>, zero_bubble, zero_bubble_h1) {
    for (const int count : {1, 2, 3, 5, 8, 16}) {
      const outcome one = play<one_f_one_b>(1, count);
      for (const int stages : {1, 2, 4, 8}) {
        CAPTURE(count);
        CAPTURE(stages);
        const outcome many = play<Schedule>(stages, count);
        CHECK(many.loss == one.loss);
        for (const auto& parameter : one.gradient) {
          CAPTURE(parameter.first);
          CHECK(test::largest_error(many.gradient.at(parameter.first), parameter.second) == 0);
        }
      }
    }
  }
  TEST_CASE("a schedule of forwards alone gives the same loss and leaves gradients as they are") {
    for (const int stages : {1, 2, 4}) {
      const outcome trained = play<one_f_one_b>(stages, 3), evaluated = play<forward_only>(stages, 3);
      CHECK(evaluated.loss == trained.loss);
      for (const auto& [name, gradient] : evaluated.gradient)
        CHECK(std::all_of(gradient.begin(), gradient.end(), [](double g) { return g == 0; }));
    }
  }
  TEST_CASE("every micro-batch is fed once, in order") {
    CHECK(play<one_f_one_b>(4, 6).fed == std::vector<int>{0, 1, 2, 3, 4, 5});
    CHECK(play<forward_only>(2, 3).fed == std::vector<int>{0, 1, 2});
  }
  TEST_CASE("no micro-batches, no work") { CHECK(play<one_f_one_b>(2, 0).loss == 0); }
}
