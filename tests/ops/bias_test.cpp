#include <moefold/ops/bias.hpp>

#include <moefold/ops/gemm.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/bias") {
  TEST_CASE_TEMPLATE("every row is the bias, in any leading extents, and the product adds to it", T, float, double, bf16) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 7, 64}) {
      const auto bias = random_tensor<T>({width}, 1), x = random_tensor<T>({6, 5}, 2), w = random_tensor<T>({width, 5}, 3);
      tensor<T> y({2, 3, width}), sum({6, width});
      bias_forward(e, bias, y.view());
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < y.size(); ++i) wrong += y[i] != bias[i % std::size_t(width)];
      CHECK(wrong == 0);
      gemm_nt(e, x, w, y.view(), T(1));
      for (extent_t r = 0; r < 6; ++r)
        for (extent_t c = 0; c < width; ++c) {
          double s = double(bias[std::size_t(c)]);
          for (extent_t i = 0; i < 5; ++i) s += double(x.view()(r, i)) * double(w.view()(c, i));
          sum.view()(r, c) = T(s);
        }
      CHECK(test::largest_error(y, sum) < (std::is_same_v<T, bf16> ? 0.004 : 8 * test::rounding<T>));  // rounded once: half of 2^-7
    }
    tensor<T> none({0, 3});
    CHECK_NOTHROW(bias_forward(e, random_tensor<T>({3}, 1), none.view()));
  }
  TEST_CASE_TEMPLATE("the bias's gradient is the sum over all rows, added to what is there", T, float, double, bf16) {
    using G = std::conditional_t<std::is_same_v<T, double>, double, float>;
    host_context context;
    const host_exec e(context);
    for (const extent_t rows : {0, 1, 50}) {
      const auto dy = random_tensor<T>({rows, 9}, 1);
      tensor<G> dbias({9}, G(2)), sum({9}, G(2));
      bias_backward(e, dy.view(), dbias.view());
      for (extent_t r = 0; r < rows; ++r)
        for (extent_t c = 0; c < 9; ++c) sum[std::size_t(c)] += G(dy.view()(r, c));
      CHECK(test::largest_error(dbias, sum) < 1e-6);
    }
  }
  TEST_CASE("a bias or a gradient of another width is refused") {
    host_context context;
    const host_exec e(context);
    tensor<float> y({2, 3}, 0.f), four({4}, 0.f);
    CHECK_THROWS_WITH_AS(bias_forward(e, four, y.view()),
                         "moefold: bias_forward needs 3 elements in bias to fit its other arguments, given 4", error);
    CHECK_THROWS_WITH_AS(bias_backward(e, y.view(), four.view()),
                         "moefold: bias_backward needs 3 elements in dbias to fit its other arguments, given 4", error);
  }
}
