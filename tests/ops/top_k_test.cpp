#include <moefold/ops/top_k.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <numeric>
#include <vector>

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/top_k") {
  TEST_CASE_TEMPLATE("the choice equals a stable sort's, with many ties", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 2, 8, 65})
      for (extent_t k = 1; k <= std::min(width, extent_t{8}); ++k) {
        auto scores = random_tensor<T>({40, width}, 1);
        for (T& s : scores) s = std::round(s * 2);  // few distinct values
        tensor<std::int32_t> index({40, k});
        tensor<T> value({40, k});
        top_k(e, scores, k, index, value.view());
        for (extent_t t = 0; t < 40; ++t) {
          std::vector<std::int32_t> order(static_cast<std::size_t>(width));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores.view()(t, a) > scores.view()(t, b); });
          for (extent_t j = 0; j < k; ++j) {
            CHECK(index.view()(t, j) == order[std::size_t(j)]);
            CHECK(value.view()(t, j) == scores.view()(t, order[std::size_t(j)]));
          }
        }
      }
  }
  TEST_CASE("NaN comes last, after -inf") {
    host_context context;
    const host_exec e(context);
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    float scores[] = {nan, -inf, nan, 1.f};
    std::int32_t index[4];
    float value[4];
    top_k(e, view<const float>(scores, {1, 4}), 4, view<std::int32_t>(index, {1, 4}), view<float>(value, {1, 4}));
    CHECK(index[0] == 3);
    CHECK(index[1] == 1);
    CHECK(index[2] == 0);
    CHECK(index[3] == 2);
  }
  TEST_CASE("backward gives the chosen columns their gradient and the others zero") {
    host_context context;
    const host_exec e(context);
    auto scores = random_tensor<double>({6, 9}, 1);
    const auto dvalue = random_tensor<double>({6, 3}, 2);
    tensor<std::int32_t> index({6, 3});
    tensor<double> value({6, 3}), dscores({6, 9}, 5.0);
    const auto loss = [&] {
      top_k(e, scores, 3, index, value.view());
      return test::dot(value, dvalue);
    };
    loss();
    top_k_backward(e, dvalue, index.view(), dscores.view());
    CHECK(test::largest_error(dscores, test::numerical_gradient(scores, loss, 1e-5)) < 1e-9);
  }
  TEST_CASE("more choices than columns are refused") {
    host_context context;
    tensor<float> scores({1, 2}), value({1, 3});
    tensor<std::int32_t> index({1, 3});
    CHECK_THROWS_AS(top_k(host_exec(context), scores, 3, index, value.view()), error);
  }
  TEST_CASE("columns have one order: by score, then by column, NaN last, no column behind all") {
    const double nan = std::numeric_limits<double>::quiet_NaN(), none = -std::numeric_limits<double>::infinity();
    const detail::ranked<double> sorted[] = {{2, 5}, {1, 0}, {1, 7}, {0, 3}, {-0.0, 4}, {none, 1}, {nan, 2}, {nan, 6}, {9, -1}};
    for (std::size_t a = 0; a < std::size(sorted); ++a)
      for (std::size_t b = 0; b < std::size(sorted); ++b) CHECK(sorted[a].before(sorted[b]) == (a < b));
  }
}
