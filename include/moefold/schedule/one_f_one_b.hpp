#pragma once
// One forward, one backward: a stage starts just enough micro-batches to keep the stages after it busy, then alternates, so it keeps the
// activations of at most (stages - stage) micro-batches however many there are. Narayanan et al. 2021, arXiv 2104.04473, figure 4.
//
//   stage 0 | F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3       warm-up | one forward, one backward | cool-down
//   stage 1 | .  F0 F1 .  B0 F2 B1 F3 B2 .  B3
//   stage 2 | .  .  F0 B0 F1 B1 F2 B2 F3 B3
#include <moefold/schedule/step.hpp>

#include <algorithm>

namespace moefold {

struct one_f_one_b {
  static constexpr const char* name = "one_f_one_b";
  static constexpr bool trains = true;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    using enum step_kind;
    const bool first = stage == 0, last = stage == stages - 1;
    std::vector<schedule_step> list;
    const auto forward_of = [&](int m) {
      if (!first) list.push_back({receive_input, m});
      list.push_back({forward, m});
      if (!last) list.push_back({send_output, m});
    };
    const auto backward_of = [&](int m) {
      if (!last) list.push_back({receive_gradient, m});
      list.push_back({backward, m});
      if (!first) list.push_back({send_gradient, m});
    };
    const int ahead = warm_up(stage, stages, micro_batches);
    for (int m = 0; m < ahead; ++m) forward_of(m);
    for (int m = ahead; m < micro_batches; ++m) {
      forward_of(m);
      backward_of(m - ahead);
    }
    for (int m = micro_batches - ahead; m < micro_batches; ++m) backward_of(m);
    return list;
  }

  static constexpr int live(int stage, int stages, int micro_batches) { return std::min(stages - stage, micro_batches); }

 private:
  static constexpr int warm_up(int stage, int stages, int micro_batches) { return std::min(stages - 1 - stage, micro_batches); }
};

static_assert(pipeline_schedule<one_f_one_b>);

}  // namespace moefold
