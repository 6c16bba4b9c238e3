#include <moefold/train/calibrated_steps.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("train/calibrated_steps") {
  TEST_CASE("every mapping that is compared is one the engine starts with") {
    for (const extent_t ranks : {1, 2, 4, 8})
      for (const plan_mapping& m : detail::calibrated_mappings(ranks)) {
        CAPTURE(describe(m));
        CHECK(m.gpus() == ranks);
        CHECK(refusal(detail::calibrated_job(ranks), m) == "");
      }
  }
  TEST_CASE("two ranks train as three mappings, each with a prediction beside it") {
    plan_job job = detail::calibrated_job(2);
    job.model.layers = 2, job.model.hidden = 16, job.model.head_dim = 4, job.model.ffn = 16;
    job.sequence = 32, job.global_batch = 4;
    const std::vector<compared_step> steps = compare_steps(laptop, job, detail::calibrated_mappings(2), 1);
    CHECK(steps.size() == 3);
    for (const compared_step& s : steps) {
      CHECK(s.measured > 0);
      CHECK(s.predicted.step_seconds > 0);
    }
    CHECK(table_of(steps).text().find("tp 2, cp 1") != std::string::npos);
  }
}
