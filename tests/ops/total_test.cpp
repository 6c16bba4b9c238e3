#include <moefold/ops/total.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"

using namespace moefold;

TEST_SUITE("ops/total") {
  TEST_CASE_TEMPLATE("the sum is added to what is there, and nothing adds nothing", T, float, double, bf16) {
    host_context context;
    const host_exec e(context);
    tensor<double> total({1}, 5.0);
    double expected = 5.0;
    for (const extent_t n : {0, 1, 31, 70}) {
      const auto x = test::random_tensor<T>({n}, std::uint64_t(n) + 1);
      for (const T value : x) expected += double(accumulate_t<T>(value));
      sum_to(e, x.view(), total.view());
      CHECK(total[0] == doctest::Approx(expected).epsilon(1e-13));
    }
  }
  TEST_CASE("a sum of many small numbers is made in double") {
    host_context context;
    const host_exec e(context);
    const tensor<float> x({1 << 20}, 0.1f);
    tensor<double> total({1}, 0.0);
    sum_to(e, x.view(), total.view());
    CHECK(total[0] == doctest::Approx(double(0.1f) * (1 << 20)).epsilon(1e-13));
    tensor<double> two({2}, 0.0);
    CHECK_THROWS_AS(sum_to(e, x.view(), two.view()), error);
  }
}
