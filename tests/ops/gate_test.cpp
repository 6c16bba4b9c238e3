#include <moefold/ops/gate.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/gate") {
  TEST_CASE("a row is multiplied by the sigmoid of its input's product with the gate") {
    host_context context;
    const host_exec e(context);
    for (const extent_t rows : {0, 1, 5})
      for (const extent_t width : {1, 37}) {
        const auto x = random_tensor<double>({rows, width}, 1), w = random_tensor<double>({1, width}, 2),
                   z = random_tensor<double>({rows, width}, 3);
        tensor<double> y({rows, width}), opening({rows}), expected({rows, width});
        row_gate_forward(e, x, w, z, opening, y.view());
        for (extent_t r = 0; r < rows; ++r) {
          double along = 0;
          for (extent_t c = 0; c < width; ++c) along += x.view()(r, c) * w[std::size_t(c)];
          CHECK(opening[std::size_t(r)] == doctest::Approx(1 / (1 + std::exp(-along))).epsilon(1e-12));
          for (extent_t c = 0; c < width; ++c) expected.view()(r, c) = z.view()(r, c) / (1 + std::exp(-along));
        }
        CHECK(test::largest_error(y, expected) < 1e-12);
      }
  }
  TEST_CASE("dz is assigned, dx and dw are accumulated, and all equal finite differences") {
    host_context context;
    const host_exec e(context);
    auto x = random_tensor<double>({4, 9}, 1), w = random_tensor<double>({1, 9}, 2), z = random_tensor<double>({4, 9}, 3);
    const auto dy = random_tensor<double>({4, 9}, 4);
    tensor<double> y({4, 9}), opening({4}), dz({4, 9}, 99.0), slope({4}, 99.0), dx({4, 9}, 3.0), dw({1, 9}, 2.0);
    const auto loss = [&] {
      row_gate_forward(e, x, w, z, opening, y.view());
      return test::dot(y, dy);
    };
    loss();
    row_gate_backward(e, dy, z, opening, dz.view(), slope);
    row_gate_accumulate(e, slope, x, w, dx.view(), dw.view());
    const auto along_x = test::numerical_gradient(x, loss), along_w = test::numerical_gradient(w, loss);
    for (double& d : dx) d -= 3.0;
    for (double& d : dw) d -= 2.0;
    CHECK(test::largest_error(dz, test::numerical_gradient(z, loss)) < 1e-8);
    CHECK(test::largest_error(dx, along_x) < 1e-8);
    CHECK(test::largest_error(dw, along_w) < 1e-8);
    auto in_place = test::copy_of(dy.view());
    row_gate_backward(e, in_place, z, opening, in_place.view(), slope);
    CHECK(test::largest_error(in_place, dz) == 0);
  }
}
