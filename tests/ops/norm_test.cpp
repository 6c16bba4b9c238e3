#include <moefold/ops/norm.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/norm") {
  TEST_CASE_TEMPLATE("every row has root mean square 1 before the gain", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 7, 64, 129})
      for (const extent_t rows : {0, 1, 5}) {
        const auto x = random_tensor<T>({rows, width}, 1, 3.0), gain = random_tensor<T>({width}, 2);
        tensor<T> y({rows, width}), rstd({rows}), expected({rows, width});
        rms_norm_forward(e, x, gain, 1e-5, y.view(), rstd);
        for (extent_t r = 0; r < rows; ++r) {
          double squares = 0;
          for (extent_t c = 0; c < width; ++c) squares += double(x.view()(r, c)) * double(x.view()(r, c));
          const double root = std::sqrt(squares / double(width) + 1e-5);
          for (extent_t c = 0; c < width; ++c) expected.view()(r, c) = T(double(x.view()(r, c)) / root * double(gain[std::size_t(c)]));
          CHECK(double(rstd[std::size_t(r)]) == doctest::Approx(1 / root).epsilon(1e-6));
        }
        CHECK(test::largest_error(y, expected) < test::rounding<T>);
      }
  }
  TEST_CASE("dx is assigned and dgain accumulated, both equal finite differences") {
    host_context context;
    const host_exec e(context);
    auto x = random_tensor<double>({4, 37}, 1), gain = random_tensor<double>({37}, 2);
    const auto dy = random_tensor<double>({4, 37}, 3);
    tensor<double> y({4, 37}), rstd({4}), dx({4, 37}, 99.0), dgain({37}, 2.0);
    const auto loss = [&] {
      rms_norm_forward(e, x, gain, 1e-5, y.view(), rstd);
      return test::dot(y, dy);
    };
    loss();
    rms_norm_backward(e, dy, x, gain, rstd, dx.view(), dgain.view());
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-8);
    auto slope = test::numerical_gradient(gain, loss);
    for (double& s : slope) s += 2.0;
    CHECK(test::largest_error(dgain, slope) < 1e-8);
  }
  TEST_CASE("the gradient may take the memory of dy") {
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<float>({3, 40}, 1), gain = random_tensor<float>({40}, 2);
    auto dy = random_tensor<float>({3, 40}, 3);
    tensor<float> y({3, 40}), rstd({3}), dx({3, 40}), dgain({40}, 0.f), in_place({40}, 0.f);
    rms_norm_forward(e, x, gain, 1e-5, y.view(), rstd);
    rms_norm_backward(e, dy, x, gain, rstd, dx.view(), dgain.view());
    rms_norm_backward(e, dy, x, gain, rstd, dy.view(), in_place.view());
    CHECK(test::largest_error(dy, dx) == 0);
    CHECK(test::largest_error(in_place, dgain) == 0);
  }
  TEST_CASE("bf16 is worked on in fp32 and rounded once; the gain's gradient stays fp32") {
    host_context context;
    const host_exec e(context);
    const auto x = test::random_tensor<bf16>({7, 45}, 1), dy = test::random_tensor<bf16>({7, 45}, 2),
               gain = test::random_tensor<bf16>({45}, 3);
    tensor<bf16> y({7, 45}), dx({7, 45});
    tensor<float> fy({7, 45}), fdx({7, 45}), rstd({7}), frstd({7}), dgain({45}, 1.0f), fdgain({45}, 1.0f);
    const auto fx = test::converted<float>(x), fgain = test::converted<float>(gain);
    rms_norm_forward<bf16>(e, x, gain, 1e-5, y.view(), rstd.view());
    rms_norm_forward<float>(e, fx, fgain, 1e-5, fy.view(), frstd.view());
    CHECK(test::not_rounded_once(y, fy) == 0);
    rms_norm_backward<bf16>(e, dy, x, gain, rstd, dx.view(), dgain.view());
    rms_norm_backward<float>(e, test::converted<float>(dy), fx, fgain, frstd, fdx.view(), fdgain.view());
    CHECK(test::not_rounded_once(dx, fdx) == 0);
    for (std::size_t i = 0; i < dgain.size(); ++i) CHECK(dgain[i] == fdgain[i]);
  }
}
