#pragma once
// 1F1B with the backward in two: gradients of the input (I) go to the stage before at once, gradients of the weights (W) are made while nobody waits.
// Qi et al. 2023, "Zero Bubble Pipeline Parallelism", arXiv 2401.10241.
//
//   stage 0 | F0 F1 F2 .  .  I0 W0 F3 I1 W1 .  I2 W2 .  I3 W3       zero_bubble: every stage keeps what 1F1B keeps
//   stage 1 | .  F0 F1 .  I0 W0 F2 I1 W1 F3 I2 W2 .  I3 W3          a stage stands still for (stages - 1) (forward + input)
//   stage 2 | .  .  F0 I0 W0 F1 I1 W1 F2 I2 W2 F3 I3 W3
//
// zero_bubble_h1 (the paper's ZB-H1) delays the weight gradients of stage s by s micro-batches: every stage keeps as many activations as the first one
// of 1F1B, and stands still for (stages - 1) (forward + input - weight) only, where weight gradients take no longer than a forward or than the input's.
#include <moefold/schedule/step.hpp>

namespace moefold {

namespace detail {

template <bool Delay>
struct split_backward {
  static constexpr bool trains = true;
  static constexpr int chunks = 1;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    step_list list(stage, stages);
    const int ahead = std::min(stages - 1 - stage, micro_batches), late = Delay ? stage : 0;
    for (int m = 0; m < ahead; ++m) list.forward(m);
    int weights = 0;
    for (int m = 0; m < micro_batches; ++m) {
      if (ahead + m < micro_batches) list.forward(ahead + m);
      list.backward(m, 0, step_kind::backward_input);
      if (m >= late) list.backward_weight(weights++);
    }
    while (weights < micro_batches) list.backward_weight(weights++);
    return list.take();
  }

  static constexpr int live(int stage, int stages, int micro_batches) { return std::min(micro_batches, Delay ? stages : stages - stage); }
  static constexpr int idle(int stages, int micro_batches, const step_times& t) {
    if (micro_batches == 0) return 0;
    const int filled = Delay ? (std::min(stages, micro_batches) - 1) * t.weight : 0;
    return (stages - 1) * (t.forward + t.backward - t.weight) - filled;
  }
};

}  // namespace detail

struct zero_bubble : detail::split_backward<false> {
  static constexpr const char* name = "zero_bubble";
};
struct zero_bubble_h1 : detail::split_backward<true> {
  static constexpr const char* name = "zero_bubble_h1";
};

static_assert(timed_schedule<zero_bubble> && timed_schedule<zero_bubble_h1>);

}  // namespace moefold
