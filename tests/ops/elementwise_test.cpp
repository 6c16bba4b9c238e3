#include <moefold/ops/elementwise.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/elementwise") {
  TEST_CASE_TEMPLATE("each verb does to every element what its name says", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t n : {0, 1, 17, 100}) {
      const auto a = random_tensor<T>({n}, 1), b = random_tensor<T>({n}, 2);
      tensor<T> sum({n}), total = random_tensor<T>({n}, 1), same({n});
      tensor<double> wide({n});
      add(e, a, b, sum.view());
      accumulate(e, b.view(), total.view());
      copy(e, sum, same.view());
      copy(e, std::span<const T>(same.view()), same.view().span());
      scale(e, same.view(), T(2));
      cast(e, a.view(), wide.view());
      for (std::size_t i = 0; i < std::size_t(n); ++i) {
        CHECK(sum[i] == a[i] + b[i]);
        CHECK(total[i] == sum[i]);
        CHECK(same[i] == 2 * sum[i]);
        CHECK(wide[i] == double(a[i]));
      }
      fill(e, sum.view(), 3);
      for (const T x : sum) CHECK(x == T(3));
    }
  }
  TEST_CASE("the sum of squares is made in double: ones beyond 2^24 are counted") {
    host_context context;
    tensor<float> big({(1 << 24) + 7}, 1.f);
    CHECK(sum_of_squares(host_exec(context), big.view()) == (1 << 24) + 7);
    tensor<double> kept({1});
    sum_of_squares(host_exec(context), big.view(), kept.view());
    CHECK(kept[0] == (1 << 24) + 7);
  }
  TEST_CASE("different sizes are refused") {
    host_context context;
    tensor<float> three({3}), four({4});
    CHECK_THROWS_AS(accumulate(host_exec(context), three.view(), four.view()), error);
    CHECK_THROWS_AS(copy(host_exec(context), three, four.view()), error);
  }
}
