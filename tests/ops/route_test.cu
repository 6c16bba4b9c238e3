#include <moefold/ops/route.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::limit;
using test::poisoned;
using test::random_tensor;
using test::same;
using test::to_device;
using test::to_host;

namespace {

route_rule rule_of(score_function score, extent_t k, extent_t groups = 1, extent_t chosen_groups = 1, double scale = 1) {
  route_rule rule;
  rule.score = score, rule.top_k = k, rule.groups = groups, rule.chosen_groups = chosen_groups, rule.scale = scale;
  return rule;
}

tensor<std::uint8_t> some_padding(extent_t n) {
  tensor<std::uint8_t> padding({n});
  for (extent_t t = 0; t < n; ++t) padding[std::size_t(t)] = t % 5 == 3;
  return padding;
}

struct wanted {
  bool bias = false, padding = false, aux = false, sums = false, scores = false;
  extent_t batch = 1;
};

template <class A>
void forwards_agree(both_execs& on, const route_rule& rule, extent_t n, extent_t experts, const wanted& want) {
  CAPTURE(int(rule.score));
  CAPTURE(n);
  CAPTURE(experts);
  CAPTURE(rule.top_k);
  CAPTURE(rule.groups);
  CAPTURE(want.batch);
  const auto logits = random_tensor<A>({n, experts}, 1, 2.0), bias = random_tensor<A>({want.bias ? experts : 0}, 2, 0.2);
  const auto padding = some_padding(want.padding ? n : 0);
  const auto logits_d = to_device(logits), bias_d = to_device(bias);
  const auto padding_d = to_device(padding);
  const extent_t k = rule.top_k, sums = want.sums ? want.batch : 0;
  tensor<std::int32_t> expert({n, k});
  tensor<A> weight({n, k}), scores({want.scores ? n : 0, experts});
  tensor<std::int64_t> counts({want.batch, experts + 1}), aux({want.aux ? experts : 0});
  tensor<double> score_sum({sums, experts}), squares({want.sums ? 1 : 0});
  auto expert_d = poisoned<std::int32_t>({n, k});
  auto weight_d = poisoned<A>({n, k}), scores_d = poisoned<A>(scores.shape());
  auto counts_d = poisoned<std::int64_t>(counts.shape()), aux_d = poisoned<std::int64_t>(aux.shape());
  auto score_sum_d = poisoned<double>(score_sum.shape()), squares_d = poisoned<double>(squares.shape());

  const auto empty_or = [](auto x) { return x.empty() ? decltype(x){} : x; };
  route_forward<A>(on.host, rule, {logits.view(), empty_or(bias.view()), empty_or(padding.view()), want.batch},
                   {expert.view(), weight.view(), counts.view(), empty_or(aux.view()), empty_or(score_sum.view()), empty_or(squares.view()),
                    empty_or(scores.view())});
  route_forward<A>(on.device, rule, {logits_d.view(), empty_or(bias_d.view()), empty_or(padding_d.view()), want.batch},
                   {expert_d.view(), weight_d.view(), counts_d.view(), empty_or(aux_d.view()), empty_or(score_sum_d.view()),
                    empty_or(squares_d.view()), empty_or(scores_d.view())});
  CHECK(same(to_host(on.device, expert_d), expert));
  CHECK(test::norm_error(to_host(on.device, weight_d), weight) <= limit<A>);
  CHECK(same(to_host(on.device, counts_d), counts));
  CHECK(same(to_host(on.device, aux_d), aux));
  CHECK(test::norm_error(to_host(on.device, score_sum_d), score_sum) <= limit<A>);
  CHECK(test::norm_error(to_host(on.device, squares_d), squares) <= limit<A>);
  CHECK(test::norm_error(to_host(on.device, scores_d), scores) <= limit<A>);

  auto again = poisoned<A>({n, k});
  route_weights<A>(on.device, rule, logits_d.view(), expert_d.view(), again.view());
  CHECK(test::norm_error(to_host(on.device, again), weight) <= limit<A>);
  auto recount = poisoned<std::int64_t>(counts.shape());
  count_choices(on.device, expert_d.view(), empty_or(padding_d.view()), recount.view());
  CHECK(same(to_host(on.device, recount), counts));
}

constexpr score_function scores[] = {score_function::softmax_after, score_function::softmax_before, score_function::sigmoid};

}  // namespace

