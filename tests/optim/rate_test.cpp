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

  TEST_CASE("warm-up, stable, decay: peak until the last steps, then straight to the floor") {
    const stable_decay_rate rate{.peak = 1e-2, .floor = 1e-3, .warmup = 4, .total = 100, .decay = 20};
    CHECK(rate(0) == Approx(2.5e-3));
    CHECK(rate(3) == 1e-2);
    for (int step = 4; step <= 80; ++step) CHECK(rate(step) == 1e-2);
    CHECK(rate(90) == Approx(5.5e-3));
    CHECK(rate(100) == 1e-3);
    CHECK(rate(1000) == 1e-3);
    CHECK(stable_decay_rate{.peak = 1, .floor = 0, .warmup = 10, .total = 10, .decay = 0}(9) == 1);
  }
  TEST_CASE("inverse square root: half the peak at four times the warm-up, never below its floor") {
    const inverse_sqrt_rate rate{.peak = 1e-2, .floor = 1e-3, .warmup = 16};
    CHECK(rate(15) == 1e-2);
    CHECK(rate(16) == 1e-2);
    CHECK(rate(64) == Approx(5e-3));
    CHECK(rate(10000000) == 1e-3);
    CHECK(inverse_sqrt_rate{.peak = 1, .floor = 0, .warmup = 0}(0) == 1);
  }
  TEST_CASE("a constant rate is its peak after warm-up") {
    CHECK(constant_rate{.peak = 2, .warmup = 4}(1) == 1);
    CHECK(constant_rate{.peak = 2, .warmup = 4}(4) == 2);
    CHECK(constant_rate{.peak = 2, .warmup = 0}(99999) == 2);
  }
  TEST_CASE("a plan is the rate of its shape, is chosen by name, and can be printed") {
    rate_plan plan{.peak = 3e-3, .floor = 1e-4, .warmup = 8, .total = 90, .decay = 30};
    for (std::int64_t step = 0; step < 120; ++step) {
      plan.shape = rate_shape_of("cosine");
      CHECK(plan(step) == cosine_rate{3e-3, 1e-4, 8, 90}(step));
      plan.shape = rate_shape_of("linear");
      CHECK(plan(step) == linear_rate{3e-3, 1e-4, 8, 90}(step));
      plan.shape = rate_shape_of("stable_decay");
      CHECK(plan(step) == stable_decay_rate{3e-3, 1e-4, 8, 90, 30}(step));
      plan.shape = rate_shape_of("inverse_sqrt");
      CHECK(plan(step) == inverse_sqrt_rate{3e-3, 1e-4, 8, 90}(step));
      plan.shape = rate_shape_of("constant");
      CHECK(plan(step) == constant_rate{3e-3, 1e-4, 8, 90}(step));
    }
    CHECK_THROWS_WITH_AS(
        rate_shape_of("cosin"),
        "moefold: there is no learning-rate schedule 'cosin'; choose one of cosine, linear, stable_decay, inverse_sqrt, constant",
        config_error);
    CHECK(describe(rate_plan{.peak = 0.5, .floor = 0.25, .warmup = 2, .total = 9}) == "cosine, 2 steps of warm-up to 0.5, 0.25 at step 9");
    CHECK(describe(rate_plan{rate_shape::stable_decay, 0.5, 0.25, 2, 9, 3}) ==
          "stable_decay, 2 steps of warm-up to 0.5, then to 0.25 over the last 3 of 9");
    CHECK(describe(rate_plan{rate_shape::inverse_sqrt, 0.5, 0, 2, 9}) == "inverse_sqrt, 2 steps of warm-up to 0.5");
    CHECK(describe(rate_plan{rate_shape::inverse_sqrt, 0.5, 0.25, 2, 9}) == "inverse_sqrt, 2 steps of warm-up to 0.5, not below 0.25");
    CHECK(describe(rate_plan{rate_shape::constant, 0.5, 0.25, 2, 9}) == "constant, 2 steps of warm-up to 0.5");
  }
  TEST_CASE("a plan whose warm-up and decay do not fit is refused") {
    CHECK_NOTHROW(check(rate_plan{}));
    CHECK_NOTHROW(check(rate_plan{.decay = 1000}));  // of another shape
    CHECK_THROWS_AS(check(rate_plan{.shape = rate_shape::stable_decay, .warmup = 150, .decay = 60}), config_error);
    CHECK_THROWS_AS(check(rate_plan{.shape = rate_shape::stable_decay, .decay = -1}), config_error);
    CHECK_THROWS_AS(check(rate_plan{.floor = 1}), config_error);
  }

  TEST_CASE("the tails of stable_decay meet peak and floor at their ends and differ between, one_minus_sqrt falling fastest first") {
    const auto at = [](rate_tail tail, std::int64_t step) {
      return stable_decay_rate{.peak = 1, .floor = 0.5, .warmup = 4, .total = 104, .decay = 64, .tail = tail}(step);
    };
    for (const rate_tail tail : {rate_tail::linear, rate_tail::cosine, rate_tail::one_minus_sqrt}) {
      CAPTURE(name_of(tail));
      CHECK(at(tail, 3) == 1);
      CHECK(at(tail, 39) == 1);
      CHECK(at(tail, 40) == 1);
      CHECK(at(tail, 104) == 0.5);
      CHECK(at(tail, 5000) == 0.5);
      for (std::int64_t step = 40; step < 104; ++step) CHECK(at(tail, step + 1) < at(tail, step));
      CHECK(rate_tail_of(name_of(tail)) == tail);
    }
    CHECK(at(rate_tail::linear, 56) == 0.875);
    CHECK(at(rate_tail::one_minus_sqrt, 56) == 0.75);  // a quarter of the way: half fallen
    CHECK(at(rate_tail::cosine, 72) == Approx(0.75));
    CHECK(at(rate_tail::cosine, 56) > 0.875);
    CHECK_THROWS_WITH_AS(rate_tail_of("sqrt"),
                         "moefold: there is no learning-rate tail 'sqrt'; choose one of linear, cosine, one_minus_sqrt", config_error);
    rate_plan plan{rate_shape::stable_decay, 0.5, 0.25, 2, 9, 4, rate_tail::one_minus_sqrt};
    CHECK(plan(6) == stable_decay_rate{0.5, 0.25, 2, 9, 4, rate_tail::one_minus_sqrt}(6));
    CHECK(describe(plan) == "stable_decay, 2 steps of warm-up to 0.5, then to 0.25 over the last 4 of 9, one_minus_sqrt");
  }
  TEST_CASE("every plan rises to its peak, never rises after, and takes no jump but the warm-up's steps") {
    for (const char* name : rate_names)
      for (const std::int64_t warmup : {0, 1, 7, 50})
        for (const rate_tail tail : {rate_tail::linear, rate_tail::cosine, rate_tail::one_minus_sqrt}) {
          const rate_plan plan{rate_shape_of(name), 3e-4, 3e-5, warmup, 1000, 400, tail};
          CAPTURE(describe(plan));
          CHECK_NOTHROW(check(plan));
          for (std::int64_t step = 0; step < warmup; ++step) CHECK(plan(step) == Approx(3e-4 * double(step + 1) / double(warmup)));
          if (warmup > 0) CHECK(plan(warmup - 1) == 3e-4);
          CHECK(plan(warmup) == 3e-4);
          for (std::int64_t step = warmup; step < 1100; ++step) {
            CHECK(plan(step + 1) <= plan(step));
            CHECK(plan(step + 1) >= 3e-5);
            if (warmup > 1) CHECK(plan(step) - plan(step + 1) < 0.08 * 3e-4);  // the first step of a fall like sqrt(1/400) is its largest
          }
          if (name_of(plan.shape) != std::string("constant") && name_of(plan.shape) != std::string("inverse_sqrt"))
            CHECK(plan(1000) == 3e-5);
        }
  }
  TEST_CASE("a rate on its own is checked as its plan is") {
    CHECK_NOTHROW(check_rate(stable_decay_rate{.warmup = 150, .total = 200, .decay = 50}));
    CHECK_THROWS_WITH_AS(
        check_rate(stable_decay_rate{.warmup = 150, .total = 200, .decay = 51}),
        "moefold: warm-up and decay fit into the run (given warmup 150, decay 51 of 200 steps); shorten one of them or train "
        "longer",
        config_error);
    CHECK_THROWS_AS(check_rate(stable_decay_rate{.decay = std::numeric_limits<std::int64_t>::max()}), config_error);
    CHECK_THROWS_AS(check_rate(stable_decay_rate{.decay = -1}), config_error);
    CHECK_THROWS_AS(check_rate(stable_decay_rate{.floor = 1}), config_error);
    CHECK_THROWS_AS(check_rate(rate_plan{.shape = rate_shape::stable_decay, .decay = 190}), config_error);
    CHECK_THROWS_AS(check_rate(inverse_sqrt_rate{.warmup = -1}), config_error);
    CHECK_THROWS_AS(check_rate(constant_rate{.peak = 0}), config_error);
  }
}
