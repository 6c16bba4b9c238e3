#include <moefold/plan/goodput.hpp>

#include <doctest/doctest.h>
#include <moefold/model/mixtral.hpp>

using namespace moefold;

namespace {

plan_job job_of() {
  plan_job job;
  job.model = mixtral_8x22b;
  job.gpus = 128;
  job.sequence = 4096;
  job.global_batch = 256;
  return job;
}
prediction step_of(double seconds) {
  prediction p;
  p.mapping = {2, 1, 8, 8, 1, 8, 2, 7, 1, {}};
  p.step_seconds = seconds;
  p.mfu = 0.493, p.tflops = 488;
  return p;
}
cluster_spec cluster_with(double mtbf, double storage) {
  cluster_spec c;
  c.mtbf = mtbf, c.storage = storage;
  return c;
}

}  // namespace

TEST_SUITE("plan/goodput") {
  TEST_CASE("the closed form is within 2 points of a played run, for one failure in 20, 50 and 200 steps") {
    double worst = 0;
    for (const double steps : {20.0, 50.0, 200.0})
      for (const double restart : {0.0, 2.0, 10.0})
        for (const auto& [block, durable] : {std::pair(0.5, 0.5), std::pair(0.05, 2.5), std::pair(0.0, 1.0)})
          for (const double interval : {3.0, 8.0}) {
            const save_cycle c{interval, block, durable, restart, steps};
            const double played = simulated_ettr(c, 1, 20'000, 7);
            CAPTURE(steps);
            CAPTURE(restart);
            CAPTURE(durable);
            CAPTURE(interval);
            CHECK(std::abs(ettr_of(c) - played) < 0.02);
            worst = std::max(worst, std::abs(ettr_of(c) - played));
          }
    MESSAGE("largest difference of closed form and played run: ", 100 * worst, " points");
  }
  TEST_CASE("one seed plays one run") {
    const save_cycle c{5, 0.5, 0.5, 2, 50};
    CHECK(simulated_ettr(c, 1, 500, 3) == simulated_ettr(c, 1, 500, 3));
    CHECK(simulated_ettr(c, 1, 500, 3) != simulated_ettr(c, 1, 500, 4));
  }
  TEST_CASE("where saves block, the formula is Daly's, and for rare failures the waste is Young's") {
    const save_cycle c{40, 2, 2, 10, 500};
    CHECK(ettr_of(c) == doctest::Approx(40 / (500 * std::exp(10.0 / 500) * std::expm1(42.0 / 500))).epsilon(1e-12));
    const save_cycle rare{2000, 2, 2, 10, 1e6};
    CHECK(1 - ettr_of(rare) == doctest::Approx(2.0 / 2000 + (2000.0 / 2 + 10) / 1e6).epsilon(0.01));
  }
  TEST_CASE("a save of Mixtral 8x22B holds masters and two moments: 12 bytes a parameter, one 128th on each GPU") {
    const plan_job job = job_of();
    CHECK(save_bytes_of(job) == 12.0 * double(count_parameters(job.model)));
    const double each = largest_save_of(job, step_of(1).mapping);
    CHECK(each >= save_bytes_of(job) / 128);
    CHECK(each <= 1.1 * save_bytes_of(job) / 128);  // the stages' ends hold the embeddings
  }
  TEST_CASE("the best interval beats every other one, and its shares add up to all of the time") {
    for (const double mtbf : {3e5, 3e6, 3e8})
      for (const double storage : {0.1e9, 1e9, 5e9})
        for (const bool async : {false, true}) {
          recovery_options options;
          options.async = async;
          const goodput g = goodput_of(job_of(), cluster_with(mtbf, storage), step_of(8), options);
          CAPTURE(mtbf);
          CAPTURE(storage);
          CAPTURE(async);
          REQUIRE(g.known);
          CHECK(g.interval_seconds + g.blocked_seconds >= g.save_seconds);
          const save_cycle best{g.interval_seconds, g.blocked_seconds, g.save_seconds, g.restart_seconds, g.mtti_seconds};
          CHECK(g.ettr == ettr_of(best));
          for (extent_t steps = 1; steps < 4 * g.interval_steps + 10; ++steps) {
            save_cycle other = best;
            other.interval = 8 * double(steps);
            if (other.interval + other.block >= other.durable) CHECK(ettr_of(other) <= g.ettr);
          }
          CHECK(g.ettr + g.saving + g.lost + g.restarting == doctest::Approx(1).epsilon(1e-9));
          CHECK(g.mfu == doctest::Approx(0.493 * g.ettr));
        }
  }
  TEST_CASE("the best interval of blocking saves is Young's where failures are rare") {
    recovery_options options;
    options.async = false;
    const goodput g = goodput_of(job_of(), cluster_with(3e9, 1e9), step_of(1), options);
    CHECK(g.interval_seconds == doctest::Approx(g.young_seconds).epsilon(0.02));
  }
  TEST_CASE("fewer failures, faster storage and saves in the background never lower ETTR") {
    const auto ettr = [](double mtbf, double storage, bool async) {
      recovery_options options;
      options.async = async;
      return goodput_of(job_of(), cluster_with(mtbf, storage), step_of(8), options).ettr;
    };
    for (const double mtbf : {1e6, 1e7, 1e8})
      for (const double storage : {0.2e9, 1e9, 4e9}) {
        CHECK(ettr(2 * mtbf, storage, true) >= ettr(mtbf, storage, true));
        CHECK(ettr(mtbf, 2 * storage, true) >= ettr(mtbf, storage, true));
        CHECK(ettr(mtbf, storage, true) >= ettr(mtbf, storage, false));
      }
  }
  TEST_CASE("a cluster that says nothing of failures gets no goodput") {
    CHECK(!goodput_of(job_of(), cluster_with(0, 1e9), step_of(8)).known);
    CHECK(!goodput_of(job_of(), cluster_with(1e7, 0), step_of(8)).known);
    CHECK(goodput_of(job_of(), cluster_with(0, 1e9), step_of(8)).save_bytes > 1e12);
  }
}
