#include <moefold/ops/adamw.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

#include <array>

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/adamw") {
  TEST_CASE_TEMPLATE("five steps equal the formulas, with a separate copy of the weights and without", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t n : {0, 1, 33}) {
      auto w = random_tensor<T>({n}, 1), own = random_tensor<T>({n}, 1);
      tensor<T> m({n}, T(0)), v({n}, T(0)), m2({n}, T(0)), v2({n}, T(0)), weights({n}, T(0));
      tensor<double> expected({n}), mean({n}, 0.0), square({n}, 0.0);
      for (std::size_t i = 0; i < std::size_t(n); ++i) expected[i] = double(w[i]);
      for (int t = 1; t <= 5; ++t) {
        const auto grad = random_tensor<T>({n}, 10 + std::uint64_t(t));
        adamw_step step;
        step.lr = 0.01, step.weight_decay = 0.1, step.grad_scale = 0.25;
        step.correction1 = 1 - std::pow(step.beta1, t), step.correction2 = 1 - std::pow(step.beta2, t);
        adamw_update(e, step, w.view().span(), grad.view().span(), m.view().span(), v.view().span(), weights.view().span());
        adamw_update(e, step, own.view().span(), grad.view().span(), m2.view().span(), v2.view().span(), own.view().span());
        for (std::size_t i = 0; i < std::size_t(n); ++i) {
          const double g = double(grad[i]) * 0.25;
          mean[i] = 0.9 * mean[i] + 0.1 * g;
          square[i] = 0.95 * square[i] + 0.05 * g * g;
          const double direction = mean[i] / (1 - std::pow(0.9, t)) / (std::sqrt(square[i] / (1 - std::pow(0.95, t))) + 1e-8);
          expected[i] -= 0.01 * (direction + 0.1 * expected[i]);
        }
      }
      CHECK(test::largest_error(w, expected) < test::rounding<T>);
      CHECK(test::largest_error(weights, w) == 0);
      CHECK(test::largest_error(own, w) == 0);
    }
  }
  TEST_CASE("a gradient of zero decays the weight and nothing else") {
    host_context context;
    double w[] = {2.0}, g[] = {0.0}, m[] = {0.0}, v[] = {0.0};
    adamw_step step;
    step.lr = 0.1, step.weight_decay = 0.5;
    using span = std::span<double>;
    adamw_update(host_exec(context), step, span(w), span(g), span(m), span(v), span(w));
    CHECK(w[0] == doctest::Approx(2.0 * 0.95));
  }
  TEST_CASE("moments in bf16 are made in fp32 and rounded when they are stored; bf16 weights are the roundings of the master") {
    constexpr std::size_t n = 5;
    const adamw_step step{0.01, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 0.5};
    const std::array<float, n> gradient{0.3f, -1.7f, 2e-3f, 11.0f, 0.0f};
    std::array<float, n> master{1.0f, -2.0f, 0.125f, 3.0f, 0.5f}, expected = master;
    std::array<bf16, n> m, v, weights;
    for (std::size_t i = 0; i < n; ++i) m[i] = bf16(0.1f * float(i)), v[i] = bf16(0.2f * float(i));
    const std::array<bf16, n> m_before = m, v_before = v;
    host_context context;
    adamw_update(host_exec(context), step, std::span<float>(master), std::span<const float>(gradient), std::span<bf16>(m),
                 std::span<bf16>(v), std::span<bf16>(weights));
    for (std::size_t i = 0; i < n; ++i) {
      const float g = gradient[i] * 0.5f;
      const float mean = 0.9f * float(m_before[i]) + float(1 - 0.9) * g, square = 0.95f * float(v_before[i]) + float(1 - 0.95) * g * g;
      CHECK(m[i].bits == bf16(mean).bits);
      CHECK(v[i].bits == bf16(square).bits);
      expected[i] = float(1 - 0.01 * 0.1) * expected[i] - float(0.01 / 0.1) * mean / (std::sqrt(square * float(1 / 0.05)) + 1e-8f);
      CHECK(master[i] == doctest::Approx(expected[i]).epsilon(1e-6));  // from the averages as made, not as stored
      CHECK(weights[i].bits == bf16(master[i]).bits);
    }
  }
}
