#pragma once
// All forwards, then all backwards: the simplest schedule. As long as 1F1B, but a stage keeps the activations of every micro-batch of the step.
// Huang et al. 2019, arXiv 1811.06965.
//
//   stage 0 | F0 F1 F2 F3 .  .  .  .  B0 B1 B2 B3
//   stage 1 | .  F0 F1 F2 F3 .  .  B0 B1 B2 B3
//   stage 2 | .  .  F0 F1 F2 F3 B0 B1 B2 B3
#include <moefold/schedule/step.hpp>

namespace moefold {

struct gpipe {
  static constexpr const char* name = "gpipe";
  static constexpr bool trains = true;
  static constexpr int chunks = 1;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    step_list list(stage, stages);
    for (int m = 0; m < micro_batches; ++m) list.forward(m);
    for (int m = 0; m < micro_batches; ++m) list.backward(m);
    return list.take();
  }

  static constexpr int live(int, int, int micro_batches) { return micro_batches; }
  static constexpr int idle(int stages, int micro_batches, const step_times& t) {
    return micro_batches > 0 ? (stages - 1) * (t.forward + t.backward) : 0;
  }
};

static_assert(timed_schedule<gpipe>);

}  // namespace moefold
