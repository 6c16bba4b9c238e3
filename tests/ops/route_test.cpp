#include <moefold/ops/route.hpp>

#include <moefold/core/rng.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;

namespace {

constexpr double out = -std::numeric_limits<double>::infinity();
constexpr score_function functions[] = {score_function::softmax_after, score_function::softmax_before, score_function::sigmoid};

route_rule rule_of(score_function score, extent_t k, double scale = 1) {
  route_rule rule;
  rule.score = score, rule.top_k = k, rule.scale = scale;
  return rule;
}
route_rule grouped(score_function score, extent_t k, extent_t groups, extent_t chosen) {
  route_rule rule = rule_of(score, k);
  rule.groups = groups, rule.chosen_groups = chosen;
  return rule;
}

using row = std::vector<double>;

row scores_of(const route_rule& rule, const row& logits, const row& bias = {}) {
  host_context context;
  tensor<double> score({1, extent_t(logits.size())}, 99.0);
  choosing_scores<double>(host_exec(context), rule, {logits.data(), score.shape()}, bias, score);
  return {score.begin(), score.end()};
}
row weights_of(const route_rule& rule, const row& logits, const std::vector<std::int32_t>& expert) {
  host_context context;
  tensor<double> weight({1, rule.top_k}, 99.0);
  route_weights<double>(host_exec(context), rule, {logits.data(), {1, extent_t(logits.size())}}, {expert.data(), weight.shape()}, weight);
  return {weight.begin(), weight.end()};
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Choices of n tokens: k different experts each, in no order.
tensor<std::int32_t> unsorted(extent_t n, extent_t k, extent_t experts) {
  tensor<std::int32_t> expert({n, k});
  for (extent_t t = 0; t < n; ++t)
    for (extent_t j = 0; j < k; ++j) expert.view()(t, j) = std::int32_t((2 + 3 * t + experts - 1 - j) % experts);
  return expert;
}

}  // namespace

TEST_SUITE("ops/route") {
  TEST_CASE("a rule is what the model says") {
    const route_rule rule(model_shape{
        .experts = 16, .top_k = 4, .score = score_function::sigmoid, .weight_scale = 2.5, .expert_groups = 4, .chosen_groups = 2});
    CHECK(rule.score == score_function::sigmoid);
    CHECK((rule.top_k == 4 && rule.groups == 4 && rule.chosen_groups == 2 && rule.scale == 2.5));
  }

  TEST_CASE("softmax scores choose by logits, sigmoid scores by sigmoid; the bias is added to what chooses") {
    const row logits = {-800, 0, 3, 800}, bias = {4, 0.25, -0.5, 0};
    for (const score_function score : {score_function::softmax_after, score_function::softmax_before})
      CHECK(scores_of(rule_of(score, 2), logits) == logits);
    const row s = scores_of(rule_of(score_function::sigmoid, 2), logits);
    CHECK(test::largest_error(s, row{0, 0.5, sigmoid(3), 1}) < 1e-15);
    const row biased = scores_of(rule_of(score_function::sigmoid, 2), logits, bias);
    CHECK(test::largest_error(biased, row{4, 0.75, sigmoid(3) - 0.5, 1}) < 1e-15);
  }
  TEST_CASE("a group is judged by the sum of its best k / g, equal groups go to the lowest, and the others are out") {
    const row logits = {5, 0, 3, 3, 4, 2};  // groups of two: best one 5 3 4, best two 5 6 6
    const auto softmax = score_function::softmax_after;
    CHECK(scores_of(grouped(softmax, 2, 3, 1), logits) == row{out, out, 3, 3, out, out});
    CHECK(scores_of(grouped(softmax, 2, 3, 2), logits) == row{5, 0, out, out, 4, 2});
    CHECK(scores_of(grouped(softmax, 4, 3, 2), logits) == row{out, out, 3, 3, 4, 2});
    CHECK(scores_of(grouped(softmax, 3, 3, 3), logits) == logits);
    CHECK(scores_of(grouped(softmax, 2, 3, 2), row(6, 1.0)) == row{1, 1, 1, 1, out, out});
    CHECK(scores_of(grouped(softmax, 1, 6, 1), logits) == row{5, out, out, out, out, out});
  }
  TEST_CASE("groups are judged with the bias") {
    const route_rule rule = grouped(score_function::sigmoid, 1, 2, 1);
    const row logits = {0, 1, 2, -1};
    CHECK(scores_of(rule, logits)[1] == out);
    const row biased = scores_of(rule, logits, {0.5, 0, 0, 0});  // 1.0 beats sigmoid(2)
    CHECK((biased[0] == 1 && biased[2] == out && biased[3] == out));
  }

  TEST_CASE("weights in closed form: logits are logarithms, so that shares are fractions") {
    const row logits = {std::log(1.0), std::log(2.0), std::log(3.0), std::log(4.0)};
    const auto close = [](const row& given, const row& expected) { CHECK(test::largest_error(given, expected) < 1e-15); };
    close(weights_of(rule_of(score_function::softmax_after, 2), logits, {3, 1}), {4.0 / 6, 2.0 / 6});
    close(weights_of(rule_of(score_function::softmax_before, 2), logits, {3, 1}), {0.4, 0.2});
    close(weights_of(rule_of(score_function::sigmoid, 2), logits, {3, 1}), {12.0 / 22, 10.0 / 22});  // 4/5 and 2/3 by their sum
    close(weights_of(rule_of(score_function::softmax_before, 1), logits, {2}), {0.3});
    close(weights_of(rule_of(score_function::sigmoid, 1), logits, {2}), {0.75});  // not renormalised
    close(weights_of(rule_of(score_function::sigmoid, 1, 2.5), logits, {2}), {1.875});
    close(weights_of(rule_of(score_function::softmax_after, 4, 2.5), logits, {0, 1, 2, 3}), {0.25, 0.5, 0.75, 1});
    close(weights_of(rule_of(score_function::softmax_before, 2, 2.5), logits, {0, 2}), {0.25, 0.75});
  }
  TEST_CASE("a weight does not depend on the slot its expert stands in") {
    const row logits = {0.5, 700, -700, 2, 701};
    for (const score_function score : functions) {
      const row there = weights_of(rule_of(score, 3), logits, {4, 1, 2}), back = weights_of(rule_of(score, 3), logits, {2, 1, 4});
      CHECK(test::largest_error(row{back[2], back[1], back[0]}, there) < 1e-15);
    }
  }

  TEST_CASE_TEMPLATE("logits of 1e4 and -1e4 give finite weights, sums and gradients", A, float, double) {
    host_context context;
    const host_exec e(context);
    const std::vector<A> logits = {A(1e4), A(-1e4), A(0), A(1e4), A(-1e4), A(-1e4), A(-1e4), A(-1e4), A(1e4), A(1e4), A(1e4), A(1e4)};
    const std::vector<std::int32_t> expert = {1, 0, 3, 2, 2, 1};  // as a replay may give them
    const view<const A> in{logits.data(), {3, 4}};
    const view<const std::int32_t> chosen{expert.data(), {3, 2}};
    const auto finite = [](const tensor<A>& t) { return std::all_of(t.begin(), t.end(), [](A x) { return std::isfinite(x); }); };
    for (const score_function score : functions) {
      CAPTURE(int(score));
      const route_rule rule = rule_of(score, 2, 2.0);
      tensor<A> weight({3, 2}), dlogits({3, 4}), dweight({3, 2}, A(1)), pull({1, 4}, A(0.5));
      tensor<double> sums({1, 4});
      route_weights<A>(e, rule, in, chosen, weight);
      CHECK(finite(weight));
      CHECK(weight[1] == (score == score_function::softmax_before ? A(1) : A(2)));  // shared with expert 3, or all of it
      CHECK(weight[0] == A(0));
      dweight[0] = A(-3);
      CHECK(std::isfinite(aux_sums<A>(e, rule, in, {}, sums)));
      CHECK(std::all_of(sums.begin(), sums.end(), [](double s) { return s >= 0 && s <= 3; }));
      route_backward<A>(e, rule, dweight, in, chosen, weight, {}, pull, 1e-3, dlogits);
      CHECK(finite(dlogits));
    }
  }

  TEST_CASE("aux sums go to the token's sequence, padding counts for nothing, and every other token for 1") {
    host_context context;
    const host_exec e(context);
    constexpr extent_t n = 7, experts = 5;
    const auto logits = random_tensor<double>({n, experts}, 1, 2.0);
    const std::vector<std::uint8_t> flags = {0, 1, 0, 0, 7, 0, 0};
    for (const score_function score : functions)
      for (const extent_t batch : {1, 2, 3})
        for (const bool padded : {false, true}) {
          tensor<double> expected({batch, experts}, 0.0), sums({batch, experts}, 99.0);
          double squares = 0;
          for (extent_t t = 0; t < n; ++t) {
            if (padded && flags[std::size_t(t)]) continue;
            double all = 0, whole = 0;
            const auto share = [&](extent_t x) {
              const double l = logits.view()(t, x);
              return score == score_function::sigmoid ? sigmoid(l) : std::exp(l);
            };
            for (extent_t x = 0; x < experts; ++x) all += share(x), whole += std::exp(logits.view()(t, x));
            for (extent_t x = 0; x < experts; ++x) expected.view()(t % batch, x) += share(x) / all;
            squares += std::log(whole) * std::log(whole);
          }
          const std::span<const std::uint8_t> padding = padded ? std::span(flags) : std::span<const std::uint8_t>{};
          CHECK(aux_sums<double>(e, rule_of(score, 2), logits, padding, sums) == doctest::Approx(squares).epsilon(1e-13));
          CHECK(test::largest_error(sums, expected) < 1e-14);
        }
  }

  TEST_CASE("the gradient of weights, pull and z-loss equals finite differences, whatever the scores, padding, sequences and scale") {
    host_context context;
    const host_exec e(context);
    constexpr extent_t n = 5, experts = 6;
    const std::vector<std::uint8_t> flags = {0, 1, 0, 0, 1};
    for (const score_function score : functions)
      for (const extent_t k : {1, 2, 3})
        for (const extent_t batch : {0, 1, 2})  // 0: no pull
          for (const double z : {0.0, 0.3})
            for (const bool padded : {false, true})
              for (const double scale : {1.0, 2.5}) {
                CAPTURE(int(score));
                CAPTURE(k);
                CAPTURE(batch);
                CAPTURE(z);
                CAPTURE(padded);
                CAPTURE(scale);
                const route_rule rule = rule_of(score, k, scale);
                const std::span<const std::uint8_t> padding = padded ? std::span(flags) : std::span<const std::uint8_t>{};
                auto logits = random_tensor<double>({n, experts}, 1);
                const auto dweight = random_tensor<double>({n, k}, 2),
                           pull = random_tensor<double>({std::max<extent_t>(1, batch), experts}, 3);
                const auto expert = unsorted(n, k, experts);
                tensor<double> weight({n, k}), dlogits({n, experts}, 99.0), sums(pull.shape());
                const auto loss = [&] {
                  route_weights<double>(e, rule, logits, expert.view(), weight);
                  const double squares = aux_sums<double>(e, rule, logits, padding, sums);
                  return test::dot(weight, dweight) + (batch > 0 ? test::dot(sums, pull) : 0) + z * squares;
                };
                loss();
                route_backward<double>(e, rule, dweight, logits, expert.view(), weight, padding,
                                       batch > 0 ? pull.view() : view<const double>{}, z, dlogits);
                CHECK(test::largest_error(dlogits, test::numerical_gradient(logits, loss)) < 1e-9);
              }
  }
  TEST_CASE("weights of padding have a gradient, its balance and z-loss have none") {
    host_context context;
    const host_exec e(context);
    const auto logits = random_tensor<double>({2, 4}, 1), dweight = random_tensor<double>({2, 2}, 2),
               pull = random_tensor<double>({1, 4}, 3);
    const auto expert = unsorted(2, 2, 4);
    const std::vector<std::uint8_t> padding = {1, 1};
    for (const score_function score : functions) {
      tensor<double> weight({2, 2}), all({2, 4}), plain({2, 4});
      route_weights<double>(e, rule_of(score, 2), logits, expert.view(), weight);
      route_backward<double>(e, rule_of(score, 2), dweight, logits, expert.view(), weight, padding, pull, 0.7, all);
      route_backward<double>(e, rule_of(score, 2), dweight, logits, expert.view(), weight, {}, {}, 0, plain);
      CHECK(test::largest_error(all, plain) == 0);
      CHECK(std::any_of(all.begin(), all.end(), [](double g) { return g != 0; }));
    }
  }

  TEST_CASE("no tokens are fine") {
    host_context context;
    const host_exec e(context);
    tensor<double> logits({0, 4}), weight({0, 2}), sums({2, 4}, 99.0);
    const tensor<std::int32_t> expert({0, 2});
    const route_rule rule = rule_of(score_function::sigmoid, 2);
    choosing_scores<double>(e, rule, logits, {}, logits.view());
    route_weights<double>(e, rule, logits, expert.view(), weight);
    CHECK(aux_sums<double>(e, rule, logits, {}, sums) == 0);
    CHECK(std::all_of(sums.begin(), sums.end(), [](double s) { return s == 0; }));
    route_backward<double>(e, rule, weight, logits, expert.view(), weight, {}, sums, 1, logits.view());
  }
  TEST_CASE("what does not fit is refused, with its numbers") {
    host_context context;
    const host_exec e(context);
    const route_rule rule = rule_of(score_function::sigmoid, 2);
    tensor<double> logits({2, 4}, 0.0), weight({2, 2}, 0.0), narrow({2, 3}, 0.0), sums({1, 4}), dlogits({2, 4});
    tensor<std::int32_t> expert({2, 2}, 0);
    const std::vector<double> bias(3);
    const std::vector<std::uint8_t> padding(3);
    CHECK_THROWS_WITH_AS(choosing_scores<double>(e, rule, logits, bias, dlogits.view()),
                         "moefold: choosing_scores needs one bias for each of 4 experts, or none, given 3", error);
    CHECK_THROWS_WITH_AS(choosing_scores<double>(e, rule, narrow, {}, dlogits.view()),
                         doctest::Contains("choosing_scores needs logits [2, 4] to fit its other arguments, given [2, 3]"), error);
    expert[2] = 4;
    CHECK_THROWS_WITH_AS(route_weights<double>(e, rule, logits, expert.view(), weight.view()),
                         "moefold: route_weights has 4 experts, given expert 4 for token 1", error);
    expert[2] = -1;
    CHECK_THROWS_WITH_AS(route_weights<double>(e, rule, logits, expert.view(), weight.view()),
                         "moefold: route_weights has 4 experts, given expert -1 for token 1", error);
    CHECK_THROWS_WITH_AS(aux_sums<double>(e, rule, logits, padding, sums),
                         "moefold: aux_sums needs a padding flag for each of 2 tokens, or none, given 3", error);
    CHECK_THROWS_AS(aux_sums<double>(e, rule, narrow, {}, sums), error);
    expert[2] = 0;
    CHECK_THROWS_WITH_AS(route_backward<double>(e, rule, weight, logits, expert.view(), weight, {}, narrow, 0, dlogits.view()),
                         doctest::Contains("route_backward needs pull [2, 4]"), error);
    CHECK_THROWS_AS(route_backward<double>(e, rule, narrow, logits, expert.view(), weight, {}, {}, 0, dlogits.view()), error);
    expert[3] = -1;
    CHECK_THROWS_WITH_AS(route_backward<double>(e, rule, weight, logits, expert.view(), weight, {}, {}, 0, dlogits.view()),
                         "moefold: route_backward has 4 experts, given expert -1 for token 1", error);
    CHECK_THROWS_WITH_AS(route_backward<double>(e, rule, weight, logits, expert.view(), weight, padding, {}, 0, dlogits.view()),
                         "moefold: route_backward needs a padding flag for each of 2 tokens, or none, given 3", error);
  }
  TEST_CASE("forward in one call is its parts: choices, weights, counts by sequence, what scores alone would choose, sums") {
    host_context context;
    const host_exec e(context);
    const extent_t n = 9, experts = 8, batch = 2;
    const auto logits = random_tensor<double>({n, experts}, 1), bias = random_tensor<double>({experts}, 2);
    std::vector<std::uint8_t> padding(9, 0);
    padding[4] = 1;
    for (const score_function score : functions)
      for (const bool corrected : {false, true}) {
        const route_rule rule = corrected ? grouped(score, 2, 4, 2) : rule_of(score, 2);
        tensor<std::int32_t> expert({n, 2});
        tensor<double> weight({n, 2}), scores({n, experts}), score_sum({batch, experts}), squares({1});
        tensor<std::int64_t> counts({batch, experts + 1}, 99), aux({experts}, 99);
        const view<const double> biased = corrected ? view<const double>(bias.view()) : view<const double>{};
        route_forward<double>(e, rule, {logits.view(), biased, std::span<const std::uint8_t>(padding), batch},
                              {expert.view(), weight.view(), counts.view(), aux.view(), score_sum.view(), squares.view(), scores.view()});

        tensor<double> own({n, experts}), value({n, 2}), plain({n, experts}), sum({batch, experts});
        tensor<std::int32_t> best({n, 2});
        choosing_scores<double>(e, rule, logits, biased.span(), own.view());
        CHECK(std::equal(own.begin(), own.end(), scores.begin()));
        top_k(e, own, 2, best.view(), value.view());
        CHECK(std::equal(best.begin(), best.end(), expert.begin()));
        route_weights(e, rule, logits, expert.view(), value.view());
        CHECK(std::equal(value.begin(), value.end(), weight.begin()));
        std::vector<std::int64_t> own_counts(counts.size(), 0), own_aux(aux.size(), 0);
        choosing_scores<double>(e, rule_of(score, 2), logits, {}, plain.view());
        top_k(e, plain, 2, best.view(), value.view());
        for (extent_t t = 0; t < n; ++t) {
          if (padding[std::size_t(t)]) continue;
          ++own_counts[std::size_t(t % 2 * (experts + 1) + experts)];
          for (extent_t j = 0; j < 2; ++j)
            ++own_counts[std::size_t(t % 2 * (experts + 1) + expert.view()(t, j))], ++own_aux[std::size_t(best.view()(t, j))];
        }
        CHECK(std::equal(counts.begin(), counts.end(), own_counts.begin()));
        CHECK(std::equal(aux.begin(), aux.end(), own_aux.begin()));
        CHECK(squares[0] == aux_sums<double>(e, rule, logits, padding, sum.view()));
        CHECK(std::equal(sum.begin(), sum.end(), score_sum.begin()));
      }
    tensor<std::int32_t> expert({n, 2});
    tensor<double> weight({n, 2});
    tensor<std::int64_t> counts({1, experts});
    CHECK_THROWS_AS(route_forward<double>(e, rule_of(functions[0], 2), {logits.view()}, {expert.view(), weight.view(), counts.view()}),
                    error);
    CHECK_THROWS_AS(
        route_forward<double>(e, grouped(functions[0], 2, 3, 1), {logits.view()}, {expert.view(), weight.view(), counts.view()}), error);
  }
  TEST_CASE(
      "F13: ties, logits of -inf and as many choices as experts: the lowest id wins and every weight is a number, for 100,000 seeds") {
    host_context context;
    const host_exec e(context);
    int passed = 0, ties = 0, outs = 0, all = 0;
    constexpr extent_t most = 12;
    tensor<double> logits({1, most}), weight({1, most});
    tensor<std::int32_t> expert({1, most});
    tensor<std::int64_t> counts({1, most + 1});
    for (std::uint64_t seed = 0; seed < 100'000; ++seed) {
      const random_stream draw(seed, "route");
      const extent_t experts = 1 + extent_t(draw.bits(0) % std::uint64_t(most));
      const extent_t k = draw.bits(1) % 4 == 0 ? experts : 1 + extent_t(draw.bits(2) % std::uint64_t(experts));
      const view<double> row = logits.view().as({most}).rows(0, experts);
      for (extent_t i = 0; i < experts; ++i) {
        const std::uint64_t level = draw.bits(10 + std::uint64_t(i)) % 5;
        row(i) = level == 0 ? out : double(level) - 2;
      }
      row(extent_t(draw.bits(3) % std::uint64_t(experts))) = 2;  // somebody can be chosen
      const route_rule rule = rule_of(functions[seed % 3], k);
      const view<std::int32_t> chosen = expert.view().as({most}).rows(0, k);
      const view<double> weights = weight.view().as({most}).rows(0, k);
      const view<std::int64_t> counted = counts.view().as({most + 1}).rows(0, experts + 1);
      route_forward<double>(e, rule, {view<const double>(row.as({1, experts})), {}, {}, 1},
                            {chosen.as({1, k}), weights.as({1, k}), counted.as({1, experts + 1})});
      bool right = true;
      double sum = 0;
      for (extent_t j = 0; j < k; ++j) {
        right = right && weights(j) >= 0 && weights(j) <= 1 && (row(chosen(j)) != out || weights(j) == 0);
        sum += weights(j);
        for (extent_t i = 0; i < experts;
             ++i) {  // who is not among the first j comes after number j: a smaller logit, or the same and a higher id
          const bool before = std::find(chosen.begin(), chosen.begin() + j + 1, std::int32_t(i)) != chosen.begin() + j + 1;
          if (before) continue;
          right = right && (row(i) < row(chosen(j)) || (row(i) == row(chosen(j)) && i > chosen(j)));
          ties += row(i) == row(chosen(j));
        }
        outs += row(chosen(j)) == out;
      }
      if (rule.score == score_function::softmax_after || (rule.score == score_function::sigmoid && k > 1))
        right = right && std::abs(sum - 1) < 1e-12;
      all += k == experts;
      CAPTURE(seed);
      if (!right) CHECK(right);
      passed += right;
    }
    CHECK(passed == 100'000);
    CHECK(std::min({ties, outs, all}) > 10'000);
    MESSAGE("F13: ", passed, " of 100000 seeds; ", ties, " ties, ", outs, " choices of -inf, ", all, " times all experts");
  }
}
