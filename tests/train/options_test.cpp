#include <moefold/train/options.hpp>

#include <doctest/doctest.h>

#include <moefold/comm/thread.hpp>
#include <moefold/schedule/zero_bubble.hpp>
#include <moefold/train/trainer.hpp>

#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16;
constexpr model_shape small{.layers = 2, .hidden = 16, .heads = 2, .kv_heads = 2, .head_dim = 8, .experts = 4, .ffn = 8, .vocabulary = 64};
constexpr float planted[] = {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 1e30f};
using threads = basic_trainer<policies_of<run_defaults>, thread_comm>;

dataset text() {
  std::string bytes;
  for (int i = 0; i < 3000; ++i) bytes += char((i * i / 7 + i % 11) % 61);
  return dataset(token_stream::from_bytes(bytes), sequence, 1);
}

/// Puts a number into one gradient of one rank, as soon as its layer's are made.
struct planter {
  threads* trainer = nullptr;
  std::size_t entry = 0;
  float value = 0;
  std::int64_t step = 0, now = 0;

  static void ready(void* me, extent_t layer) {
    planter& p = *static_cast<planter*>(me);
    if (p.now != p.step) return;
    auto& entries = p.trainer->parameters().entries();
    if (p.entry < entries.size() && entries[p.entry].layer == layer)
      entries[p.entry].gradient[entries[p.entry].gradient.size() / 2] = p.value;
  }
};

/// All bytes that a rank keeps from step to step.
std::vector<float> state_of(threads& trainer) {
  std::vector<float> all;
  for (std::size_t b = 0; b < trainer.parameters().flats().size(); ++b) {
    const auto add = [&](auto numbers) { all.insert(all.end(), numbers.begin(), numbers.end()); };
    add(trainer.parameters().flats()[b].values.view().span());
    for (std::size_t i = 0; i < adamw::state_tensors; ++i) add(trainer.optimizer().own_state(b, i));
  }
  return all;
}

}  // namespace

