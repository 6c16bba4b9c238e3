#include <moefold/train/trainer.cuh>

#include "../support/device.hpp"

#include <moefold/comm/thread.cuh>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <mutex>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16, batch = 2;

/// A dense block, then two with experts, one of them shared behind a gate.
constexpr model_shape small = [] {
  model_shape m{.layers = 3, .hidden = 24, .heads = 4, .kv_heads = 4, .head_dim = 8, .experts = 4, .ffn = 12, .vocabulary = 29};
  m.shared_ffn = 8, m.shared_gate = true, m.dense_layers = 1, m.dense_ffn = 20, m.init_std = 0.3;
  m.qkv_bias = true, m.qk_norm = true;
  return m;
}();

struct outcome {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients;  // by parameter and rank
  std::vector<double> numbers;
  std::map<int, std::vector<std::int32_t>> next;  // the likeliest tokens behind the rows of each rank
};

/// One micro-batch through the whole model, forward and backward, on the calling rank.
template <class Precision, class Context, class Policy, class Exec, class Comm>
void run_stage(Exec e, Comm& world, const model_shape& model, const folding_extents& fold, const recompute_rule& recompute, bool split,
               outcome& result, std::mutex& guard) {
  using T = typename Precision::storage;
  using stage_type = transformer_stage<Precision, Comm, Context, Policy, Exec>;
  const int rank = world.rank();
  group_set<Comm> groups(world, fold);
  parameter_store<Precision, typename Exec::memory> store(e, model, fold, rank);
  store.initialise(e, 3);
  store.zero_gradients(e);
  const moe_facts facts = facts_of<Policy>();
  router_states<typename Precision::accumulate, typename Exec::memory> states(model, facts.balance, 1);
  states.publish(e);
  const stage_type stage(e, model, sequence, fold, rank, store, groups, &states, facts, recompute);
  const coordinate at = coordinate_of(fold.attention, rank);
  micro_batch b{
      {0, 0, batch, {sequence, fold.attention.of(axis_id::cp), at[axis_id::cp], fold.attention.of(axis_id::tp), at[axis_id::tp]}}, {}, {}};
  for (extent_t i = 0; i < b.place.part.cp_tokens(); ++i)
    for (extent_t s = 0; s < batch; ++s) {
      const extent_t position = b.place.part.position(i), token = (position * position + 5 * s) % 29;
      const bool padded = s == 1 && position > 12;
      b.ids.push_back(padded ? 0 : std::int32_t(token));
      b.labels.push_back(padded || position % 5 == 2 ? -1 : std::int32_t((7 * position + s) % 29));
      b.padding.push_back(padded);
    }
  for (const std::int32_t position : context_positions(sequence, fold.attention.of(axis_id::cp)))
    for (extent_t s = 0; s < batch; ++s) b.first.push_back(s == 0 ? position / 6 * 6 : 0);  // documents of six tokens

  typename stage_type::saved s;
  basic_arena<typename Exec::memory> again;
  s.batch = &b, s.again = &again;
  read_back<double, typename Exec::memory> numbers(1 + model.layers *
                                                           layer_numbers(activation_shape{model, fold, sequence, batch, facts}).count);
  fill(e, numbers.all(), 0.0);
  stage.forward(e, s, nullptr, numbers.at(0, 1));
  stage.add_numbers(e, s, numbers.at(1, numbers.size() - 1).as({model.layers, (numbers.size() - 1) / model.layers}));
  tensor<T, typename Exec::memory> dx({b.place.part.local_tokens() * batch, model.hidden});
  if (split) {
    stage.backward_input(e, {}, dx.view(), s);
    stage.backward_weight(e, s);
  } else {
    stage.backward(e, {}, dx.view(), s);
  }
  std::vector<std::int32_t> next(std::size_t(dx.extent(0)), -1);
  stage.best_tokens(e, s, view<std::int32_t>(std::span(next)));
  const std::span<const double> counted = numbers.read(e);
  std::scoped_lock lock(guard);
  result.next[rank] = next;
  result.loss += counted[0];
  if (rank == 0) result.numbers.assign(counted.begin() + 1, counted.end());
  for (const auto& entry : store.entries()) {
    tensor<typename Precision::reduce> own(entry.gradient.shape());
    download(e, entry.gradient, own.view());
    result.gradients[sentence(entry.fact.name(), " of rank ", rank)].assign(own.begin(), own.end());
  }
}

template <class Precision, class Context, class Policy = moe_defaults>
void twins_agree(double limit, const model_shape& model = small, const folding_extents& fold = {}, const recompute_rule& recompute = {},
                 bool split = false) {
  outcome host, device;
  std::mutex guard;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    host_context context;
    run_stage<Precision, Context, Policy>(host_exec(context), world, model, fold, recompute, split, host, guard);
  });
  run_device_threads(int(fold.world()), [&](device_thread_comm& world) {
    cuda_context context(0);
    run_stage<Precision, Context, Policy>(cuda_exec(context), world, model, fold, recompute, split, device, guard);
  });
  CHECK(device.loss == doctest::Approx(host.loss).epsilon(limit));
  CHECK(test::norm_error(device.numbers, host.numbers) < limit);
  CHECK(device.next == host.next);
  const auto token = [&](std::int32_t id) { return id >= 0 && id < model.vocabulary; };
  for (const auto& of_rank : host.next) CHECK(std::all_of(of_rank.second.begin(), of_rank.second.end(), token));
  CHECK(device.gradients.size() == host.gradients.size());
  for (const auto& parameter : host.gradients) {
    CAPTURE(parameter.first);
    CHECK(test::norm_error(device.gradients.at(parameter.first), parameter.second) < limit);
  }
}

struct balanced : moe_defaults {
  static constexpr balance_losses balance{.micro_batch = 1e-2, .sequence = 1e-2, .z = 1e-3};
  template <class T, class Comm>
  using dispatcher = all_gather_dispatcher<T, Comm>;
};

using ax = axis_id;

}  // namespace

TEST_SUITE("model/transformer") {
  TEST_CASE(
      "loss, counts, next tokens and every gradient of a whole model are the host's, and so they are over heads and sequence at once") {
    twins_agree<fp64, cp_combined<2>>(1e-10);
    twins_agree<fp64, cp_combined<2>>(1e-10, small, make_folding({{ax::cp, 2}}, {{ax::ep, 2}}));  // heads only
    twins_agree<fp64, cp_combined<2>>(1e-10, small, make_folding({{ax::cp, 4}}, {{ax::etp, 2}, {ax::ep, 2}}));
  }
  TEST_CASE("in fp32 they are the host's, with balance losses, by gathering, recomputed and with a split backward") {
    twins_agree<fp32, cp_all_gather, balanced>(1e-4);
    twins_agree<fp32, cp_all_gather, balanced>(1e-4, small, make_folding({{ax::tp, 2}}, {{ax::ep, 2}}), recompute_full);
    twins_agree<fp32, cp_all_gather, balanced>(1e-4, small, make_folding({{ax::cp, 2}}, {{ax::etp, 2}}), {}, true);
  }
  TEST_CASE("gelu, grouped queries and tied embeddings are the host's") {
    model_shape m = small;
    m.activation = activation_function::gelu, m.kv_heads = 2, m.tied_embeddings = true, m.shared_gate = false;
    twins_agree<fp64, cp_combined<2>>(1e-10, m);
  }
}
