#include <moefold/optim/rate.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace moefold;
using doctest::Approx;

TEST_SUITE("optim/rate") {
  TEST_CASE_TEMPLATE("a rate rises from peak / warmup to peak and ends at its floor", Rate, cosine_rate, linear_rate) {
    const Rate rate{.peak = 2e-3, .floor = 1e-4, .warmup = 10, .total = 110};
    CHECK(rate(0) == Approx(2e-4));
    CHECK(rate(4) == Approx(1e-3));
    CHECK(rate(9) == 2e-3);
    CHECK(rate(10) == 2e-3);
    CHECK(rate(60) == Approx((2e-3 + 1e-4) / 2));
    CHECK(rate(110) == 1e-4);
    CHECK(rate(100000) == 1e-4);
  }
  TEST_CASE_TEMPLATE("a rate never rises after warm-up nor leaves [floor, peak]", Rate, cosine_rate, linear_rate) {
    const Rate rate{.peak = 3e-4, .floor = 3e-5, .warmup = 7, .total = 61};
    for (std::int64_t step = 7; step < 80; ++step) {
      CHECK(rate(step + 1) <= rate(step));
      CHECK(rate(step) >= 3e-5);
      CHECK(rate(step) <= 3e-4);
    }
  }
  TEST_CASE_TEMPLATE("runs without warm-up, or of nothing but warm-up, are finite everywhere", Rate, cosine_rate, linear_rate) {
    CHECK(Rate{.peak = 1, .floor = 0, .warmup = 0, .total = 4}(0) == 1);
    CHECK(Rate{.peak = 1, .floor = 0.5, .warmup = 4, .total = 4}(3) == 1);
    CHECK(Rate{.peak = 1, .floor = 0.5, .warmup = 4, .total = 4}(4) == 0.5);
    CHECK(Rate{.peak = 1, .floor = 0.5, .warmup = 0, .total = 0}(0) == 0.5);
  }
  TEST_CASE("cosine falls slower than the straight line first and is below it later") {
    const cosine_rate cosine{.peak = 1, .floor = 0, .warmup = 0, .total = 100};
    const linear_rate linear{.peak = 1, .floor = 0, .warmup = 0, .total = 100};
    CHECK(cosine(25) > linear(25));
    CHECK(cosine(75) < linear(75));
  }
  TEST_CASE("numbers that contradict each other are refused") {
    CHECK_NOTHROW(check_rate(cosine_rate{}));
    CHECK_THROWS_AS(check_rate(cosine_rate{.peak = 1e-4, .floor = 1e-3}), config_error);
    CHECK_THROWS_AS(check_rate(linear_rate{.warmup = 300, .total = 200}), config_error);
    CHECK_THROWS_AS(check_rate(linear_rate{.peak = std::numeric_limits<double>::quiet_NaN()}), config_error);
    CHECK_THROWS_AS(check_rate(linear_rate{.peak = std::numeric_limits<double>::infinity()}), config_error);
  }
}
