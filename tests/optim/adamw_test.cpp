#include <moefold/optim/adamw.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

/// Algorithm 2 of the paper for one weight, t = 1, 2, ...
struct naive {
  double weight, m = 0, v = 0;
  void step(const adamw& p, int t, double rate, double gradient, bool decay) {
    m = p.beta1 * m + (1 - p.beta1) * gradient;
    v = p.beta2 * v + (1 - p.beta2) * gradient * gradient;
    double b1 = 1, b2 = 1;
    for (int i = 0; i < t; ++i) b1 *= p.beta1, b2 *= p.beta2;
    const double old = weight;
    weight -= rate * (m / (1 - b1)) / (std::sqrt(v / (1 - b2)) + p.eps);
    if (decay) weight -= rate * p.weight_decay * old;
  }
};

}  // namespace

TEST_SUITE("optim/adamw") {
  TEST_CASE("ten steps equal the naive twin, with decay and without, gradients scaled") {
    constexpr extent_t n = 37;
    const adamw policies[] = {{}, {0.8, 0.99, 1e-3, 0.5}};
    for (const adamw& policy : policies)
      for (const bool decay : {true, false}) {
        host_context context;
        const host_exec e(context);
        auto weights = random_tensor<double>({n}, 1);
        tensor<double> m({n}, 0.0), v({n}, 0.0), expected({n});
        std::vector<naive> twin;
        for (double w : weights) twin.push_back({w});
        for (int t = 1; t <= 10; ++t) {
          const auto gradient = random_tensor<double>({n}, 10 + std::uint64_t(t));
          const double rate = 0.01 * t, scale = 0.25;
          policy.update(e, t, rate, scale, decay, weights.view().span(), std::span<const double>(gradient.view().span()),
                        std::array{m.view().span(), v.view().span()}, weights.view().span());
          for (std::size_t i = 0; i < twin.size(); ++i) twin[i].step(policy, t, rate, scale * gradient[i], decay);
        }
        for (std::size_t i = 0; i < twin.size(); ++i) expected[i] = twin[i].weight;
        CHECK(test::largest_error(weights, expected) < 1e-13);
      }
  }
  TEST_CASE("without a gradient only decay moves a weight, and only where it was asked for") {
    host_context context;
    const host_exec e(context);
    tensor<double> decayed({3}, 2.0), kept({3}, 2.0), zero({3}, 0.0), m({3}, 0.0), v({3}, 0.0);
    const adamw policy;
    for (auto* weights : {&decayed, &kept})
      policy.update(e, 1, 0.5, 1.0, weights == &decayed, weights->view().span(), std::span<const double>(zero.view().span()),
                    std::array{m.view().span(), v.view().span()}, weights->view().span());
    CHECK(decayed[0] == doctest::Approx(2.0 * (1 - 0.5 * 0.1)));
    CHECK(kept[0] == 2.0);
  }
  TEST_CASE("the first step moves every weight by the rate, whatever the size of its gradient") {
    host_context context;
    const host_exec e(context);
    tensor<float> weights({2}, 0.f), gradient({2}), m({2}, 0.f), v({2}, 0.f);
    gradient[0] = 1e-3f, gradient[1] = -50.f;
    adamw{}.update(e, 1, 0.01, 1.0, true, weights.view().span(), std::span<const float>(gradient.view().span()),
                   std::array{m.view().span(), v.view().span()}, weights.view().span());
    CHECK(weights[0] == doctest::Approx(-0.01).epsilon(1e-4));
    CHECK(weights[1] == doctest::Approx(0.01).epsilon(1e-4));
  }
}
