#include <moefold/train/spike.hpp>

#include <doctest/doctest.h>

#include <moefold/core/rng.hpp>

#include <vector>

using namespace moefold;

namespace {

double noisy_curve(std::uint64_t seed, int step, double noise) {
  const random_stream normal(seed, "loss");
  return 1.8 + 3.8 * std::exp(-step / 60.0) + noise * normal.normal(std::uint64_t(step));
}

}  // namespace

TEST_SUITE("train/spike") {
  TEST_CASE("noisy falling curves raise no alarm, whatever their noise") {
    for (std::uint64_t seed = 0; seed < 200; ++seed)
      for (const double noise : {0.0, 0.01, 0.05, 0.15}) {
        spike_watch watch;
        for (int step = 0; step < 400; ++step) {
          CAPTURE(seed);
          CAPTURE(step);
          CHECK_FALSE(watch.add(step, noisy_curve(seed, step, noise)));
        }
      }
  }
  TEST_CASE("a jump is reported where it begins and where it ends, once each, with what was expected") {
    for (std::uint64_t seed = 0; seed < 100; ++seed)
      for (const int length : {1, 5, 20}) {
        spike_watch watch;
        std::vector<loss_spike> reports;
        for (int step = 0; step < 300; ++step) {
          const bool jump = step >= 150 && step < 150 + length;
          const auto report = watch.add(step, noisy_curve(seed, step, 0.03) + (jump ? 1.5 : 0));
          if (report) reports.push_back(*report);
        }
        REQUIRE(reports.size() == 2);
        CHECK(reports[0].step == 150);
        CHECK(reports[0].lasted == 0);
        CHECK(std::abs(reports[0].expected - noisy_curve(seed, 140, 0)) < 0.15);
        CHECK(reports[0].deviations > 8);
        CHECK(reports[1].step == 150 + length);
        CHECK(reports[1].lasted == length);
      }
  }
  TEST_CASE("a loss that is not a number is a spike and is not remembered") {
    spike_watch watch;
    for (int step = 0; step < 50; ++step) watch.add(step, 2 + 0.01 * (step % 3));
    for (const double bad : {std::nan(""), HUGE_VAL}) {
      const auto report = watch.add(50, bad);
      REQUIRE(report);
      CHECK(report->lasted == 0);
      CHECK(std::abs(report->expected - 2.01) < 0.011);
      CHECK(watch.add(51, 2.01));  // it is over
      CHECK_FALSE(watch.add(52, 2.0));
    }
  }
  TEST_CASE("a loss that stays high becomes the usual one") {
    spike_watch watch;
    int reports = 0;
    for (int step = 0; step < 300; ++step) reports += watch.add(step, (step < 100 ? 2.0 : 5.0) + 0.01 * (step % 5)).has_value();
    CHECK(reports == 2);  // it begins, and it is over because it is usual now
    CHECK(watch.add(300, 9.0));
  }
  TEST_CASE("nothing is said before enough is known, and a rule that cannot work is refused") {
    spike_watch watch(spike_rule{.least = 20});
    for (int step = 0; step < 20; ++step) CHECK_FALSE(watch.add(step, step == 10 ? 100.0 : 2.0));
    CHECK(watch.add(20, 100));
    CHECK_THROWS_AS(spike_watch(spike_rule{.deviations = 0}), config_error);
    CHECK_THROWS_AS(spike_watch(spike_rule{.rise = -1}), config_error);
    CHECK_THROWS_AS(spike_watch(spike_rule{.least = 33}), config_error);
    CHECK_THROWS_AS(spike_watch(spike_rule{.least = 1}), config_error);
  }
  TEST_CASE("a report is a sentence that says what, how far and what to do") {
    CHECK(describe(loss_spike{119, 4.81321, 2.43104, 21.2, 0}) ==
          "loss spike at step 120: 4.8132, expected 2.4310 (21 usual deviations above); if it stays, go back to a state before it with a "
          "lower "
          "learning rate, or leave its data out");
    CHECK(describe(loss_spike{121, 2.5, 2.4, 1, 2}) == "loss spike over at step 122, after 2 steps: 2.5000, expected 2.4000");
  }
}
