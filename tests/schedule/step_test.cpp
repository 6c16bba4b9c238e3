#include <moefold/schedule/step.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("schedule/step") {
  TEST_CASE("a step reads as its kind and its micro-batch") {
    CHECK(describe(schedule_step{step_kind::receive_gradient, 7}) == "receive_gradient 7");
    CHECK(describe(std::vector<schedule_step>{}) == "");
  }
  TEST_CASE("a micro-batch is alive in a chunk from its forward to the step that ends its backward") {
    using enum step_kind;
    const std::vector<schedule_step> steps{
        {forward, 0},     {forward, 0, 1}, {backward_input, 0, 1}, {forward, 1}, {forward, 1, 1}, {backward_weight, 0, 1},
        {backward, 1, 1}, {backward, 0},   {forward, 2},           {backward, 1}};
    CHECK(most_alive(steps, 0) == 2);
    CHECK(most_alive(steps, 1) == 2);
    CHECK(most_alive(steps, 2) == 0);
  }
  TEST_CASE("steps are equal when kind and micro-batch are") {
    CHECK(schedule_step{step_kind::forward, 1} == schedule_step{step_kind::forward, 1});
    CHECK(schedule_step{step_kind::forward, 1} != schedule_step{step_kind::forward, 2});
    CHECK(schedule_step{step_kind::forward, 1} != schedule_step{step_kind::backward, 1});
  }
}
