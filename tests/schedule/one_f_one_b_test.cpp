#include <moefold/schedule/one_f_one_b.hpp>

#include <doctest/doctest.h>
#include <moefold/schedule/check.hpp>

using namespace moefold;

TEST_SUITE("schedule/one_f_one_b") {
  static_assert(check_schedule<one_f_one_b>(1, 1));
  static_assert(check_schedule<one_f_one_b>(2, 4));
  static_assert(check_schedule<one_f_one_b>(4, 8));
  static_assert(check_schedule<one_f_one_b>(4, 2));
  static_assert(check_schedule<one_f_one_b>(8, 1));

  TEST_CASE("it runs for any number of stages and micro-batches, also none and fewer than stages") {
    for (int stages = 1; stages <= 9; ++stages)
      for (int m = 0; m <= 20; ++m) CHECK(check_schedule<one_f_one_b>(stages, m));
  }
  TEST_CASE("a single stage alternates and sends nothing") {
    CHECK(describe(one_f_one_b::steps(0, 1, 2)) == "forward 0, backward 0, forward 1, backward 1");
  }
  TEST_CASE("the first of two stages is one micro-batch ahead") {
    CHECK(describe(one_f_one_b::steps(0, 2, 2)) ==
          "forward 0, send_output 0, forward 1, send_output 1, receive_gradient 0, backward 0, receive_gradient 1, backward 1");
    CHECK(describe(one_f_one_b::steps(1, 2, 1)) == "receive_input 0, forward 0, backward 0, send_gradient 0");
  }
  TEST_CASE("live micro-batches depend on the stage, not on how many there are") {
    CHECK(one_f_one_b::live(0, 4, 100) == 4);
    CHECK(one_f_one_b::live(3, 4, 100) == 1);
    CHECK(one_f_one_b::live(0, 4, 2) == 2);
  }
  TEST_CASE("the promised number of live micro-batches is reached, not only respected") {
    for (int stages = 1; stages <= 6; ++stages)
      for (int m = 1; m <= 8; ++m)
        for (int s = 0; s < stages; ++s) {
          int live = 0, most = 0;
          for (const schedule_step& step : one_f_one_b::steps(s, stages, m)) {
            live += step.kind == step_kind::forward;
            live -= step.kind == step_kind::backward;
            most = std::max(most, live);
          }
          CHECK(most == one_f_one_b::live(s, stages, m));
        }
  }
}
