#include <moefold/schedule/step.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("schedule/step") {
  TEST_CASE("a step reads as its kind and its micro-batch") {
    CHECK(describe(schedule_step{step_kind::receive_gradient, 7}) == "receive_gradient 7");
    CHECK(describe(std::vector<schedule_step>{}) == "");
  }
  TEST_CASE("steps are equal when kind and micro-batch are") {
    CHECK(schedule_step{step_kind::forward, 1} == schedule_step{step_kind::forward, 1});
    CHECK(schedule_step{step_kind::forward, 1} != schedule_step{step_kind::forward, 2});
    CHECK(schedule_step{step_kind::forward, 1} != schedule_step{step_kind::backward, 1});
  }
}
