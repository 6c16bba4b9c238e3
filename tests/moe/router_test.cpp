#include <moefold/moe/router.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t hidden = 6, experts = 5, tokens = 7;

struct router {
  tensor<double> weight = random_tensor<double>({experts, hidden}, 1), gradient{{experts, hidden}, 0.0};
  extent_t k;
  host_context context;
  arena keep;
  router_layer<fp64>::saved saved;
  explicit router(extent_t top_k) : k(top_k) {}
  router_layer<fp64> layer() {
    route_rule rule;
    rule.top_k = k;
    rule.score = k > 1 ? score_function::softmax_after : score_function::softmax_before;
    return {{weight.view(), gradient.view()}, rule};
  }
  const routing<double>& choose(const tensor<double>& x, routing_tap* tap = nullptr, const batch_place& place = {}) {
    keep.clear();
    layer().forward(host_exec(context), x.view(), keep, saved, 0, {.place = place, .tap = tap}, moe_groups<self_comm>{});
    return saved.choice;
  }
};

}  // namespace

TEST_SUITE("moe/router") {
  TEST_CASE("the k largest logits are chosen, best first, and weighed by softmax over the chosen") {
    const auto x = random_tensor<double>({tokens, hidden}, 2);
    for (extent_t k = 2; k <= experts; ++k) {
      router r(k);
      const routing<double> choice = r.choose(x);
      for (extent_t t = 0; t < tokens; ++t) {
        std::vector<double> logit(experts, 0.0);
        for (extent_t e = 0; e < experts; ++e)
          for (extent_t h = 0; h < hidden; ++h) logit[std::size_t(e)] += x.view()(t, h) * r.weight.view()(e, h);
        double sum = 0, before = 1e300;
        std::vector<bool> taken(experts, false);
        for (extent_t s = 0; s < k; ++s) {
          const std::size_t e = std::size_t(choice.expert(t, s));
          taken[e] = true;
          CHECK(logit[e] <= before);
          before = logit[e];
          sum += std::exp(logit[e]);
        }
        for (std::size_t e = 0; e < std::size_t(experts); ++e) CHECK((taken[e] || logit[e] <= before));
        for (extent_t s = 0; s < k; ++s)
          CHECK(choice.weight(t, s) == doctest::Approx(std::exp(logit[std::size_t(choice.expert(t, s))]) / sum).epsilon(1e-13));
      }
    }
  }
  TEST_CASE("equal logits go to the lowest expert ids") {
    router r(3);
    const tensor<double> x({2, hidden}, 0.0);
    const routing<double> choice = r.choose(x);
    for (extent_t t = 0; t < 2; ++t)
      for (extent_t s = 0; s < 3; ++s) {
        CHECK(choice.expert(t, s) == s);
        CHECK(choice.weight(t, s) == doctest::Approx(1.0 / 3));
      }
  }
  TEST_CASE("both gradients equal finite differences; dx and the router's gradient are added to what is there") {
    for (const extent_t k : {2, 3, 5}) {
      router own(k), probe(k);
      auto x = random_tensor<double>({tokens, hidden}, 2);
      const auto dweight = random_tensor<double>({tokens, k}, 3);
      const auto loss = [&] { return test::dot(probe.choose(x).weight, dweight); };
      own.choose(x);
      tensor<double> dx({tokens, hidden}, 2.0);
      std::fill(own.gradient.begin(), own.gradient.end(), 3.0);
      own.layer().backward(host_exec(own.context), dweight.view(), dx.view(), own.saved);
      for (double& g : dx) g -= 2;
      for (double& g : own.gradient) g -= 3;
      CHECK(test::largest_error(dx, test::numerical_gradient(x, loss, 1e-4)) < 1e-8);
      CHECK(test::largest_error(own.gradient, test::numerical_gradient(probe.weight, loss, 1e-4)) < 1e-8);
    }
  }
  TEST_CASE("with k = 1 the weight is the chosen expert's share of the softmax over all, so that the router learns") {
    router r(1);
    const auto x = random_tensor<double>({tokens, hidden}, 2), dweight = random_tensor<double>({tokens, 1}, 3);
    const routing<double> choice = r.choose(x);
    tensor<double> dx({tokens, hidden}, 0.0);
    r.layer().backward(host_exec(r.context), dweight.view(), dx.view(), r.saved);
    for (extent_t t = 0; t < tokens; ++t) {
      double sum = 0, best = 0;
      for (extent_t e = 0; e < experts; ++e) {
        double logit = 0;
        for (extent_t h = 0; h < hidden; ++h) logit += x.view()(t, h) * r.weight.view()(e, h);
        sum += std::exp(logit);
        best = std::max(best, std::exp(logit));
      }
      CHECK(choice.weight(t, 0) == doctest::Approx(best / sum).epsilon(1e-12));
    }
    CHECK(std::any_of(r.gradient.begin(), r.gradient.end(), [](double g) { return g != 0; }));
  }
  TEST_CASE("a rank without tokens routes nothing") {
    router r(2);
    tensor<double> x({0, hidden}), dweight({0, 2});
    CHECK(r.choose(x).expert.extent(0) == 0);
    r.layer().backward(host_exec(r.context), dweight.view(), x.view(), r.saved);
    CHECK(std::all_of(r.gradient.begin(), r.gradient.end(), [](double g) { return g == 0; }));
  }
  TEST_CASE("the tap sees the smallest gap between the k-th and the next logit, and with k = E none") {
    router r(2), all(experts);
    std::fill(r.weight.begin(), r.weight.end(), 0.0);
    const double logits[experts] = {0.5, 2.0, -1.0, 1.25, 3.0};
    for (extent_t e = 0; e < experts; ++e) r.weight.view()(e, 0) = logits[e];
    tensor<double> x({2, hidden}, 0.0);
    x.view()(0, 0) = 1, x.view()(1, 0) = 0.5;  // gaps 0.75 and 0.375
    routing_tap tap;
    r.choose(x, &tap, {0, 0, 1, {2}});
    CHECK(tap.margin == 0.375);
    routing_tap none;
    all.choose(x, &none, {0, 0, 1, {2}});
    CHECK(none.margin == std::numeric_limits<double>::infinity());
  }
  TEST_CASE("recorded choices are replayed, with weights from the present logits") {
    const auto x = random_tensor<double>({tokens, hidden}, 2), other = random_tensor<double>({tokens, hidden}, 9);
    const batch_place place{0, 0, 1, {tokens}};
    routing_trace trace(1, 1, 1, tokens, 2), again(1, 1, 1, tokens, 2);
    router r(2), replayed(2);
    routing_tap record{&trace, nullptr, 0}, replay{&again, &trace, 0};
    const routing<double> first = r.choose(x, &record, place), second = replayed.choose(other, &replay, place);
    CHECK(std::equal(first.expert.begin(), first.expert.end(), second.expert.begin()));
    CHECK(again == trace);
    CHECK(replay.margin == std::numeric_limits<double>::infinity());  // what is replayed was not chosen here
    for (extent_t t = 0; t < tokens; ++t) {
      double logit[2] = {};
      for (extent_t s = 0; s < 2; ++s)
        for (extent_t h = 0; h < hidden; ++h) logit[s] += other.view()(t, h) * replayed.weight.view()(second.expert(t, s), h);
      CHECK(second.weight(t, 0) == doctest::Approx(1 / (1 + std::exp(logit[1] - logit[0]))).epsilon(1e-12));
    }
  }
  TEST_CASE("replay begins at its step and ends with the trace; outside it the router chooses for itself") {
    const auto x = random_tensor<double>({tokens, hidden}, 2);
    routing_trace trace(2, 1, 1, tokens, 2);
    for (const extent_t step : {0, 1})
      for (extent_t t = 0; t < tokens; ++t) trace.at({step, 0, 1, {tokens}}, 0, t)[0] = 4, trace.at({step, 0, 1, {tokens}}, 0, t)[1] = 0;
    routing_tap tap{nullptr, &trace, 1};
    router r(2), free(2);
    const auto chosen = test::copy_of(free.choose(x).expert);
    CHECK(test::largest_error(r.choose(x, &tap, {0, 0, 1, {tokens}}).expert, chosen) == 0);
    CHECK(test::largest_error(r.choose(x, &tap, {2, 0, 1, {tokens}}).expert, chosen) == 0);
    const routing<double> forced = r.choose(x, &tap, {1, 0, 1, {tokens}});
    for (extent_t t = 0; t < tokens; ++t) CHECK((forced.expert(t, 0) == 4 && forced.expert(t, 1) == 0));
  }
  TEST_CASE("a trace with another number of choices, or with one expert twice for a token, is refused") {
    const tensor<double> x({1, hidden}, 1.0);
    routing_trace three(1, 1, 1, 1, 3), twice(1, 1, 1, 1, 2);
    twice.at({0, 0, 1, {1}}, 0, 0)[0] = twice.at({0, 0, 1, {1}}, 0, 0)[1] = 3;
    routing_tap other{nullptr, &three, 0}, same{nullptr, &twice, 0}, record{&three, nullptr, 0};
    router r(2);
    CHECK_THROWS_WITH_AS(r.choose(x, &other, {0, 0, 1, {1}}), doctest::Contains("holds 3 choices of a token, the router makes 2"), error);
    CHECK_THROWS_WITH_AS(r.choose(x, &record, {0, 0, 1, {1}}), doctest::Contains("holds 3 choices"), error);
    CHECK_THROWS_WITH_AS(r.choose(x, &same, {0, 0, 1, {1}}), doctest::Contains("has expert 3 twice for one token"), error);
  }
  TEST_CASE("outside training there is no jitter and no balance loss, and nobody is asked for their groups") {
    const auto x = random_tensor<double>({tokens, hidden}, 2), dweight = random_tensor<double>({tokens, 2}, 3);
    router plain(2), r(2);
    const routing<double>& expected = plain.choose(x);
    router_layer<fp64> layer = r.layer();
    layer.balance = {.micro_batch = 1, .z = 1};
    layer.jitter = 0.5;
    layer.forward(host_exec(r.context), x.view(), r.keep, r.saved, 0, {.training = false}, moe_groups<self_comm>{});
    CHECK(test::largest_error(r.saved.choice.weight, expected.weight) == 0);
    CHECK(r.saved.losses.empty());
    tensor<double> dx({tokens, hidden}, 0.0), expected_dx({tokens, hidden}, 0.0);
    layer.backward(host_exec(r.context), dweight.view(), dx.view(), r.saved);
    plain.layer().backward(host_exec(plain.context), dweight.view(), expected_dx.view(), plain.saved);
    CHECK(test::largest_error(dx, expected_dx) == 0);
    CHECK(test::largest_error(r.gradient, plain.gradient) == 0);
  }
  TEST_CASE("even choices go round by the token's number in the micro-batch, whichever rank holds it") {
    const auto x = random_tensor<double>({8, hidden}, 2);
    routing_tap tap;
    tap.even = true;
    for (const extent_t cp_rank : {0, 1}) {
      const batch_place place{0, 0, 2, {8, 2, cp_rank, 1, 0}};
      router r(2);
      const routing<double>& choice = r.choose(x, &tap, place);
      for (extent_t t = 0; t < 8; ++t)
        for (extent_t s = 0; s < 2; ++s) CHECK(choice.expert(t, s) == (place.number(t) * 2 + s) % experts);
      CHECK(choice.expert(0, 0) == (cp_rank == 0 ? 0 : 8 % experts));  // positions 0 1 6 7 and 2 3 4 5, two sequences
    }
  }
  TEST_CASE("where a bias may choose otherwise, losses count the forced choices of replayed steps, and after them the scores' own again") {
    const auto x = random_tensor<double>({tokens, hidden}, 2);
    const std::vector<double> bias{0, 0, 0, 10, 20};  // everybody would choose 4 and 3
    routing_trace trace(1, 1, 1, tokens, 2);
    for (extent_t t = 0; t < tokens; ++t) trace.at({0, 0, 1, {tokens}}, 0, t)[0] = 0, trace.at({0, 0, 1, {tokens}}, 0, t)[1] = 2;
    routing_tap tap{nullptr, &trace, 0};
    router r(2);
    router_layer<fp64> layer = r.layer();
    layer.rule.score = score_function::sigmoid;
    layer.state.bias = std::span<const double>(bias);
    const auto counts = [&](extent_t step, routing_tap* t) {
      r.keep.clear();
      layer.forward(host_exec(r.context), x.view(), r.keep, r.saved, 0, {.place = {step, 0, 1, {tokens}}, .tap = t},
                    moe_groups<self_comm>{});
      return std::vector<std::int64_t>(r.saved.aux_load.begin(), r.saved.aux_load.end());
    };
    const auto free = counts(0, nullptr);
    CHECK(counts(0, &tap) == std::vector<std::int64_t>{tokens, 0, tokens, 0, 0});
    CHECK(counts(1, &tap) == free);
    CHECK(r.saved.load[3] == tokens);
    CHECK(free != std::vector<std::int64_t>{0, 0, 0, tokens, tokens});
  }
  TEST_CASE("a trace of another model is refused") {
    const tensor<double> x({1, hidden}, 1.0);
    routing_trace trace(1, 1, 1, 1, 2);
    trace.at({0, 0, 1, {1}}, 0, 0)[0] = 7;
    routing_tap tap{nullptr, &trace, 0};
    router r(2);
    CHECK_THROWS_WITH_AS(r.choose(x, &tap, {0, 0, 1, {1}}),
                         "moefold: the replayed trace has expert 7 of 5 at step 0, layer 0; record it with the same model, batch and steps",
                         error);
  }
}
