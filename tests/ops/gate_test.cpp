#include <moefold/ops/gate.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;

TEST_SUITE("ops/gate") {
  TEST_CASE("each row is scaled by the sigmoid of its own product with w") {
    host_context context;
    const host_exec e(context);
    tensor<double> x({2, 3}), w({1, 3}), z({2, 3}), y({2, 3}), opening({2});
    for (std::size_t i = 0; i < 6; ++i) x[i] = double(i), z[i] = 1 + double(i);
    w[0] = 0.5, w[1] = -1, w[2] = 0.25;
    row_gate_forward(e, x, w, z, opening.view(), y.view());
    CHECK(opening[0] == doctest::Approx(1 / (1 + std::exp(0.5))));
    CHECK(opening[1] == doctest::Approx(1 / (1 + std::exp(1.25))));
    for (std::size_t i = 0; i < 6; ++i) CHECK(y[i] == opening[i / 3] * z[i]);
    row_gate_forward(e, x, w, z, opening.view(), z.view());  // in place
    for (std::size_t i = 0; i < 6; ++i) CHECK(y[i] == z[i]);
  }
  TEST_CASE("the gradients of x, w and z are those of finite differences, and are added to what is there") {
    host_context context;
    const host_exec e(context);
    const extent_t rows = 5, width = 7;
    auto x = test::random_tensor<double>({rows, width}, 1), w = test::random_tensor<double>({1, width}, 2),
         z = test::random_tensor<double>({rows, width}, 3);
    const auto dy = test::random_tensor<double>({rows, width}, 4);
    tensor<double> y({rows, width}), opening({rows}), dx({rows, width}, 0.0), dw({1, width}, 0.0), dz({rows, width});
    const auto loss = [&] {
      row_gate_forward(e, x, w, z, opening.view(), y.view());
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    (void)loss();
    scale_rows(e, dy, opening, dz.view());
    row_gate_backward(e, dy, z, x, w, opening, dx.view(), dw.view());
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-7);
    CHECK(test::largest_error(dw, test::numerical_gradient(w, loss)) < 1e-7);
    CHECK(test::largest_error(dz, test::numerical_gradient(z, loss)) < 1e-7);
    const double before = dw[0];
    (void)loss();
    row_gate_backward(e, dy, z, x, w, opening, dx.view(), dw.view());
    CHECK(dw[0] == doctest::Approx(2 * before));
  }
  TEST_CASE("no rows leave dw as it is; views that do not fit are refused") {
    host_context context;
    const host_exec e(context);
    tensor<float> none({0, 3}), w({1, 3}, 1.0f), dw({1, 3}, 5.0f), opening({0}), x({2, 3}), y({2, 3});
    row_gate_backward(e, none, none, none, w, opening, none.view(), dw.view());
    for (const float d : dw) CHECK(d == 5.0f);
    CHECK_THROWS_WITH_AS(row_gate_forward(e, x, w, y, opening.view(), y.view()),
                         "moefold: row_gate_forward needs 2 elements in opening to fit its other arguments, given 0", error);
  }
}
