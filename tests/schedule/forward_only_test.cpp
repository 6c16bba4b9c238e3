#include <moefold/schedule/forward_only.hpp>

#include <doctest/doctest.h>
#include <moefold/schedule/check.hpp>

using namespace moefold;

TEST_SUITE("schedule/forward_only") {
  static_assert(check_schedule<forward_only>(1, 3));
  static_assert(check_schedule<forward_only>(4, 2));

  TEST_CASE("it runs for any number of stages and micro-batches") {
    for (int stages = 1; stages <= 9; ++stages)
      for (int m = 0; m <= 12; ++m) CHECK(check_schedule<forward_only>(stages, m));
  }
  TEST_CASE("over chunks it runs as well, and keeps two where a single stage hands over") {
    for (int stages = 1; stages <= 5; ++stages)
      for (int m = 0; m <= 7; ++m) {
        CHECK(check_schedule<forwards_over<2>>(stages, m));
        CHECK(check_schedule<forwards_over<4>>(stages, m));
      }
    CHECK(forwards_over<2>::live(0, 1, 3) == 2);
    CHECK(forwards_over<2>::live(0, 2, 3) == 1);
  }
  TEST_CASE("no step of it is a backward and it keeps one micro-batch at a time") {
    for (const schedule_step& step : forward_only::steps(1, 3, 5)) CHECK(int(step.kind) <= int(step_kind::send_output));
    CHECK(forward_only::live(0, 3, 5) == 1);
    CHECK(describe(forward_only::steps(1, 3, 1)) == "receive_input 0, forward 0, send_output 0");
  }
}
