#include <moefold/schedule/gpipe.hpp>

#include "suite.hpp"

#include <moefold/schedule/draw.hpp>

using namespace moefold;

TEST_SUITE("schedule/gpipe") {
  static_assert(check_schedule<gpipe>(4, 8) && check_schedule<gpipe>(4, 3));
  TEST_CASE("it runs, keeps every micro-batch and stands still as its formula says, for any number of stages and micro-batches") {
    moefold::testing::check_schedule_everywhere<gpipe>();
    CHECK(gpipe::live(3, 4, 9) == 9);
    CHECK(gpipe::idle(4, 9, {1, 2, 1}) == 9);
  }
  TEST_CASE("it looks like the picture in its header") {
    CHECK(draw<gpipe>(3, 4) ==
          "stage 0 | F0 F1 F2 F3 .  .  .  .  B0 B1 B2 B3\n"
          "stage 1 | .  F0 F1 F2 F3 .  .  B0 B1 B2 B3\n"
          "stage 2 | .  .  F0 F1 F2 F3 B0 B1 B2 B3\n");
  }
}
