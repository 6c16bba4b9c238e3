#include <moefold/moe/balance.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/ops/route.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t experts = 4, k = 2;
constexpr score_function functions[] = {score_function::softmax_after, score_function::softmax_before, score_function::sigmoid};

/// One rank's micro-batch: logits, what was chosen, and room for the results.
struct micro_batch {
  tensor<double> logits;
  tensor<std::int64_t> counts;  // [B, E + 1]
  tensor<double> pull;          // [B, E]
  route_rule rule{};
  std::vector<std::uint8_t> padding;
  routing_context where{};

  micro_batch(extent_t n, extent_t batch, std::uint64_t seed = 1)
      : logits(random_tensor<double>({n, experts}, seed)), counts({batch, experts + 1}, 0), pull({batch, experts}, 99.0) {}

  /// Token t chooses experts first(t) and the next one.
  template <class First>
  void choose(First first) {
    std::fill(counts.begin(), counts.end(), 0);
    for (extent_t t = 0; t < logits.extent(0); ++t) {
      if (!padding.empty() && padding[std::size_t(t)]) continue;
      for (extent_t j = 0; j < k; ++j) ++counts.view()(t % counts.extent(0), (first(t) + j) % experts);
      ++counts.view()(t % counts.extent(0), experts);
    }
  }
  /// Collective where the losses are. The counts stay as they are.
  template <class Comm>
  balance_values terms(const balance_losses& balance, const moe_groups<Comm>& groups, const router_state<double>& state = {}) {
    host_context context;
    where.padding = padding;
    const host_exec e(context);
    auto sums = test::copy_of(counts.view());
    tensor<double> scores(pull.shape()), squares({1}), losses({extent_t(balance_kinds)}, 99.0);
    squares[0] = aux_sums<double>(e, rule, logits, padding, scores);
    balance_terms<double>(e, balance, rule.top_k, sums, scores, squares, where, state, groups, pull, losses);
    balance_values values{};
    std::copy(losses.begin(), losses.end(), values.begin());
    return values;
  }
  tensor<double> scores() {
    host_context context;
    tensor<double> sums(pull.shape());
    aux_sums<double>(host_exec(context), rule, logits, padding, sums);
    return sums;
  }
};

/// A group of one rank for everything.
struct alone {
  self_comm self;
  moe_groups<self_comm> groups() { return {.sequence = &self, .batch = &self}; }
};

}  // namespace

