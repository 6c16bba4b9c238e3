#include <moefold/train/state.hpp>

#include <moefold/comm/thread.hpp>
#include <moefold/train/trainer.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

#include <map>
#include <mutex>

using namespace moefold;

namespace {

constexpr extent_t sequence = 32;
constexpr model_shape small{.layers = 4,
                            .hidden = 16,
                            .heads = 4,
                            .kv_heads = 4,
                            .head_dim = 4,
                            .experts = 8,
                            .ffn = 8,
                            .vocabulary = 63,  // padded where tp divides
                            .init_std = 0.1,
                            .score = score_function::sigmoid,
                            .expert_bias = true,
                            .tied_embeddings = true};

struct remembering : moe_defaults {
  static constexpr balance_losses balance{.global = 1e-2};
};
template <class Precision>
using policies_with = policies<Precision, cp_all_gather, remembering, one_f_one_b, adamw>;

std::string letters() {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += char((i * i / 7 + i) % 61);
  return text;
}
trainer_options options() {
  trainer_options o;
  o.steps = 6, o.warmup = 1, o.global_batch = 8;
  return o;
}

/// The whole state of a run, gathered from all ranks.
struct whole {
  std::map<std::string, std::vector<std::byte>> tensors, arrays;
  std::map<std::string, std::vector<int>> owners;
  run_position position;
  std::vector<double> losses;
  double squares = 0, norm = 0;  // of the first step's gradients: summed over what the ranks own, and as the step reports it
};

template <class Policies>
whole run(const folding_extents& fold, int steps, const whole* from, const dataset& data) {
  whole result;
  std::mutex guard;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    const bool first = world.rank() == 0;
    basic_trainer<Policies, thread_comm> trainer(std::move(world), small, sequence, fold, options(), data);
    if (from != nullptr) {
      for (state_tensor& t : owned_state(trainer)) {
        const std::vector<std::byte>& all = from->tensors.at(t.name());
        const std::size_t size = size_of(t.type);
        std::vector<std::byte> mine(t.bytes());
        std::size_t at = 0;
        t.piece.for_each_run([&](extent_t global, extent_t, extent_t count) {
          std::copy_n(all.begin() + global * extent_t(size), std::size_t(count) * size, mine.begin() + extent_t(at));
          at += std::size_t(count) * size;
        });
        t.set(mine);
      }
      for (state_array& a : shared_state(trainer)) std::copy_n(from->arrays.at(a.name).begin(), a.bytes.size(), a.bytes.begin());
      trainer.weights_follow_masters();
      trainer.go_to(from->position);
    }
    for (int i = 0; i < steps; ++i) {
      const step_result now = trainer.compute();
      if (std::is_same_v<typename Policies::precision, fp64> && i == 0) {
        double squares = 0;
        for (const state_tensor& t : owned_gradients(trainer, 1.0 / double(now.tokens))) {
          std::vector<double> numbers(std::size_t(t.piece.size()));
          t.get(std::as_writable_bytes(std::span(numbers)));
          for (const double x : numbers) squares += x * x;
        }
        std::scoped_lock lock(guard);
        result.squares += squares;
        result.norm = now.grad_norm;
      }
      trainer.apply(now);
      if (first) result.losses.push_back(now.loss);
    }
    trainer.parameters();  // all have arrived: nobody waits for another rank below
    std::scoped_lock lock(guard);
    result.position = trainer.position();
    for (const state_array& a : shared_state(trainer)) result.arrays[a.name] = {a.bytes.begin(), a.bytes.end()};
    for (const state_tensor& t : owned_state(trainer)) {
      std::vector<std::byte> mine(t.bytes());
      t.get(mine);
      const std::size_t size = size_of(t.type);
      auto& all = result.tensors[t.name()];
      auto& owners = result.owners[t.name()];
      all.resize(std::size_t(t.fact.parameters()) * size);
      owners.resize(std::size_t(t.fact.parameters()));
      std::size_t at = 0;
      t.piece.for_each_run([&](extent_t global, extent_t, extent_t count) {
        std::copy_n(mine.begin() + extent_t(at), std::size_t(count) * size, all.begin() + global * extent_t(size));
        for (extent_t i = 0; i < count; ++i) ++owners[std::size_t(global + i)];
        at += std::size_t(count) * size;
      });
    }
  });
  return result;
}

}  // namespace

TEST_SUITE("train/state") {
  TEST_CASE("in every mapping each element of weights and moments is owned by exactly one rank, and a run goes on in any other from it") {
    const dataset data(token_stream::from_bytes(letters()), sequence, 1);
    using double_policies = policies_with<fp64>;
    const whole one = run<double_policies>({}, 6, nullptr, data);
    const whole half = run<double_policies>({}, 3, nullptr, data);
    CHECK(half.arrays.size() == 2);
    CHECK(half.position == run_position{3, 3, 24});
    for (const testing::mapping& m : testing::mappings()) {
      if (m.fold.world() > 8) continue;
      CAPTURE(m.name);
      const whole rest = run<double_policies>(m.fold, 3, &half, data);
      for (const auto& [name, owners] : rest.owners) {
        CAPTURE(name);
        CHECK(std::all_of(owners.begin(), owners.end(), [](int n) { return n == 1; }));
      }
      CHECK(rest.tensors.size() == one.tensors.size());
      for (int i = 0; i < 3; ++i) CHECK(std::abs(rest.losses[std::size_t(i)] - one.losses[std::size_t(i + 3)]) < 1e-9);
      CHECK(rest.position == one.position);
      CHECK(rest.arrays.at("router.bias") == one.arrays.at("router.bias"));
      const whole same = run<double_policies>(m.fold, 0, &half, data);  // what goes in comes out, bit for bit
      CHECK((same.tensors == half.tensors));
    }
  }

  TEST_CASE("in bf16 the masters are the state: what a run that was cut and went on has learnt is what it would have, bit for bit") {
    const dataset data(token_stream::from_bytes(letters()), sequence, 1);
    using bf16_policies = policies_with<mixed_bf16>;
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::pp, 2}}, {{axis_id::ep, 2}, {axis_id::pp, 2}});
    const whole all = run<bf16_policies>(fold, 6, nullptr, data), half = run<bf16_policies>(fold, 3, nullptr, data);
    const whole rest = run<bf16_policies>(fold, 3, &half, data);
    CHECK(rest.losses == std::vector<double>(all.losses.begin() + 3, all.losses.end()));
    CHECK((rest.tensors == all.tensors));
    CHECK((rest.arrays == all.arrays));
  }

  TEST_CASE("the owned gradients of all ranks together have the step's norm") {
    const dataset data(token_stream::from_bytes(letters()), sequence, 1);
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 2}, {axis_id::etp, 2}});
    const whole seen = run<policies_with<fp64>>(fold, 1, nullptr, data);
    CHECK(seen.norm > 0);
    CHECK(std::abs(std::sqrt(seen.squares) - seen.norm) < 1e-12 * seen.norm);
  }
}
