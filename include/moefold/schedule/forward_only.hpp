#pragma once
// Forward passes alone, for evaluation: micro-batches stream through the stages and nothing is kept for a backward pass.
//
//   stage 0 | F0 F1 F2 F3
//   stage 1 | .  F0 F1 F2 F3
#include <moefold/schedule/step.hpp>

namespace moefold {

struct forward_only {
  static constexpr const char* name = "forward_only";
  static constexpr bool trains = false;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    using enum step_kind;
    std::vector<schedule_step> list;
    for (int m = 0; m < micro_batches; ++m) {
      if (stage > 0) list.push_back({receive_input, m});
      list.push_back({forward, m});
      if (stage < stages - 1) list.push_back({send_output, m});
    }
    return list;
  }

  static constexpr int live(int, int, int micro_batches) { return micro_batches > 0 ? 1 : 0; }
};

static_assert(pipeline_schedule<forward_only>);

}  // namespace moefold
