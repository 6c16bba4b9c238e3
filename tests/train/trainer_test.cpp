#include <moefold/train/trainer.hpp>

#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>

#include <doctest/doctest.h>
#include "../support/counting_new.hpp"
#include "../support/random.hpp"

#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

using namespace moefold;

namespace {

constexpr model_shape small{
    .layers = 3, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 12, .vocabulary = 64, .init_std = 0.1};
constexpr extent_t sequence = 16;

std::string letters(std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) text += char((i * i / 7 + i) % 61);
  return text;
}
dataset data_of(std::size_t bytes = 2000, double held_out = 0.2) {
  return dataset(token_stream::from_bytes(letters(bytes)), sequence, 1, held_out);
}

using one_rank = basic_trainer<policies_of<run_defaults>, self_comm>;
using threads = basic_trainer<policies_of<run_defaults>, thread_comm>;

struct run : run_defaults {
  static constexpr model_shape model = small;
  static constexpr extent_t sequence = ::sequence;
  using fold = folding<mesh<tp<2>, dp<dyn>>, mesh<ep<2>, edp<dyn>>>;
  using precision = fp64;
};

trainer_options options_of(std::int64_t steps = 20) {
  trainer_options o;
  o.steps = steps;
  return o;
}
template <class F>
std::string reason(F&& f) {
  try {
    f();
  } catch (const config_error& e) {
    return e.what();
  }
  return "";
}

struct forgetful : one_f_one_b {  // leaves out the last backward
  static constexpr const char* name = "forgetful";
  static std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    auto list = one_f_one_b::steps(stage, stages, micro_batches);
    list.pop_back();
    return list;
  }
};

// F14: a tiny run of four ranks, built and led through its first step, in which one allocation fails.
constexpr int f14_ranks = 4;
struct f14_case {
  int victim = -1;
  std::uint64_t nth = 0;                          // 0: none fails
  std::size_t budget = memory_ledger::no_budget;  // of the victim
};
struct f14_seen {
  std::array<std::uint64_t, f14_ranks> allocations{};     // made by each rank
  std::array<std::size_t, f14_ranks> peak{};              // bytes held at once
  std::array<std::optional<root_cause>, f14_ranks> told;  // by peer_failed
  std::optional<out_of_memory> thrown;                    // by the victim
};
f14_seen f14_play(const f14_case& c, const folding_extents& fold, const dataset& data) {
  constexpr std::uint64_t far = std::uint64_t{1} << 40;
  f14_seen seen;
  try {
    run_threads(f14_ranks, [&](thread_comm& world) {
      const auto me = std::size_t(world.rank());
      const bool mine = world.rank() == c.victim;
      try {
        auto after = world.split(0, world.rank(), "after");
        trainer_options o = options_of();
        o.global_batch = 2;
        if (mine) o.memory = c.budget;
        failing_allocation::arm(mine && c.nth > 0 ? c.nth : far);
        threads trainer(std::move(world), small, sequence, fold, o, data);
        trainer.step();
        seen.allocations[me] = far - failing_allocation::left();
        seen.peak[me] = trainer.memory().total().peak;
        host_context context;
        after.barrier(host_exec(context));  // whoever is done waits for those that are not
      } catch (const out_of_memory& failure) {
        if (mine) seen.thrown = failure;
        throw;
      } catch (const peer_failed& failure) {
        seen.told[me] = failure.cause();
        throw;
      }
    });
  } catch (const out_of_memory&) {
  }
  return seen;
}
bool f14_told(const f14_seen& seen, int victim) {
  const auto& one = seen.told[victim == 0 ? 1 : 0];
  if (!seen.thrown || !one) return false;
  bool good = seen.thrown->rank() == victim && seen.thrown->need() > 0;
  for (int r = 0; r < f14_ranks; ++r) {
    const auto& cause = seen.told[std::size_t(r)];
    good = good && cause.has_value() == (r != victim);
    if (cause)
      good = good && cause->rank == victim && cause->message == one->message &&
             cause->message.find(sentence("could not allocate ", seen.thrown->need(), " bytes of host memory for ",
                                          name_of(seen.thrown->what_for()), " of rank ", victim)) != std::string::npos;
  }
  return good;
}
/// Every allocation of every rank, and a budget a byte too small.
void f14_all(const folding_extents& fold) {
  const dataset data = data_of(600, 0.0);
  const f14_seen clean = f14_play({}, fold, data);
  const std::size_t before = host_memory::allocations();
  (void)f14_play({}, fold, data);
  CHECK(std::accumulate(clean.allocations.begin(), clean.allocations.end(), std::uint64_t{0}) ==
        host_memory::allocations() - before);  // none elsewhere
  int passed = 0, cases = 0;
  for (int victim = 0; victim < f14_ranks; ++victim) {
    const std::uint64_t all = clean.allocations[std::size_t(victim)];
    CHECK(all > 20);
    for (std::uint64_t n = 1; n <= all; ++n, ++cases) {
      CAPTURE(victim);
      CAPTURE(n);
      const bool good = f14_told(f14_play({victim, n, memory_ledger::no_budget}, fold, data), victim);
      CHECK(good);
      passed += good;
    }
    const std::size_t peak = clean.peak[std::size_t(victim)];
    const f14_seen enough = f14_play({victim, 0, peak}, fold, data), less = f14_play({victim, 0, peak - 1}, fold, data);
    const bool exact = !enough.thrown && f14_told(less, victim) && less.thrown->have() < less.thrown->need();
    CHECK(exact);
    ++cases, passed += exact;
  }
  MESSAGE("F14: ", passed, " of ", cases,
          " cases: each allocation of the construction and the first step, and a budget a byte too small, on each of ", f14_ranks,
          " ranks");
}

}  // namespace

