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
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
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
  TEST_CASE("a loss that is not a number among the first ones is not remembered either") {
    spike_watch watch;
    for (int step = 0; step < 20; ++step) CHECK_FALSE(watch.add(step, step % 2 && step < 14 ? std::nan("") : 2.0));
    CHECK(watch.add(20, 3.0)->expected == 2.0);
  }
  TEST_CASE("no alarm when the noise grows slowly or the curve rises a little, but one when it jumps on top of that") {
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
      spike_watch watch;
      const random_stream normal(seed, "rise");
      for (int step = 0; step < 600; ++step)
        CHECK_FALSE(watch.add(step, 2 + 2e-4 * step + (0.01 + 1e-4 * step) * normal.normal(std::uint64_t(step))));
      CHECK(watch.add(600, 4));
    }
  }
  TEST_CASE("a watch made from the memory of another goes on as that one, wherever the run was cut") {
    for (int cut = 0; cut < 300; cut += 7) {
      spike_watch whole, part;
      for (int step = 0; step < 300; ++step) {
        if (step == cut) part = spike_watch({}, spike_memory(part.memory()));
        const double loss =
            step == 50 ? std::nan("") : noisy_curve(3, step, 0.03) + (step >= 120 && step < 140 ? 2 : 0) + (step >= 200 ? 3 : 0);
        const auto a = whole.add(step, loss), b = part.add(step, loss);
        REQUIRE(a.has_value() == b.has_value());
        if (a) CHECK((a->expected == b->expected && a->lasted == b->lasted));
      }
      CHECK(whole.memory() == part.memory());
    }
    static_assert(std::is_trivially_copyable_v<spike_memory> && std::is_aggregate_v<spike_memory>);
  }
  TEST_CASE("a memory that cannot be one is refused") {
    spike_memory memory;
    memory.seen = 3, memory.losses[2] = std::nan("");
    CHECK_THROWS_AS(spike_watch({}, memory), error);
    memory.losses[2] = 2, memory.losses[3] = std::nan("");  // not remembered
    CHECK_NOTHROW(spike_watch({}, memory));
    memory.seen = -1;
    CHECK_THROWS_AS(spike_watch({}, memory), error);
    CHECK_THROWS_AS(spike_watch({}, spike_memory{.lasting = -1}), error);
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
    CHECK(
        describe(loss_spike{49, std::nan(""), 2, std::nan(""), 0}).starts_with("loss spike at step 50: nan, expected 2.0000; if it stays"));
    CHECK(describe(loss_spike{49, 5, 2, HUGE_VAL, 0}).starts_with("loss spike at step 50: 5.0000, expected 2.0000; if it stays"));
    CHECK(describe(loss_spike{49, 5, 2, 1e300, 0}).starts_with("loss spike at step 50: 5.0000, expected 2.0000 (1000000000 usual dev"));
    CHECK(describe(loss_spike{72, 9, 2.01, 300, 32, true}) ==
          "the loss has not come back from its spike: step 73, 9.0000 for 32 steps, expected 2.0100; it is taken as usual from here on");
    CHECK(describe(loss_spike{121, 2.5, 2.4, 1, 2}) == "loss spike over at step 122, after 2 steps: 2.5000, expected 2.4000");
  }
}