TEST_SUITE("train/options") {
  TEST_CASE("F09: a NaN, an infinity or 1e30 in any parameter's gradient on any rank is named before it spreads, and no state changes") {
    using enum axis_id;
    const dataset data = text();
    std::map<std::string, int> kinds;
    std::atomic<int> passed{0};
    int cases = 0;
    for (const folding_extents& fold :
         {make_folding({{tp, 2}, {dp, 2}}, {{ep, 2}, {edp, 2}}), make_folding({{cp, 2}, {pp, 2}}, {{etp, 2}, {pp, 2}})})
      for (int victim = 0; victim < 4; ++victim) {
        std::atomic<std::size_t> entries{0};
        run_threads(4, [&](thread_comm& world) {
          const int rank = world.rank();
          planter plant{nullptr, 0, 0, 1};
          trainer_options options;
          options.steps = 200, options.bucket = 500, options.bad = bad_step::stop;
          if (rank == victim) options.observe = {&plant, nullptr, &planter::ready};
          threads trainer(std::move(world), small, sequence, fold, options, data);
          const auto together = [&] { trainer.world().inner().barrier(trainer.exec()).wait(trainer.exec()); };
          plant.trainer = &trainer;
          trainer.step();
          plant.now = 1;
          if (rank == victim) {
            entries = trainer.parameters().entries().size();
            for (const auto& entry : trainer.parameters().entries()) cases += int(std::size(planted)), ++kinds[name_of(entry.fact.kind)];
          }
          together();
          for (std::size_t entry = 0; entry < entries; ++entry)
            for (const float value : planted) {
              plant.entry = entry, plant.value = value;
              const std::vector<float> before = state_of(trainer);
              const step_result broken = trainer.compute();
              std::string what;
              try {
                trainer.apply(broken);
              } catch (const error& e) {
                what = e.what();
              }
              const bool same = state_of(trainer) == before;
              together();
              REQUIRE(broken.bad);
              CHECK(broken.bad->rank == victim);
              CHECK(broken.bad->elements == 1);
              CHECK(broken.bad->ranks == 1);
              CHECK_FALSE(is_bounded(broken.bad->value));
              CHECK(same);
              const bool named = what.find(sentence("rank ", victim, " has ")) != std::string::npos &&
                                 what.find("in its gradient of " + broken.bad->parameter) != std::string::npos;
              CHECK(named);
              if (rank != victim) continue;
              CHECK(broken.bad->parameter == trainer.parameters().entries()[entry].fact.name());
              passed +=
                  same && named && broken.bad->rank == victim && broken.bad->parameter == trainer.parameters().entries()[entry].fact.name();
            }
          plant.now = 2;
          CHECK(std::isfinite(trainer.step().loss));  // and the run can go on
        });
      }
    for (const char* kind : {"moe.router", "moe.gate", "moe.up", "moe.down", "attention.query", "attention.key", "attention.value",
                             "attention.output", "embedding", "head"})
      CHECK(kinds[kind] >= 4);
    CHECK(passed == cases);
    MESSAGE("F09: ", passed.load(), " of ", cases, " cases: nan, inf and 1e30 in every parameter of every rank; 0 bytes of state changed");
  }
  TEST_CASE("F09: skip leaves everything as it was on all ranks and goes on; zero goes on without the element") {
    const dataset data = text();
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 4}});
    const auto train = [&](bad_step policy, float value) {
      std::vector<double> losses;
      std::vector<float> state;
      run_threads(4, [&](thread_comm& world) {
        const int rank = world.rank();
        planter plant{nullptr, 3, value, 1};
        trainer_options options;
        options.steps = 4, options.bad = policy;
        if (rank == 2) options.observe = {&plant, nullptr, &planter::ready};
        threads trainer(std::move(world), small, sequence, fold, options, data);
        plant.trainer = &trainer;
        trainer.step();
        const std::vector<float> before = state_of(trainer);
        plant.now = 1;
        const step_result broken = trainer.step();
        const std::vector<float> after = state_of(trainer);
        plant.now = 2;
        const step_result next = trainer.step();
        CHECK(broken.bad.has_value() == !is_bounded(value));
        CHECK(broken.skip == (policy == bad_step::skip && !is_bounded(value)));
        CHECK((after == before) == broken.skip);
        CHECK(std::isfinite(next.loss));
        CHECK_FALSE(next.bad);
        if (rank != 0) return;
        losses = {broken.loss, broken.grad_norm, next.loss, next.grad_norm};
        state = state_of(trainer);
      });
      return std::pair(losses, state);
    };
    const auto with_zero = train(bad_step::stop, 0);
    for (const float value : planted) {
      CAPTURE(value);
      const auto skipped = train(bad_step::skip, value), zeroed = train(bad_step::zero, value);
      CHECK(zeroed.second == with_zero.second);
      CHECK(zeroed.first == with_zero.first);
      CHECK(skipped.second != zeroed.second);
    }
  }
  TEST_CASE("overlap and the size of buckets change no bit") {
    const dataset data = text();
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {dp, 2}, {pp, 2}}, {{ep, 2}, {edp, 2}, {pp, 2}});
    const auto train = [&](bool overlap, extent_t bucket, const schedule_value& schedule) {
      std::vector<double> seen;
      std::vector<std::vector<float>> weights(8);
      run_threads(8, [&](thread_comm& world) {
        const int rank = world.rank();
        trainer_options options;
        options.steps = 4, options.overlap = overlap, options.bucket = bucket, options.schedule = &schedule;
        threads trainer(std::move(world), small, sequence, fold, options, data);
        for (int i = 0; i < 4; ++i) {
          const step_result step = trainer.step();
          if (rank == 0) seen.push_back(step.loss), seen.push_back(step.grad_norm);
        }
        for (const auto& entry : trainer.parameters().entries())
          weights[std::size_t(rank)].insert(weights[std::size_t(rank)].end(), entry.value.begin(), entry.value.end());
      });
      return std::pair(seen, weights);
    };
    for (const schedule_value& schedule : {value_of_schedule<one_f_one_b>, value_of_schedule<zero_bubble>}) {
      const auto plain = train(false, 0, schedule);
      CHECK(train(true, 0, schedule) == plain);
      CHECK(train(true, 300, schedule).second.size() == 8);
      for (const extent_t bucket : {extent_t{1}, extent_t{700}}) {  // other shards, so other sums of squares: the norm differs by rounding
        const auto cut = train(false, bucket, schedule), beside = train(true, bucket, schedule);
        CHECK(beside == cut);
        for (std::size_t i = 0; i < cut.first.size(); ++i) CHECK(cut.first[i] == doctest::Approx(plain.first[i]).epsilon(1e-6));
      }
    }
  }
  TEST_CASE("experts learn at their own rate, and none at rate 0") {
    const dataset data = text();
    const auto weights = [&](double share) {
      std::vector<float> experts, others;
      run_threads(1, [&](thread_comm& world) {
        trainer_options options;
        options.steps = 3, options.expert_rate = share;
        threads trainer(std::move(world), small, sequence, {}, options, data);
        for (int i = 0; i < (share < 0 ? 0 : 1); ++i) trainer.step();
        for (const auto& entry : trainer.parameters().entries()) {
          auto& to = of_expert(entry.fact.kind) ? experts : others;
          to.insert(to.end(), entry.value.begin(), entry.value.end());
        }
      });
      return std::pair(experts, others);
    };
    const auto full = weights(1), half = weights(0.5), none = weights(0);
    CHECK(full.second == half.second);
    CHECK(full.second == none.second);
    CHECK(full.first != half.first);
    std::vector<float> start;
    run_threads(1, [&](thread_comm& world) {
      threads trainer(std::move(world), small, sequence, {}, {}, data);
      for (const auto& entry : trainer.parameters().entries())
        if (of_expert(entry.fact.kind)) start.insert(start.end(), entry.value.begin(), entry.value.end());
    });
    CHECK(none.first == start);
  }
  TEST_CASE("the rate of a run follows from its options") {
    trainer_options o;
    o.steps = 2000, o.learning_rate = 1e-2;
    CHECK(rate_of(o) == rate_plan{rate_shape::cosine, 1e-2, 1e-3, 100, 2000, 400});
    o.rate = rate_shape::stable_decay, o.warmup = 7, o.decay = 30, o.floor = 0;
    CHECK(rate_of(o) == rate_plan{rate_shape::stable_decay, 1e-2, 0, 7, 2000, 30});
    const auto refused = [&](auto change) {
      trainer_options bad = o;
      change(bad);
      CHECK_THROWS_AS(check(bad, folding_extents{}), config_error);
    };
    CHECK_NOTHROW(check(o, folding_extents{}));
    refused([](trainer_options& b) { b.warmup = 1990; });
    refused([](trainer_options& b) { b.floor = 1.5; });
    refused([](trainer_options& b) { b.expert_rate = -1; });
    refused([](trainer_options& b) { b.expert_rate = std::nan(""); });
  }
  TEST_CASE("policies and reports have names") {
    CHECK(bad_step_of("skip") == bad_step::skip);
    CHECK_THROWS_WITH_AS(bad_step_of("ignore"),
                         "moefold: there is nothing called 'ignore' to do about gradients that are not finite; choose stop, skip or zero",
                         config_error);
    CHECK(
        describe(bad_report{3, "layers.0.moe.up", 17, -HUGE_VAL, 2, 1}) ==
        "rank 3 has -inf in its gradient of layers.0.moe.up (element 17 of its part); 2 elements on 1 rank are not finite or beyond 2^64");
  }
}