TEST_SUITE("ops/route") {
  TEST_CASE_TEMPLATE("choices, weights, counts and sums of the device are the host's, for every rule", A, float, double) {
    both_execs on;
    for (const score_function score : scores) {
      forwards_agree<A>(on, rule_of(score, 2), 37, 8, {});
      forwards_agree<A>(on, rule_of(score, 1), 1, 1, {.sums = true});
      forwards_agree<A>(on, rule_of(score, 3, 1, 1, 2.5), 41, 33, {.padding = true, .aux = true, .sums = true, .batch = 3});
      forwards_agree<A>(on, rule_of(score, 4, 6, 2), 29, 48,
                        {.bias = true, .padding = true, .aux = true, .sums = true, .scores = true, .batch = 2});
      forwards_agree<A>(on, rule_of(score, 8, 8, 8), 9, 64, {.bias = true, .scores = true});
      forwards_agree<A>(on, rule_of(score, 40), 3, 70, {.aux = true, .batch = 7});  // more choices than lanes, sequences without tokens
      forwards_agree<A>(on, rule_of(score, 2), 0, 5, {.aux = true, .sums = true, .batch = 2});
    }
  }
  TEST_CASE("a block goes on to further tokens, and few threads do where many experts fill the shared memory") {
    both_execs on;
    constexpr route_tuning few{.threads = 64, .blocks = 2, .small_threads = 32};
    const extent_t n = 23, experts = 6;
    const auto logits = random_tensor<float>({n, experts}, 1);
    const auto logits_d = to_device(logits);
    tensor<std::int32_t> expert({n, 2});
    tensor<float> weight({n, 2});
    tensor<std::int64_t> counts({1, experts + 1});
    tensor<double> sum({1, experts}), squares({1});
    auto expert_d = poisoned<std::int32_t>({n, 2});
    auto weight_d = poisoned<float>({n, 2});
    auto counts_d = poisoned<std::int64_t>({1, experts + 1});
    auto sum_d = poisoned<double>({1, experts}), squares_d = poisoned<double>({1});
    const route_rule rule = rule_of(score_function::softmax_after, 2);
    route_forward<float>(on.host, rule, {logits.view()}, {expert.view(), weight.view(), counts.view(), {}, sum.view(), squares.view()});
    route_forward<float, few>(on.device, rule, {logits_d.view()},
                              {expert_d.view(), weight_d.view(), counts_d.view(), {}, sum_d.view(), squares_d.view()});
    CHECK(same(to_host(on.device, expert_d), expert));
    CHECK(same(to_host(on.device, counts_d), counts));
    CHECK(test::norm_error(to_host(on.device, sum_d), sum) <= 1e-6);
    CHECK(test::norm_error(to_host(on.device, squares_d), squares) <= 1e-6);
    forwards_agree<double>(on, rule_of(score_function::sigmoid, 2, 4, 2), 3, 1200, {.bias = true, .aux = true, .sums = true});
  }
  TEST_CASE("equal scores go to the lowest expert, and NaN comes last") {
    both_execs on;
    tensor<float> logits({2, 40}, 1.0f);
    logits[0] = std::numeric_limits<float>::quiet_NaN(), logits[39] = 2.0f, logits[43] = -std::numeric_limits<float>::infinity();
    const auto logits_d = to_device(logits);
    auto expert = poisoned<std::int32_t>({2, 40});
    auto weight = poisoned<float>({2, 40});
    top_k(on.device, logits_d.view(), 40, expert.view(), weight.view());
    const auto got = to_host(on.device, expert);
    CHECK(got[0] == 39);
    CHECK(got[1] == 1);
    CHECK(got[2] == 2);
    CHECK(got[39] == 0);
    CHECK(got[40] == 0);
    CHECK(got[79] == 3);
  }
  TEST_CASE_TEMPLATE("gradients of the logits are the host's, for every rule", A, float, double) {
    both_execs on;
    for (const score_function score : scores)
      for (const extent_t k : {1, 3})
        for (const bool balanced : {false, true})
          for (const extent_t experts : {3, 70}) {
            CAPTURE(int(score));
            CAPTURE(k);
            CAPTURE(balanced);
            CAPTURE(experts);
            const route_rule rule = rule_of(score, k, 1, 1, 1.5);
            const extent_t n = 21, batch = 3;
            const auto logits = random_tensor<A>({n, experts}, 1), dweight = random_tensor<A>({n, k}, 2),
                       pull = random_tensor<A>({balanced ? batch : 0, experts}, 3);
            const auto padding = some_padding(n);
            tensor<std::int32_t> expert({n, k});
            tensor<A> weight({n, k}), dlogits({n, experts}), value({n, k});
            top_k(on.host, logits, k, expert.view(), value.view());
            route_weights(on.host, rule, logits, expert.view(), weight.view());
            const auto logits_d = to_device(logits), dweight_d = to_device(dweight), pull_d = to_device(pull), weight_d = to_device(weight);
            const auto padding_d = to_device(padding);
            const auto expert_d = to_device(expert);
            auto dlogits_d = poisoned<A>({n, experts});
            const double z = balanced ? 0.3 : 0.0;
            route_backward<A>(on.host, rule, dweight, logits, expert.view(), weight, padding.view().span(), pull, z, dlogits.view());
            route_backward<A>(on.device, rule, dweight_d.view(), logits_d.view(), expert_d.view(), weight_d.view(), padding_d.view().span(),
                              pull_d.view(), z, dlogits_d.view());
            CHECK(test::norm_error(to_host(on.device, dlogits_d), dlogits) <= limit<A>);
          }
  }
  TEST_CASE("a choice that is no expert is complained of when the host waits") {
    both_execs on;
    tensor<std::int32_t> expert({2, 1}, 0);
    expert[1] = 3;
    const auto wrong = to_device(expert);
    const auto logits = to_device(random_tensor<float>({2, 3}, 1)), dweight = to_device(random_tensor<float>({2, 1}, 2));
    auto weight = poisoned<float>({2, 1}), dlogits = poisoned<float>({2, 3});
    auto counts = poisoned<std::int64_t>({1, 4});
    const route_rule rule = rule_of(score_function::softmax_after, 1);
    const char* const said = "moefold: token 1 chose expert 3, of 3; experts are numbered from 0, -1 means dropped";
    route_weights<float>(on.device, rule, logits.view(), wrong.view(), weight.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), said, error);
    route_backward<float>(on.device, rule, dweight.view(), logits.view(), wrong.view(), weight.view(), {}, {}, 0, dlogits.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), said, error);
    count_choices(on.device, wrong.view(), {}, counts.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), said, error);
  }
}
