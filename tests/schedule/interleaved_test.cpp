#include <moefold/schedule/interleaved.hpp>

#include "suite.hpp"

#include <moefold/schedule/draw.hpp>
#include <moefold/schedule/one_f_one_b.hpp>

using namespace moefold;

TEST_SUITE("schedule/interleaved") {
  static_assert(check_schedule<interleaved<2>>(4, 8) && check_schedule<interleaved<3>>(2, 5) && check_schedule<interleaved<2>>(1, 3));
  TEST_CASE_TEMPLATE("it runs, keeps and stands still as its formulas say, for any number of stages and micro-batches", Schedule,
                     interleaved<1>, interleaved<2>, interleaved<3>, interleaved<4>, interleaved<7>) {
    moefold::testing::check_schedule_everywhere<Schedule>();
  }
  TEST_CASE("where the stages divide the micro-batches it keeps and waits as the literature says") {
    for (int pp = 2; pp <= 8; ++pp)
      for (int groups = 1; groups <= 3; ++groups)
        for (int s = 0; s < pp; ++s) {
          const int m = groups * pp;
          CHECK(interleaved<4>::live(s, pp, m) == std::min(4 * m, 2 * (pp - s - 1) + 3 * pp + 1));
          CHECK(interleaved<4>::idle(pp, m, {1, 2, 1}) == 3 * (pp - 1));  // of a chunk's slots: a quarter of a stage's
        }
  }
  TEST_CASE("on the last stage so many micro-batches are alive in the last chunk as the formula says: one, where groups are alike") {
    for (int chunks = 1; chunks <= 5; ++chunks)
      for (int pp = 1; pp <= 8; ++pp)
        for (int m = 1; m <= 40; ++m) {
          CAPTURE(chunks);
          CAPTURE(pp);
          CAPTURE(m);
          const int alive = most_alive(interleaved_over::steps(chunks, pp - 1, pp, m), chunks - 1);
          CHECK(interleaved_over::live_heads(chunks, pp, m) == alive);
        }
  }
  TEST_CASE("one chunk is 1F1B") {
    for (int s = 0; s < 4; ++s) CHECK(interleaved<1>::steps(s, 4, 7) == one_f_one_b::steps(s, 4, 7));
  }
  TEST_CASE("the first stage passes a group of micro-batches through its chunks one after the other") {
    std::string order;
    for (const schedule_step& step : interleaved<2>::steps(0, 2, 4))
      if (step.kind == step_kind::forward || step.kind == step_kind::backward)
        order += sentence(letter_of(step.kind), step.micro_batch, ':', step.chunk, ' ');
    CHECK(order == "F0:0 F1:0 F0:1 F1:1 F2:0 B0:1 F3:0 B1:1 F2:1 B0:0 F3:1 B1:0 B2:1 B3:1 B2:0 B3:0 ");
  }
  TEST_CASE("on a single stage the chunks hand over without messages") {
    CHECK(describe(interleaved<2>::steps(0, 1, 1)) == "forward 0, forward 0 of chunk 1, backward 0 of chunk 1, backward 0");
  }
  TEST_CASE("it looks like the picture in its header") {
    CHECK(draw<interleaved<2>>(2, 4) ==
          "stage 0 | F0   F1   F0:1 F1:1 F2   B0:1 F3   B1:1 F2:1 B0   F3:1 B1   .    B2:1 .    B3:1 B2   B3\n"
          "stage 1 | .    F0   F1   F0:1 B0:1 F1:1 B1:1 F2   B0   F3   B1   F2:1 B2:1 F3:1 B3:1 B2   B3\n");
  }
}
