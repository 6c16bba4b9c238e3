#include <moefold/ops/grouped_gemm.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/grouped_gemm") {
  TEST_CASE_TEMPLATE("each group of rows meets its own weight", T, float, double) {
    host_context context;
    const host_exec e(context);
    const std::int64_t offsets[] = {0, 3, 3, 10, 11};
    const auto x = random_tensor<T>({11, 5}, 1), w = random_tensor<T>({4, 7, 5}, 2);
    tensor<T> y({11, 7}), expected({11, 7});
    grouped_gemm_nt(e, x, w, offsets, y.view());
    for (extent_t g = 0; g < 4; ++g)
      for (extent_t r = offsets[g]; r < offsets[g + 1]; ++r)
        for (extent_t n = 0; n < 7; ++n) {
          double sum = 0;
          for (extent_t k = 0; k < 5; ++k) sum += double(x.view()(r, k)) * double(w.view()(g, n, k));
          expected.view()(r, n) = T(sum);
        }
    CHECK(test::largest_error(y, expected) < test::rounding<T>);
  }
  TEST_CASE("both gradients equal finite differences, an empty group's gradient stays what it was") {
    host_context context;
    const host_exec e(context);
    const std::int64_t offsets[] = {0, 2, 2, 5};
    auto x = random_tensor<double>({5, 3}, 1), w = random_tensor<double>({3, 4, 3}, 2);
    const auto dy = random_tensor<double>({5, 4}, 3);
    tensor<double> y({5, 4}), dx({5, 3}), dw({3, 4, 3}, 7.0);
    const auto loss = [&] {
      grouped_gemm_nt(e, x, w, offsets, y.view());
      return test::dot(y, dy);
    };
    grouped_gemm_nn(e, dy, w, offsets, dx.view());
    grouped_gemm_tn(e, dy, x, offsets, dw.view());
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-9);
    auto slope = test::numerical_gradient(w, loss);
    for (double& s : slope) s += 7.0;
    CHECK(test::largest_error(dw, slope) < 1e-9);
    for (int i = 12; i < 24; ++i) CHECK(dw[std::size_t(i)] == 7.0);
    const auto once = test::copy_of(dx.view());
    grouped_gemm_nn(e, dy, w, offsets, dx.view(), 1.0);
    for (std::size_t i = 0; i < dx.size(); ++i) CHECK(dx[i] == doctest::Approx(2 * once[i]));
  }
  TEST_CASE("no rows at all is a legal batch, bad offsets are not") {
    host_context context;
    const host_exec e(context);
    const std::int64_t none[] = {0, 0, 0}, short_of[] = {0, 1, 1}, descending[] = {0, 3, 2};
    tensor<float> x({0, 3}), w({2, 4, 3}, 1.f), y({0, 4}), two({2, 3}), out({2, 4});
    CHECK_NOTHROW(grouped_gemm_nt(e, x, w, none, y.view()));
    CHECK_THROWS_AS(grouped_gemm_nt(e, two, w, short_of, out.view()), error);
    CHECK_THROWS_AS(grouped_gemm_nt(e, two, w, descending, out.view()), error);
  }
}
