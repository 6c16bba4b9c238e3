#include <moefold/schedule/zero_bubble.hpp>

#include "suite.hpp"

#include <moefold/schedule/draw.hpp>
#include <moefold/schedule/one_f_one_b.hpp>

using namespace moefold;

TEST_SUITE("schedule/zero_bubble") {
  static_assert(check_schedule<zero_bubble>(4, 8) && check_schedule<zero_bubble_h1>(4, 8) && check_schedule<zero_bubble_h1>(4, 2));
  TEST_CASE_TEMPLATE("it runs, keeps and stands still as its formulas say, for any number of stages and micro-batches", Schedule,
                     zero_bubble, zero_bubble_h1) {
    moefold::testing::check_schedule_everywhere<Schedule>();
  }
  TEST_CASE("one keeps on every stage what 1F1B keeps, the other what its first stage keeps, and each waits less than the one before") {
    const step_times times{2, 4, 2};
    for (int pp = 1; pp <= 8; ++pp)
      for (int m = 1; m <= 16; ++m)
        for (int s = 0; s < pp; ++s) {
          CHECK(zero_bubble::live(s, pp, m) == one_f_one_b::live(s, pp, m));
          CHECK(zero_bubble_h1::live(s, pp, m) == one_f_one_b::live(0, pp, m));
          CHECK(zero_bubble::idle(pp, m, times) == one_f_one_b::idle(pp, m, times) - 2 * (pp - 1));
          if (m >= pp) CHECK(zero_bubble_h1::idle(pp, m, times) == one_f_one_b::idle(pp, m, times) - 4 * (pp - 1));
        }
  }
  TEST_CASE("it looks like the picture in its header") {
    CHECK(draw<zero_bubble>(3, 4) ==
          "stage 0 | F0 F1 F2 .  .  I0 W0 F3 I1 W1 .  I2 W2 .  I3 W3\n"
          "stage 1 | .  F0 F1 .  I0 W0 F2 I1 W1 F3 I2 W2 .  I3 W3\n"
          "stage 2 | .  .  F0 I0 W0 F1 I1 W1 F2 I2 W2 F3 I3 W3\n");
  }
}