TEST_SUITE("train/trainer") {
  TEST_CASE("training lowers the loss, step results count up and follow the schedule") {
    const dataset data = data_of();
    one_rank trainer(self_comm(), small, sequence, {}, options_of(40), data);
    std::vector<step_result> steps;
    for (int i = 0; i < 40; ++i) steps.push_back(trainer.step());
    CHECK(steps.front().loss == doctest::Approx(std::log(64.0)).epsilon(0.05));
    CHECK(steps.back().loss < 0.9 * steps.front().loss);
    for (std::int64_t i = 0; i < 40; ++i) {
      const step_result& s = steps[std::size_t(i)];
      CHECK(s.step == i);
      CHECK(s.tokens == 8 * sequence);
      CHECK(s.grad_norm > 0);
      CHECK(s.learning_rate == cosine_rate{4e-3, 4e-4, 4, 40}(i));
      CHECK_FALSE(s.stop);
    }
  }
  TEST_CASE("the expert bias moves by exactly u towards the even share in every step, and an even load leaves it alone") {
    model_shape model = small;
    model.score = score_function::sigmoid, model.expert_bias = true;
    const dataset data = data_of();
    moe_facts facts;
    facts.balance.bias_step = 0.01;
    basic_trainer<policies_of<run>, self_comm> trainer(self_comm(), model, sequence, {}, options_of(), data, {}, facts);
    std::vector<double> right(std::size_t(model.layers * model.experts), 0.0);
    for (int i = 0; i < 4; ++i) {
      trainer.step();
      for (extent_t l = 0; l < model.layers; ++l)
        for (extent_t e = 0; e < model.experts; ++e) {
          const std::int64_t gap = 8 * sequence * model.top_k - model.experts * trainer.load()(l, e);
          right[std::size_t(l * model.experts + e)] += gap > 0 ? 0.01 : gap < 0 ? -0.01 : 0;
        }
      const auto bias = trainer.routers().bias();
      CHECK(std::equal(right.begin(), right.end(), bias.begin(), bias.end()));
    }
    CHECK(std::any_of(right.begin(), right.end(), [](double b) { return std::abs(b) > 0.025; }));

    routing_tap tap;
    tap.even = true;
    trainer_options even = options_of();
    even.tap = &tap;
    basic_trainer<policies_of<run>, self_comm> still(self_comm(), model, sequence, {}, even, data, {}, facts);
    still.step();
    for (const double b : still.routers().bias()) CHECK(b == 0);

    step_result none = trainer.compute();
    none.tokens = 0;
    const tensor<double> before = test::copy_of(trainer.routers().bias());
    trainer.apply(none);
    CHECK(std::equal(before.begin(), before.end(), trainer.routers().bias().begin()));  // a step without tokens changes nothing
  }
  TEST_CASE("where a bias may choose otherwise, the next step's shares are what the scores alone would choose") {
    model_shape model = small;
    model.score = score_function::sigmoid, model.expert_bias = true;
    const dataset data = data_of();
    moe_facts facts;
    facts.balance.global = 0.1;
    basic_trainer<policies_of<run>, self_comm> trainer(self_comm(), model, sequence, {}, options_of(), data, {}, facts);
    for (extent_t l = 0; l < model.layers; ++l)
      trainer.routers().bias()(l, 0) = trainer.routers().bias()(l, 1) = 10;  // all tokens to these two
    trainer.step();
    for (extent_t l = 0; l < model.layers; ++l) {
      const auto share = trainer.routers().previous().rows(l, 1);
      CHECK(std::accumulate(share.begin(), share.end(), 0.0) == doctest::Approx(model.top_k));
      CHECK(trainer.load()(l, 0) == trainer.pairs() / 2);
      CHECK(share[2] + share[3] > 0.1);
    }
  }
  TEST_CASE("jitter follows the run's seed, and evaluation has none") {
    const dataset data = data_of();
    moe_facts facts;
    facts.jitter = 0.5;
    trainer_options other = options_of();
    other.seed = 99;
    one_rank plain(self_comm(), small, sequence, {}, options_of(), data);
    one_rank jittered(self_comm(), small, sequence, {}, options_of(), data, {}, facts);
    one_rank reseeded(self_comm(), small, sequence, {}, other, data, {}, facts);
    for (std::size_t f = 0; f < plain.parameters().flats().size(); ++f) {  // the same weights: the seed draws them too
      const auto& from = plain.parameters().flats()[f].values;
      std::copy(from.begin(), from.end(), reseeded.parameters().flats()[f].values.begin());
    }
    CHECK(jittered.evaluate() == plain.evaluate());
    CHECK(reseeded.evaluate() == plain.evaluate());
    const double loss = jittered.compute().loss;
    CHECK(loss != plain.compute().loss);
    CHECK(loss != reseeded.compute().loss);
  }
  TEST_CASE(
      "a rank's memory is charged by category: parameters, gradients and optimizer state to the byte, and nothing more after the first "
      "step") {
    const dataset data = data_of();
    trainer_options options = options_of();
    options.recompute = recompute_full;
    one_rank trainer(self_comm(), small, sequence, {}, options, data);
    const auto now = [&](memory_category category) { return extent_t(trainer.memory()(category).now); };
    const parameter_memory foretold = memory_of_parameters<one_rank::precision>(small, {}, 0);
    CHECK(now(memory_category::parameters) == foretold.parameters);
    CHECK(now(memory_category::gradients) == foretold.gradients);
    CHECK(now(memory_category::optimizer) == foretold.optimizer);
    const activation_shape a = trainer.activations();
    const auto reserved = [](extent_t bytes) { return (bytes + 63) / 64 * 64; };
    CHECK(now(memory_category::activations) == reserved(kept_by_micro_batch<one_rank::precision>(a, 0, a.worst_rows())) +
                                                   reserved(kept_by_head<one_rank::precision>(a)) +
                                                   2 * a.rows() * small.hidden * 4);  // and what travels between stages
    CHECK(now(memory_category::recomputation) == recomputed_by_block<one_rank::precision>(a, a.worst_rows()));
    CHECK(now(memory_category::scratch) == reserved(scratch_bound<one_rank::precision>(a)));
    trainer.step();
    const std::size_t held = trainer.memory().total().now;
    trainer.step();
    CHECK(trainer.memory().total().peak == held);
    {
      const tensor<double> mine({100});  // somebody else's
      CHECK(trainer.memory().total().now == held);
    }
  }
  TEST_CASE("perfect balance gives exactly the coefficient of every balance loss, in the step's result and by layer") {
    const dataset data = data_of();
    routing_tap tap;
    tap.even = true;
    trainer_options options = options_of();
    options.tap = &tap;
    moe_facts facts;
    facts.balance = {.micro_batch = 0.25, .sequence = 0.5, .global = 1, .global_running = 2};
    basic_trainer<policies_of<run>, self_comm> trainer(self_comm(), small, sequence, {}, options, data, {}, facts);
    for (int i = 0; i < 2; ++i) {
      const step_result step = trainer.step();
      CHECK(step.balance == doctest::Approx(3 * 3.75).epsilon(1e-12));
      for (extent_t l = 0; l < 3; ++l)
        for (std::size_t kind = 0; kind < 4; ++kind)
          CHECK(trainer.balance(l)[kind] == doctest::Approx(coefficients(facts.balance)[kind]).epsilon(1e-12));
    }
  }
  TEST_CASE("the running counts of the last micro-batch are the load of the whole step, in every step") {
    const dataset data = data_of();
    moe_facts facts;
    facts.balance.global_running = 0.1;
    one_rank trainer(self_comm(), small, sequence, {}, options_of(), data, {}, facts);
    for (int i = 0; i < 2; ++i) {
      trainer.step();
      for (extent_t l = 0; l < small.layers; ++l) {
        const auto load = trainer.load().rows(l, 1);
        const auto running = trainer.routers().of(l).running.rows(trainer.micro_batches() - 1, 1);
        CHECK(std::equal(load.begin(), load.end(), running.begin()));
      }
    }
  }
  TEST_CASE("a balance loss is a mean over the tokens that are not padding: its gradient is the same, however many labels count") {
    const auto gradient_of_z = [](extent_t ignored) {
      dataset data = data_of();
      data.set_edit([=](extent_t, std::span<std::int32_t>, std::span<std::int32_t> labels) { std::fill_n(labels.begin(), ignored, -1); });
      std::vector<double> mean;
      for (const double z : {0.0, 0.1}) {
        moe_facts facts;
        facts.balance.z = z;
        basic_trainer<policies_of<run>, self_comm> trainer(self_comm(), small, sequence, {}, options_of(), data, {}, facts);
        const step_result now = trainer.compute();
        std::size_t i = 0;
        for (std::size_t f = 0; f < trainer.parameters().flats().size(); ++f)
          for (const double g : trainer.optimizer().own_gradients(f)) {
            if (z == 0) mean.push_back(0);
            mean[i++] += (z == 0 ? -g : g) / double(now.tokens);
          }
      }
      return mean;
    };
    const std::vector<double> all = gradient_of_z(0), some = gradient_of_z(sequence - 3);
    double most = 0, difference = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
      most = std::max(most, std::abs(all[i])), difference = std::max(difference, std::abs(all[i] - some[i]));
    CHECK(most > 1e-3);
    CHECK(difference < 1e-10 * most);
  }
  TEST_CASE("balance losses spread the load that a run without them piles up") {
    const dataset data = data_of(6000);
    const auto worst = [&](double coefficient) {
      moe_facts facts;
      facts.balance.micro_batch = coefficient;
      one_rank trainer(self_comm(), small, sequence, {}, options_of(80), data, {}, facts);
      std::int64_t most = 0;
      for (int i = 0; i < 80; ++i) trainer.step();
      for (const std::int64_t count : trainer.load()) most = std::max(most, count);
      return double(most) / double(8 * sequence * small.top_k / small.experts);
    };
    const double without = worst(0), with = worst(0.05);
    CHECK(with < 1.35);
    CHECK(with < without);
  }
  TEST_CASE("what an edit of the data ignores or pads counts in no loss: labels, tokens, load") {
    dataset data = data_of();
    data.set_edit([](extent_t, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) {
      labels[0] = -1;             // ignored
      tokens[sequence - 1] = -1;  // padding, and its label with it
      labels[sequence - 2] = -1;
    });
    moe_facts facts;
    facts.tokens.percent = 50;
    facts.balance = {.micro_batch = 0.01, .z = 0.01};
    one_rank trainer(self_comm(), small, sequence, {}, options_of(), data, {}, facts);
    const step_result step = trainer.step();
    CHECK(step.tokens == 8 * (sequence - 3));
    CHECK(trainer.pairs() == 8 * (sequence - 1) * small.top_k);
    for (extent_t l = 0; l < small.layers; ++l) {
      const auto row = trainer.load().rows(l, 1);
      CHECK(std::accumulate(row.begin(), row.end(), std::int64_t{0}) == trainer.pairs());
    }
    double balance = 0, dropped = 0;  // a mean and a share of the tokens that are not padding, ignored or not
    for (extent_t l = 0; l < small.layers; ++l) {
      for (const double loss : trainer.balance(l)) balance += loss;
      dropped += trainer.dropped(l) / double(trainer.pairs() * small.layers);
    }
    CHECK(dropped > 0.1);
    CHECK(step.dropped == doctest::Approx(dropped).epsilon(1e-12));
    CHECK(step.balance == doctest::Approx(balance).epsilon(1e-12));
    REQUIRE(trainer.evaluate());
    for (extent_t l = 0; l < small.layers; ++l) {  // of the last step, whatever was evaluated since
      for (const double loss : trainer.balance(l)) balance -= loss;
      dropped -= trainer.dropped(l) / double(trainer.pairs() * small.layers);
    }
    CHECK(std::abs(balance) < 1e-12);
    CHECK(std::abs(dropped) < 1e-12);
  }
  TEST_CASE("compute leaves the parameters alone; apply moves them; a step without tokens moves nothing") {
    const dataset data = data_of();
    one_rank trainer(self_comm(), small, sequence, {}, options_of(), data);
    const auto weights = [&] {
      std::vector<float> all;
      for (const auto& flat : trainer.parameters().flats()) all.insert(all.end(), flat.values.begin(), flat.values.end());
      return all;
    };
    const auto before = weights();
    step_result now = trainer.compute();
    CHECK(weights() == before);
    now.tokens = 0;
    trainer.apply(now);
    CHECK(weights() == before);
    trainer.apply(trainer.compute());
    CHECK(weights() != before);
  }
  TEST_CASE("clipping scales by the global norm: with a tiny limit the gradient that AdamW sees is tiny, and the reported norm is not") {
    const dataset data = data_of();
    trainer_options clipped = options_of();
    clipped.max_norm = 1e-12;  // so small that eps dominates AdamW's root
    one_rank trainer(self_comm(), small, sequence, {}, clipped, data), free(self_comm(), small, sequence, {}, options_of(), data);
    const step_result a = trainer.step(), b = free.step();
    CHECK(a.grad_norm == b.grad_norm);
    double moved = 0, moved_free = 0;
    parameter_store<fp32> start(small, {}, 0);
    start.initialise(options_of().seed);
    for (std::size_t f = 0; f < start.flats().size(); ++f)
      for (std::size_t i = 0; i < start.flats()[f].values.size(); ++i) {
        const float from = start.flats()[f].values[i] * float(1 - b.learning_rate * 0.1);
        moved = std::max(moved, double(std::abs(trainer.parameters().flats()[f].values[i] - from)));
        moved_free = std::max(moved_free, double(std::abs(free.parameters().flats()[f].values[i] - from)));
      }
    CHECK(moved_free > 1e-3);
    CHECK(moved < 0.2 * moved_free);
  }
  TEST_CASE("the load counts every choice of every layer, and is the same on every rank of a folding") {
    const dataset data = data_of();
    one_rank alone(self_comm(), small, sequence, {}, options_of(), data);
    alone.step();
    std::vector<std::int64_t> one(alone.load().begin(), alone.load().end());
    for (extent_t layer = 0; layer < small.layers; ++layer)
      CHECK(std::accumulate(one.begin() + layer * small.experts, one.begin() + (layer + 1) * small.experts, std::int64_t{0}) ==
            8 * sequence * small.top_k);
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}});
    run_threads(8, [&](thread_comm& world) {
      threads trainer(std::move(world), small, sequence, fold, options_of(), data);
      trainer.step();
      CHECK(std::equal(one.begin(), one.end(), trainer.load().begin(), trainer.load().end()));
    });
  }
  TEST_CASE("F11: all tokens to as few experts as a token may choose: one rank's numbers, exact drops, and memory as the inventory says") {
    const dataset data = data_of(4000);
    using enum axis_id;
    int cases = 0;
    std::atomic<int> passed{0};
    for (const extent_t k : {1, 2})
      for (const moefold::token_rule& rule : {moefold::token_rule{}, capacity<100, full_sequence>::rule, capacity<100>::rule}) {
        model_shape model = small;
        model.layers = 2, model.experts = 8, model.top_k = k, model.score = score_function::sigmoid, model.expert_bias = true;
        moe_facts facts;
        facts.tokens = rule;
        facts.balance.bias_step = 0;
        const auto pile_up = [&](auto& trainer) {  // experts 0 and, for the second choice, 1
          for (extent_t l = 0; l < model.layers; ++l)
            for (extent_t expert = 0; expert < k; ++expert) trainer.routers().bias()(l, expert) = float(10 + k - expert);
        };
        std::vector<step_result> right;
        one_rank alone(self_comm(), model, sequence, {}, options_of(), data, {}, facts);
        pile_up(alone);
        for (int i = 0; i < 3; ++i) right.push_back(alone.step());
        for (const folding_extents& fold :
             {make_folding({{dp, 2}}, {{edp, 2}}), make_folding({{tp, 2}}, {{ep, 2}}), make_folding({{tp, 2}, {cp, 2}}, {{ep, 4}}),
              make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{ep, 8}})}) {
          ++cases;
          CAPTURE(k);
          CAPTURE(rule.percent);
          CAPTURE(rule.full_sequence);
          CAPTURE(fold.moe.text());
          std::atomic<int> fine{0};
          run_threads(int(fold.world()), [&](thread_comm& world) {
            const extent_t rank = world.rank();
            threads trainer(std::move(world), model, sequence, fold, options_of(), data, {}, facts);
            pile_up(trainer);
            const activation_shape a = trainer.activations();
            // Of `set` tokens that are dropped together an expert keeps as many as its even share of their pairs, rounded up.
            const extent_t set = rule.full_sequence ? sequence : a.rows(), sets = 8 * sequence / set;
            const extent_t kept = rule.drops() ? (set * k + model.experts - 1) / model.experts : set;
            bool good = true;
            for (const step_result& one : right) {
              const step_result now = trainer.step();
              if (!rule.drops() || rule.full_sequence)
                good = good && std::abs(now.loss / one.loss - 1) < 1e-5 && std::abs(now.grad_norm / one.grad_norm - 1) < 1e-5;
              for (extent_t l = 0; l < model.layers; ++l) {
                good = good && trainer.dropped(l) == double(sets * k * (set - kept));
                for (extent_t expert = 0; expert < model.experts; ++expert)
                  good = good && trainer.load()(l, expert) == (expert < k ? 8 * sequence : 0);
              }
            }
            CHECK(good);
            // Experts 0 .. k - 1 lie on the first ep ranks; there everything arrives. Under sub-sequence dropping every rank sends its share.
            const extent_t first = coordinate_of(fold.moe, rank)[ep] * a.own_experts();
            const extent_t here = std::clamp<extent_t>(k - first, 0, a.own_experts());
            const extent_t arriving =
                here * (rule.full_sequence && rule.drops() ? kept * fold.moe.of(ep) * a.rows() / sequence : kept * a.sources());
            const bool as_foretold = extent_t(trainer.kept_peak()) == kept_by_micro_batch<threads::precision>(a, 0, arriving);
            CAPTURE(rank);
            CAPTURE(trainer.kept_peak());
            CAPTURE(kept_by_micro_batch<threads::precision>(a, 0, arriving));
            CHECK(as_foretold);
            fine += good && as_foretold;
          });
          passed += fine == int(fold.world());
        }
      }
    CHECK(passed == cases);
    MESSAGE("F11: ", passed.load(), " of ", cases, " cases: k 1 and 2, EP 1 to 8, dropless and capacities of 1");
  }
  TEST_CASE("evaluation gives one number in every mapping, and changes neither weights, nor step, nor recorded traffic") {
    const dataset data = data_of();
    one_rank alone(self_comm(), small, sequence, {}, options_of(), data), undisturbed(self_comm(), small, sequence, {}, options_of(), data);
    const std::optional<double> held_out = alone.evaluate();
    REQUIRE(held_out);
    CHECK(alone.evaluate() == held_out);
    CHECK(*held_out == doctest::Approx(std::log(64.0)).epsilon(0.05));
    for (int i = 0; i < 3; ++i) CHECK(alone.step().loss == undisturbed.step().loss);
    CHECK(*alone.evaluate() < *held_out);
    using enum axis_id;
    for (const folding_extents& fold :
         {make_folding({{tp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}}), make_folding({{cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}})})
      run_threads(4, [&](thread_comm& world) {
        threads trainer(std::move(world), small, sequence, fold, options_of(), data);
        const traffic_log before = trainer.traffic();
        CHECK(*trainer.evaluate() == doctest::Approx(*held_out).epsilon(1e-5));
        CHECK(trainer.traffic() == before);
      });
  }
  TEST_CASE("without a whole held-out batch there is nothing to evaluate") {
    const dataset data = data_of(2000, 0.0);
    one_rank trainer(self_comm(), small, sequence, {}, options_of(), data);
    CHECK_FALSE(trainer.evaluate());
  }
  TEST_CASE("who asks one rank to stop stops all ranks after the same step") {
    const dataset data = data_of();
    using enum axis_id;
    const folding_extents fold = make_folding({{dp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}});
    std::atomic<int> stop{0};
    std::mutex guard;
    std::vector<std::int64_t> last;
    run_threads(4, [&](thread_comm& world) {
      trainer_options options = options_of();
      const int rank = world.rank();
      if (rank == 2) options.stop = &stop;  // only one rank hears it
      threads trainer(std::move(world), small, sequence, fold, options, data);
      step_result now;
      while (!now.stop && now.step < 10) {
        if (rank == 2 && now.step == 3) stop = 15;
        now = trainer.step();
      }
      std::scoped_lock lock(guard);
      last.push_back(now.step);
      CHECK(now.stop == 15);
    });
    CHECK(last == std::vector<std::int64_t>(4, 4));
  }
  TEST_CASE("options that cannot work are refused: steps, rates and batches that are no sensible numbers") {
    const dataset data = data_of();
    const auto refused = [&](auto change) {
      trainer_options o = options_of();
      change(o);
      return reason([&] { one_rank(self_comm(), small, sequence, {}, o, data); });
    };
    CHECK(refused([](trainer_options&) {}) == "");
    CHECK(refused([](trainer_options& o) { o.steps = 0; }) == "moefold: a run has at least 1 step (given 0)");
    for (const double rate : {-1e-3, std::nan(""), std::numeric_limits<double>::infinity()})
      CHECK(refused([=](trainer_options& o) { o.learning_rate = rate; }).find("the learning rate is a finite number") != std::string::npos);
    CHECK(refused([](trainer_options& o) { o.learning_rate = 0; }) == "");
    CHECK(refused([](trainer_options& o) { o.max_norm = std::nan(""); }).find("max_norm") != std::string::npos);
    CHECK(refused([](trainer_options& o) { o.micro_batch = 0; }).find("the micro-batch is at least 1") != std::string::npos);
    CHECK(refused([](trainer_options& o) { o.micro_batch = extent_t{1} << 62; }).find("the micro-batch is at most") != std::string::npos);
    CHECK(refused([](trainer_options& o) { o.global_batch = extent_t{1} << 50; }).find("the global batch is at most") != std::string::npos);
  }
  TEST_CASE("a step whose loss or norm is not finite throws on every rank and changes nothing") {
    const dataset data = data_of();
    std::atomic<int> unchanged{0};
    const auto run = [&] {
      run_threads(4, [&](thread_comm& world) {
        threads trainer(std::move(world), small, sequence, make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 4}}),
                        options_of(), data);
        trainer.step();
        for (auto& entry : trainer.parameters().entries())
          if (entry.fact.kind == parameter_kind::down) entry.value[0] = std::numeric_limits<float>::quiet_NaN();
        const step_result broken = trainer.compute();
        const float before = trainer.parameters().entries().front().value[3];
        try {
          trainer.apply(broken);
        } catch (const error& e) {
          if (trainer.parameters().entries().front().value[3] == before) ++unchanged;
          throw;
        }
      });
    };
    CHECK_THROWS_WITH_AS(run(), doctest::Contains("its gradient of embedding (element 0 of its part)"), error);
    CHECK(unchanged == 4);
  }
  TEST_CASE("held-out loss is a mean over tokens whatever the chunks of a stage") {
    const dataset data = data_of();
    const auto held_out = [&](const schedule_value& schedule, int stages) {
      std::optional<double> loss;
      model_shape deep = small;
      deep.layers = 4;
      run_threads(stages, [&](thread_comm& world) {
        const int rank = world.rank();
        trainer_options options = options_of();
        options.schedule = &schedule;
        threads trainer(std::move(world), deep, sequence,
                        stages == 1 ? folding_extents{} : make_folding({{axis_id::pp, stages}}, {{axis_id::pp, stages}}), options, data);
        const auto own = trainer.evaluate();
        if (rank == 0) loss = own;
      });
      REQUIRE(loss);
      return *loss;
    };
    const double one = held_out(value_of_schedule<one_f_one_b>, 1);
    CHECK(one == doctest::Approx(std::log(64.0)).epsilon(0.05));
    for (const int stages : {1, 2})
      for (const schedule_value& schedule : {value_of_schedule<interleaved<2>>, value_of_schedule<zero_bubble>})
        CHECK(held_out(schedule, stages) == doctest::Approx(one).epsilon(1e-6));
  }
  TEST_CASE("a schedule that cannot run, or does not train, is refused before the first step") {
    const dataset data = data_of();
    const auto refused = [&](const schedule_value& schedule) {
      trainer_options options = options_of();
      options.schedule = &schedule;
      return reason([&] { one_rank trainer(self_comm(), small, sequence, {}, options, data); });
    };
    CHECK(refused(value_of_schedule<forgetful>).find("micro-batch 7 has no backward") != std::string::npos);
    CHECK(refused(value_of_schedule<forward_only>) == "moefold: a trainer needs a schedule that trains; forward_only has no backward");
  }
  TEST_CASE("what cannot work is refused before anything is allocated, in one sentence") {
    const dataset data = data_of();
    const auto refused = [&](const model_shape& model, const trainer_options& options, const folding_extents& fold = {}) {
      return reason([&] { one_rank trainer(self_comm(), model, sequence, fold, options, data); });
    };
    trainer_options odd = options_of();
    odd.global_batch = 9, odd.micro_batch = 2;
    CHECK(refused(small, odd) ==
          "moefold: the global batch must be a positive multiple of DP * micro-batch; change --global-batch or --micro-batch "
          "(given global_batch = 9, dp_times_micro_batch = 2)");
    odd.micro_batch = 0;
    CHECK(refused(small, odd) == "moefold: the micro-batch is at least 1 sequence (given 0)");
    trainer_options large = options_of();
    large.global_batch = 1000;
    CHECK(refused(small, large).find("a batch of 1000 sequences of 16 needs") != std::string::npos);
    model_shape model = small;
    model.top_k = 5;
    CHECK(refused(model, options_of()) == "moefold: top_k must lie between 1 and experts (given top_k = 5, experts = 4)");
    CHECK(refused(small, options_of(), make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}})) ==
          "moefold: the folding needs 2 ranks and the world has 1");
  }
  TEST_CASE("a token outside the vocabulary is refused with its number, the vocabulary and what to do") {
    model_shape model = small;
    model.vocabulary = 60;  // the text has tokens up to 60
    const dataset data = data_of();
    CHECK(reason([&] { one_rank trainer(self_comm(), model, sequence, {}, options_of(), data); }) ==
          "moefold: the data have token 60 and the model a vocabulary of 60; give the model a vocabulary of at least 61 (256 holds every "
          "byte), or "
          "other data");
  }
  TEST_CASE("a run as a struct: its types and numbers make the trainer") {
    const dataset data = data_of();
    run_threads(4, [&](thread_comm& world) {
      trainer<run, thread_comm> mine(std::move(world), options_of(), data);
      CHECK(mine.fold() == make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 2}, {axis_id::edp, 2}}));
      CHECK(std::is_same_v<decltype(mine.parameters().flats()[0].values[0]), double&>);
      CHECK(std::isfinite(mine.step().loss));
    });
    const std::string why =
        reason([&] { run_threads(3, [&](thread_comm& world) { trainer<run, thread_comm> mine(std::move(world), options_of(), data); }); });
    CHECK(why.find("start a multiple of that product") != std::string::npos);
  }
  TEST_CASE("after the first step a step allocates nothing, neither with new nor from host memory, on thread ranks") {
    const dataset data = data_of(4000);
    using enum axis_id;
    for (const folding_extents& fold : {make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}),  // one folding
                                        make_folding({{tp, 2}, {dp, 2}, {pp, 2}}, {{etp, 2}, {edp, 2}, {pp, 2}}),
                                        make_folding({{cp, 2}, {dp, 4}}, {{etp, 2}, {ep, 4}})}) {
      CAPTURE(fold.attention.text());
      CAPTURE(fold.moe.text());
      std::atomic<std::size_t> with_new{0}, host{0};
      run_threads(int(fold.world()), [&](thread_comm& world) {
        threads trainer(std::move(world), small, sequence, fold, options_of(), data);
        trainer.step();
        trainer.world().barrier(trainer.exec()).wait(trainer.exec());
        const std::size_t new_before = test::allocations_of_this_thread(), host_before = host_memory::allocations();
        for (int i = 0; i < 8; ++i) trainer.step();
        with_new += test::allocations_of_this_thread() - new_before;
        trainer.world().barrier(trainer.exec()).wait(trainer.exec());
        host += host_memory::allocations() - host_before;
      });
      CHECK(with_new == 0);
      CHECK(host == 0);
    }
  }
  TEST_CASE("in fp8 with delayed scaling a step allocates nothing either") {
    const dataset data = data_of(4000);
    struct in_fp8 : run_defaults {
      using precision = fp8<delayed_scaling<2>>;
    };
    basic_trainer<policies_of<in_fp8>, self_comm> trainer(self_comm(), small, sequence, {}, options_of(), data);
    trainer.step();
    const std::size_t new_before = test::allocations_of_this_thread(), host_before = host_memory::allocations();
    for (int i = 0; i < 4; ++i) trainer.step();
    CHECK(test::allocations_of_this_thread() == new_before);
    CHECK(host_memory::allocations() == host_before);
  }
  TEST_CASE("the counter of allocations counts: plain, array, aligned and nothrow") {
    const std::size_t before = test::allocations_of_this_thread();
    ::operator delete(::operator new(4));
    ::operator delete[](::operator new[](4));
    ::operator delete (::operator new (128, std::align_val_t{128}), std::align_val_t{128});
    host_memory::deallocate(host_memory::allocate(100));  // aligned and nothrow
    CHECK(test::allocations_of_this_thread() == before + 4);
  }
  TEST_CASE("F14: an allocation that fails, or a budget a byte too small, ends all ranks with one root cause that names who and what for") {
    using enum axis_id;
    f14_all(make_folding({{tp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}}));
    f14_all(make_folding({{cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}}));
  }
}
