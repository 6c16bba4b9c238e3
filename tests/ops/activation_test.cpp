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
  TEST_CASE_TEMPLATE("gelu equals x times the normal distribution function, times p, for every width", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 16, 31, 144})
      for (const extent_t rows : {0, 1, 3}) {
        const auto up = random_tensor<T>({rows, width}, 2, 3.0), p = random_tensor<T>({rows}, 3);
        tensor<T> out({rows, width});
        gelu_forward(e, up, p, out.view());
        double most = 0;  // relative to x p: far below 0 the distribution function is what rounding leaves of 1 - 1
        for (std::size_t i = 0; i < out.size(); ++i) {
          const long double u = up[i], scaled = u * (long double)(p[i / std::size_t(width)]);
          const long double expected = scaled * (1 + std::erf(u / std::sqrt(2.0L))) / 2;
          most = std::max(most, double(std::abs((expected - (long double)(out[i])) / scaled)));
        }
        CHECK(most < 4 * double(std::numeric_limits<T>::epsilon()));
      }
  }
  TEST_CASE("both gradients of gelu equal finite differences") {
    host_context context;
    const host_exec e(context);
    auto up = random_tensor<double>({3, 35}, 2, 2.0), p = random_tensor<double>({3}, 3);
    const auto dout = random_tensor<double>({3, 35}, 4);
    tensor<double> out({3, 35}), dup({3, 35}), dp({3});
    const auto loss = [&] {
      gelu_forward(e, up, p, out.view());
      return test::dot(out, dout);
    };
    gelu_backward(e, dout, up, p, dup.view(), dp);
    CHECK(test::largest_error(dup, test::numerical_gradient(up, loss)) < 1e-9);
    CHECK(test::largest_error(dp, test::numerical_gradient(p, loss)) < 1e-9);
    tensor<double> dp_in_place({3});
    gelu_backward(e, dout, up, p, up.view(), dp_in_place);  // in place
    CHECK(test::largest_error(up, dup) == 0);
    CHECK(test::largest_error(dp_in_place, dp) == 0);
  }
  TEST_CASE("gelu far out is 0 or x, with slope 0 or 1") {
    host_context context;
    const host_exec e(context);
    tensor<float> up({1, 4}), one({1, 4}, 1.f), p({1}, 1.f), out({1, 4}), dup({1, 4}), dp({1});
    up[0] = -1e4f, up[1] = 1e4f, up[2] = -1e30f, up[3] = 1e30f;  // 1e30 squared is beyond float
    gelu_forward(e, up, p, out.view());
    gelu_backward(e, one, up, p, dup.view(), dp);
    for (std::size_t i : {0u, 2u}) CHECK((out[i] == 0.f && dup[i] == 0.f));
    for (std::size_t i : {1u, 3u}) CHECK((out[i] == up[i] && dup[i] == 1.f));
  }
  TEST_CASE("gelu of shapes that do not fit is refused") {
    host_context context;
    const host_exec e(context);
    tensor<float> up({2, 3}), p({1}), dp({2});
    CHECK_THROWS_WITH_AS(gelu_forward(e, up, p, up.view()),
                         "moefold: gelu_forward needs 2 elements in p to fit its other arguments, given 1", error);
    CHECK_THROWS_WITH_AS(gelu_backward(e, up, up, dp, up.view(), p),
                         "moefold: gelu_backward needs 2 elements in dp to fit its other arguments, given 1", error);
  }
  TEST_CASE("bf16 is worked on in fp32 and rounded once, in both directions; p and its gradient are fp32") {
    host_context context;
    const host_exec e(context);
    const auto gate = test::random_tensor<bf16>({7, 45}, 1), up = test::random_tensor<bf16>({7, 45}, 2),
               dout = test::random_tensor<bf16>({7, 45}, 3);
    const auto fgate = test::converted<float>(gate), fup = test::converted<float>(up), fdout = test::converted<float>(dout);
    const auto p = test::random_tensor<float>({7}, 4);
    tensor<bf16> y({7, 45}), dgate({7, 45}), dup({7, 45});
    tensor<float> fy({7, 45}), fdgate({7, 45}), fdup({7, 45}), dp({7}), fdp({7});
    swiglu_forward<bf16>(e, gate, up, p, y.view());
    swiglu_forward<float>(e, fgate, fup, p, fy.view());
    CHECK(test::not_rounded_once(y, fy) == 0);
    swiglu_backward<bf16>(e, dout, gate, up, p, dgate.view(), dup.view(), dp.view());
    swiglu_backward<float>(e, fdout, fgate, fup, p, fdgate.view(), fdup.view(), fdp.view());
    CHECK(test::not_rounded_once(dgate, fdgate) == 0);
    CHECK(test::not_rounded_once(dup, fdup) == 0);
    for (std::size_t i = 0; i < dp.size(); ++i) CHECK(dp[i] == fdp[i]);
    gelu_forward<bf16>(e, up, p, y.view());
    gelu_forward<float>(e, fup, p, fy.view());
    CHECK(test::not_rounded_once(y, fy) == 0);
    gelu_backward<bf16>(e, dout, up, p, dup.view(), dp.view());
    gelu_backward<float>(e, fdout, fup, p, fdup.view(), fdp.view());
    CHECK(test::not_rounded_once(dup, fdup) == 0);
  }
}
