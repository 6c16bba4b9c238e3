#pragma once
// One forward, one backward: a stage starts just enough micro-batches to keep the stages after it busy, then alternates, so it keeps the
// activations of at most (stages - stage) micro-batches however many there are. Narayanan et al. 2021, arXiv 2104.04473, figure 4.
//
//   stage 0 | F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3       warm-up | one forward, one backward | cool-down
//   stage 1 | .  F0 F1 .  B0 F2 B1 F3 B2 .  B3
//   stage 2 | .  .  F0 B0 F1 B1 F2 B2 F3 B3
#include <moefold/schedule/step.hpp>

namespace moefold {

struct one_f_one_b {
  static constexpr const char* name = "one_f_one_b";
  static constexpr bool trains = true;
  static constexpr int chunks = 1;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    step_list list(stage, stages);
    const int ahead = warm_up(stage, stages, micro_batches);
    for (int m = 0; m < ahead; ++m) list.forward(m);
    for (int m = ahead; m < micro_batches; ++m) list.forward(m), list.backward(m - ahead);
    for (int m = micro_batches - ahead; m < micro_batches; ++m) list.backward(m);
    return list.take();
  }

  static constexpr int live(int stage, int stages, int micro_batches) { return std::min(stages - stage, micro_batches); }
  static constexpr int idle(int stages, int micro_batches, const step_times& t) {
    return micro_batches > 0 ? (stages - 1) * (t.forward + t.backward) : 0;
  }

 private:
  static constexpr int warm_up(int stage, int stages, int micro_batches) { return std::min(stages - 1 - stage, micro_batches); }
};

static_assert(timed_schedule<one_f_one_b>);

}  // namespace moefold
