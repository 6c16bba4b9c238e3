#include <moefold/ops/exp.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace moefold;

TEST_SUITE("ops/exp") {
  TEST_CASE_TEMPLATE("exp_of is within 2 ulp over its whole range", T, float, double) {
    const double low = std::is_same_v<T, float> ? -86.5 : -707.6, high = std::is_same_v<T, float> ? 88.72 : 709.78;
    double worst = 0;
    for (int i = 0; i <= 200000; ++i) {
      const T x = T(low + (high - low) * i / 200000);
      const long double exact = std::exp((long double)x);
      worst = std::max(worst, double(std::abs((long double)exp_of(x) - exact) / exact));
    }
    CHECK(worst < 2 * double(std::numeric_limits<T>::epsilon()));
  }
  TEST_CASE_TEMPLATE("the ends of the range are exact", T, float, double) {
    const T inf = std::numeric_limits<T>::infinity();
    CHECK(exp_of(T(0)) == T(1));
    CHECK(exp_of(-inf) == T(0));
    CHECK(exp_of(T(-1e30)) == T(0));
    CHECK(exp_of(inf) == inf);
    CHECK(exp_of(T(1e30)) == inf);
    CHECK(std::isnan(exp_of(std::numeric_limits<T>::quiet_NaN())));
    CHECK(logistic(T(0)) == T(0.5));
    CHECK(logistic(T(1000)) == T(1));
    CHECK(logistic(T(-1000)) == T(0));
  }
}
