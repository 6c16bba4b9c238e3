#include <moefold/ops/activation.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/activation") {
  TEST_CASE_TEMPLATE("swiglu equals its definition for every width", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 16, 31, 144})
      for (const extent_t rows : {0, 1, 3}) {
        const auto gate = random_tensor<T>({rows, width}, 1, 3.0), up = random_tensor<T>({rows, width}, 2), p = random_tensor<T>({rows}, 3);
        tensor<T> out({rows, width}), expected({rows, width});
        swiglu_forward(e, gate, up, p, out.view());
        for (std::size_t i = 0; i < out.size(); ++i) {
          const double g = double(gate[i]);
          expected[i] = T(g / (1 + std::exp(-g)) * double(up[i]) * double(p[i / std::size_t(width)]));
        }
        CHECK(test::largest_error(out, expected) < test::rounding<T>);
      }
  }
  TEST_CASE("all three gradients equal finite differences") {
    host_context context;
    const host_exec e(context);
    auto gate = random_tensor<double>({3, 35}, 1), up = random_tensor<double>({3, 35}, 2), p = random_tensor<double>({3}, 3);
    const auto dout = random_tensor<double>({3, 35}, 4);
    tensor<double> out({3, 35}), dgate({3, 35}), dup({3, 35}), dp({3});
    const auto loss = [&] {
      swiglu_forward(e, gate, up, p, out.view());
      return test::dot(out, dout);
    };
    swiglu_backward(e, dout, gate, up, p, dgate.view(), dup, dp);
    CHECK(test::largest_error(dgate, test::numerical_gradient(gate, loss)) < 1e-9);
    CHECK(test::largest_error(dup, test::numerical_gradient(up, loss)) < 1e-9);
    CHECK(test::largest_error(dp, test::numerical_gradient(p, loss)) < 1e-9);
    swiglu_backward(e, dout, gate, up, p, gate.view(), up, p);  // in place
    CHECK(test::largest_error(gate, dgate) == 0);
    CHECK(test::largest_error(up, dup) == 0);
    CHECK(test::largest_error(p, dp) == 0);
  }
  TEST_CASE("gates beyond the range of exp are finite") {
    host_context context;
    const host_exec e(context);
    tensor<float> gate({1, 2}), one({1, 2}, 1.f), p({1}, 1.f), out({1, 2}), dgate({1, 2}), dup({1, 2}), dp({1});
    gate[0] = -1e4f, gate[1] = 1e4f;
    swiglu_forward(e, gate, one, p, out.view());
    CHECK(out[0] == 0.f);
    CHECK(out[1] == 1e4f);
    swiglu_backward(e, one, gate, one, p, dgate.view(), dup, dp);
    CHECK(dgate[0] == 0.f);
    CHECK(dgate[1] == 1.f);
  }
}
