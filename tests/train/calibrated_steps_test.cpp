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
    const std::vector<compared_step> steps = compare_steps(laptop, 2, 1);
    CHECK(steps.size() == 3);
    for (const compared_step& s : steps) {
      CHECK(s.measured > 0);
      CHECK(s.predicted.step_seconds > 0);
    }
    CHECK(table_of(steps).text().find("tp 2, cp 1") != std::string::npos);
  }
}