TEST_SUITE("moe/balance") {
  TEST_CASE("perfect balance gives every load loss exactly its coefficient, whatever the scores") {
    for (const score_function score : functions)
      for (const extent_t batch : {1, 2}) {
        micro_batch m(16, batch);
        m.rule.score = score;
        m.choose([=](extent_t t) { return t / batch; });  // each sequence by itself is even too
        tensor<std::int64_t> running({1, experts});
        router_state<double> state;
        state.running = running;
        alone one;
        const balance_values sums = m.terms({.micro_batch = 0.5, .sequence = 0.25, .global = 2, .global_running = 3}, one.groups(), state);
        const balance_values expected{0.5, 0.25, 2, 3, 0};
        for (std::size_t i = 0; i < balance_kinds; ++i) CHECK(sums[i] / 16 == doctest::Approx(expected[i]).epsilon(1e-13));
      }
  }
  TEST_CASE("everything on k experts, with all the scores, gives E / k times the coefficient") {
    micro_batch m(6, 1);
    for (extent_t t = 0; t < 6; ++t)
      for (extent_t x = 0; x < experts; ++x) m.logits.view()(t, x) = x < k ? 50 : -50;
    m.choose([](extent_t) { return 0; });
    alone one;
    const balance_values sums = m.terms({.micro_batch = 0.5}, one.groups());
    CHECK(sums[0] / 6 == doctest::Approx(0.5 * experts / k).epsilon(1e-13));
  }
  TEST_CASE("the losses are their formulas, padding left out; the z-loss is a sum of squares") {
    micro_batch m(9, 2);  // sequences of 5 and 4 tokens, one of them padding
    m.padding = {0, 0, 0, 1, 0, 0, 0, 0, 0};
    m.choose([](extent_t t) { return t * t; });
    const tensor<double> previous = random_tensor<double>({experts}, 5);
    tensor<std::int64_t> running({2, experts}, 7);
    router_state<double> state;
    state.previous = previous;
    state.running = running;
    m.where.micro_batch = 1;
    alone one;
    const balance_values sums =
        m.terms({.micro_batch = 0.5, .sequence = 0.25, .global = 2, .global_running = 3, .z = 0.125}, one.groups(), state);
    const auto p = m.scores();
    balance_values expected{};
    const double tokens[] = {5, 3};
    for (extent_t b = 0; b < 2; ++b)
      for (extent_t x = 0; x < experts; ++x) {
        const double here = double(m.counts.view()(b, x)), both = double(m.counts.view()(0, x) + m.counts.view()(1, x));
        const double score = p.view()(b, x);
        expected[0] += 0.5 * experts / k * both / 8 * score;
        expected[1] += 0.25 * experts / k * here / tokens[b] * score;
        expected[2] += 2.0 * experts / k * previous[std::size_t(x)] * score;
        expected[3] += 3.0 * experts / k * (k * (7 + both) / (8 * k + 7 * experts)) * score;
      }
    for (extent_t t = 0; t < 9; ++t) {
      double sum = 0;
      for (extent_t x = 0; x < experts; ++x) sum += std::exp(m.logits.view()(t, x));
      if (t != 3) expected[4] += 0.125 * std::log(sum) * std::log(sum);
    }
    CHECK(test::largest_error(sums, expected) < 1e-14);
  }
  TEST_CASE("the pull is the slope of all load losses by the scores, times the loss weight") {
    micro_batch m(9, 2);
    m.choose([](extent_t t) { return t * t; });
    tensor<std::int64_t> running({1, experts});
    router_state<double> state;
    state.running = running;
    alone one;
    const balance_losses balance{.micro_batch = 0.5, .sequence = 0.25, .global = 2, .global_running = 3, .z = 1};
    m.where.loss_weight = 0.75;
    const balance_values sums = m.terms(balance, one.groups(), state);
    const auto scores = m.scores();
    double along = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) along += m.pull[i] * scores[i];
    CHECK(along == doctest::Approx(0.75 * (sums[0] + sums[1] + sums[2] + sums[3])).epsilon(1e-13));  // the losses are linear in the scores
    const tensor<double> heavy = test::copy_of(m.pull.view());
    m.where.loss_weight = 1.5;
    CHECK(m.terms(balance, one.groups(), state) == sums);
    for (std::size_t i = 0; i < heavy.size(); ++i) CHECK(m.pull[i] == doctest::Approx(2 * heavy[i]).epsilon(1e-13));
  }
  TEST_CASE("over ranks, sets are counted together and the ranks' shares add up to the loss of all tokens") {
    const balance_losses balance{.micro_batch = 0.5, .sequence = 0.25, .global_running = 3, .z = 0.125};
    micro_batch all(12, 2);
    all.choose([](extent_t t) { return t * t / 3; });  // no two ranks alike: the sets' shares are not a rank's own
    tensor<std::int64_t> running({1, experts});
    router_state<double> state;
    state.running = running;
    alone one;
    const balance_values whole = all.terms(balance, one.groups(), state);
    std::mutex guard;
    balance_values sum{};
    run_ranks<3>([&](thread_comm& world) {
      micro_batch part(4, 2);
      std::copy_n(&all.logits.view()(4 * world.rank(), 0), 4 * experts, part.logits.begin());
      part.choose([&](extent_t t) { return (t + 4 * world.rank()) * (t + 4 * world.rank()) / 3; });
      tensor<std::int64_t> own_running({1, experts});
      router_state<double> own;
      own.running = own_running;
      const balance_values share = part.terms(balance, moe_groups<thread_comm>{.sequence = &world, .batch = &world}, own);
      CHECK(test::largest_error(part.pull, all.pull) < 1e-14);
      CHECK(std::equal(running.begin(), running.end(), own_running.begin()));
      std::scoped_lock lock(guard);
      for (std::size_t i = 0; i < balance_kinds; ++i) sum[i] += share[i];
    });
    CHECK(test::largest_error(sum, whole) < 1e-14);
  }
  TEST_CASE("running counts: every micro-batch adds to the one before, and computing one twice changes nothing") {
    tensor<std::int64_t> running({3, experts}, 55);  // what a step before has left
    router_state<double> state;
    state.running = running;
    alone one;
    micro_batch m(5, 1);
    std::vector<std::int64_t> expected(experts, 0);
    for (extent_t number = 0; number < 3; ++number) {
      m.choose([=](extent_t t) { return t + number; });
      m.where.micro_batch = number;
      for (std::size_t x = 0; x < std::size_t(experts); ++x) expected[x] += m.counts[x];
      const balance_values first = m.terms({.global_running = 1}, one.groups(), state);
      const auto pull = test::copy_of(m.pull.view());
      const balance_values again = m.terms({.global_running = 1}, one.groups(), state);
      CHECK(first == again);
      CHECK(test::largest_error(m.pull, pull) == 0);
      const auto row = running.view().rows(number, 1);
      CHECK(std::equal(row.begin(), row.end(), expected.begin(), expected.end()));
    }
  }
  TEST_CASE("nothing but padding: no loss, and a pull that is finite") {
    for (const score_function score : functions) {
      micro_batch m(4, 2);
      m.rule.score = score;
      m.padding = {1, 1, 1, 1};
      m.choose([](extent_t t) { return t; });
      tensor<std::int64_t> running({1, experts});
      router_state<double> state;
      state.running = running;
      alone one;
      CHECK(m.terms({.micro_batch = 1, .sequence = 1, .global = 1, .global_running = 1, .z = 1}, one.groups(), state) == balance_values{});
      CHECK(std::all_of(m.pull.begin(), m.pull.end(), [](double p) { return std::isfinite(p); }));
    }
    micro_batch none(0, 1);
    alone one;
    CHECK(none.terms({.micro_batch = 1, .sequence = 1, .global = 1, .z = 1}, one.groups()) == balance_values{});
  }
  TEST_CASE("a loss that is off asks for no group, one that is on names the group it needs") {
    micro_batch m(4, 1);
    const moe_groups<self_comm> none;
    CHECK_NOTHROW(m.terms({.global = 1, .z = 1}, none));
    const char* sets =
        "moefold: a balance loss over a micro-batch or a sequence works over the ranks of tp x cp; pass that communicator as "
        "moe_groups::sequence";
    CHECK_THROWS_WITH_AS(m.terms({.micro_batch = 1}, none), sets, config_error);
    CHECK_THROWS_WITH_AS(m.terms({.sequence = 1}, none), sets, config_error);
    CHECK_THROWS_WITH_AS(
        m.terms({.global_running = 1}, none),
        "moefold: the running balance loss works over the ranks of tp x cp x dp; pass that communicator as moe_groups::batch",
        config_error);
  }
  TEST_CASE("a micro-batch without a row of running counts is refused") {
    micro_batch m(4, 1);
    tensor<std::int64_t> running({2, experts});
    router_state<double> state;
    state.running = running;
    m.where.micro_batch = 2;
    alone one;
    CHECK_THROWS_WITH_AS(m.terms({.global_running = 1}, one.groups(), state),
                         "moefold: the running balance loss keeps counts of 2 micro-batches, given number 2; give router_state::running a "
                         "row for each micro-batch of a step",
                         error);
  }

  TEST_CASE_TEMPLATE("the bias moves by exactly u against the load, or not at all, however large the gap", A, float, double) {
    const std::vector<std::int64_t> counts = {0, 25, 24, 26, 50, 25};  // the even share is 25
    std::vector<A> bias(6, A(0));
    router_states<A>::move_bias(std::span(counts), std::span(bias), 1e-3);
    const A u = A(1e-3);
    CHECK(bias == std::vector<A>{u, 0, u, -u, -u, 0});
    const std::vector<std::int64_t> uneven = {1, 1, 2};  // 4 choices of 3 experts: nobody has exactly the even share
    std::vector<A> moved(3, A(0));
    router_states<A>::move_bias(std::span(uneven), std::span(moved), 0.5);
    CHECK(moved == std::vector<A>{A(0.5), A(0.5), A(-0.5)});
    const std::vector<std::int64_t> huge = {(std::int64_t(1) << 53) + 1, std::int64_t(1) << 53, std::int64_t(1) << 53};
    std::vector<A> exact(3, A(0));
    router_states<A>::move_bias(std::span(huge), std::span(exact), 1);  // in integers: a double would see no difference
    CHECK(exact == std::vector<A>{-1, 1, 1});
  }
  TEST_CASE("a step updates every layer: the bias by what was chosen, the shares by what the scores alone would choose") {
    const model_shape model{.layers = 2, .experts = 4, .top_k = 2, .score = score_function::sigmoid, .expert_bias = true};
    router_states<double> states(model, {.global = 0.1, .bias_step = 0.25}, 1);
    for (const double share : states.previous()) CHECK(share == 0.5);  // k / E before the first step
    tensor<std::int64_t> load({2, 4}), aux({2, 4});
    const std::int64_t loads[] = {5, 1, 1, 1, 2, 2, 2, 2}, auxes[] = {0, 8, 4, 4, 3, 1, 2, 2};
    std::copy(std::begin(loads), std::end(loads), load.begin());
    std::copy(std::begin(auxes), std::end(auxes), aux.begin());
    states.update(load, aux);
    states.update(load, aux);
    CHECK(test::largest_error(states.bias(), std::vector<double>{-0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0}) == 0);
    CHECK(test::largest_error(states.previous(), std::vector<double>{0, 1, 0.5, 0.5, 0.75, 0.25, 0.5, 0.5}) == 0);
    CHECK(&states.of(1).bias(0) == &states.bias()(1, 0));
    CHECK(&states.of(1).previous(3) == &states.previous()(1, 3));
  }
  TEST_CASE("a step without choices changes nothing") {
    const model_shape model{.layers = 1, .experts = 4, .top_k = 2, .score = score_function::sigmoid, .expert_bias = true};
    router_states<double> states(model, {.global = 0.1}, 1);
    states.previous()(0, 2) = 0.875;
    states.bias()(0, 1) = -0.5;
    const tensor<std::int64_t> nothing({1, 4}, 0);
    states.update(nothing, nothing);
    CHECK(test::largest_error(states.bias(), std::vector<double>{0, -0.5, 0, 0}) == 0);
    CHECK(test::largest_error(states.previous(), std::vector<double>{0.5, 0.5, 0.875, 0.5}) == 0);
  }
  TEST_CASE("a router remembers only what its model and losses ask for") {
    const model_shape plain{.layers = 3};
    router_states<float> none(plain, {.micro_batch = 1, .sequence = 1, .z = 1}, 4);
    CHECK((none.of(2).bias.empty() && none.of(2).previous.empty() && none.of(2).running.empty()));
    router_states<float> running(plain, {.global_running = 1}, 4);
    CHECK(running.of(2).running.shape() == shape{4, 8});
    CHECK((running.of(2).bias.empty() && running.of(2).previous.empty()));
    CHECK(running.of(0).running.data() + 32 == running.of(1).running.data());
    const tensor<std::int64_t> counts({3, 8}, 1);
    none.update(counts, counts);
    running.update(counts, counts);
  }
}
