#include <moefold/ops/softmax.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/softmax") {
  TEST_CASE_TEMPLATE("rows sum to 1 and equal the definition, far from zero too", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t n : {1, 2, 8, 33, 257})
      for (const double shift : {0.0, 500.0}) {
        auto x = random_tensor<T>({3, n}, 1, 4.0);
        for (T& v : x) v += T(shift);
        tensor<T> y({3, n}), expected({3, n});
        softmax_forward(e, x, y.view());
        for (extent_t r = 0; r < 3; ++r) {
          double sum = 0;
          for (extent_t c = 0; c < n; ++c) sum += std::exp(double(x.view()(r, c)) - shift);
          for (extent_t c = 0; c < n; ++c) expected.view()(r, c) = T(std::exp(double(x.view()(r, c)) - shift) / sum);
        }
        CHECK(test::largest_error(y, expected) < test::rounding<T>);
      }
    tensor<T> none({0, 4});
    CHECK_NOTHROW(softmax_forward(e, none, none.view()));
  }
  TEST_CASE("-inf has probability exactly 0") {
    host_context context;
    const host_exec e(context);
    tensor<float> x({1, 3}, 1.f);
    x[1] = -std::numeric_limits<float>::infinity();
    softmax_forward(e, x, x.view());
    CHECK(x[1] == 0.f);
    CHECK(x[0] == 0.5f);
  }
  TEST_CASE("backward equals finite differences") {
    host_context context;
    const host_exec e(context);
    auto x = random_tensor<double>({3, 19}, 1);
    const auto dy = random_tensor<double>({3, 19}, 2);
    tensor<double> y({3, 19}), dx({3, 19});
    const auto loss = [&] {
      softmax_forward(e, x, y.view());
      return test::dot(y, dy);
    };
    loss();
    softmax_backward(e, dy, y, dx.view());
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-9);
  }
  TEST_CASE("bf16 is worked on in fp32 and rounded once, in both directions") {
    host_context context;
    const host_exec e(context);
    const auto x = test::random_tensor<bf16>({7, 45}, 1), dy = test::random_tensor<bf16>({7, 45}, 2);
    tensor<bf16> y({7, 45}), dx({7, 45});
    tensor<float> fy({7, 45}), fdx({7, 45});
    softmax_forward<bf16>(e, x, y.view());
    softmax_forward<float>(e, test::converted<float>(x), fy.view());
    CHECK(test::not_rounded_once(y, fy) == 0);
    softmax_backward<bf16>(e, dy, y, dx.view());
    softmax_backward<float>(e, test::converted<float>(dy), test::converted<float>(y), fdx.view());
    CHECK(test::not_rounded_once(dx, fdx) == 0);
  }
}
