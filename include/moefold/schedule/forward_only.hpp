#pragma once
// Forward passes alone, for evaluation: micro-batches stream through the stages and nothing is kept for a backward pass.
//
//   stage 0 | F0 F1 F2 F3
//   stage 1 | .  F0 F1 F2 F3
#include <moefold/schedule/step.hpp>

namespace moefold {

/// A step's forwards over stages of `Chunks` chunks each.
template <int Chunks>
struct forwards_over {
  static constexpr const char* name = "forward_only";
  static constexpr bool trains = false;
  static constexpr int chunks = Chunks;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    return steps_over(Chunks, stage, stages, micro_batches);
  }
  static constexpr std::vector<schedule_step> steps_over(int count, int stage, int stages, int micro_batches) {
    step_list list(stage, stages, count);
    for (int first = 0; first < micro_batches; first += stages)  // groups, as interleaved<v> makes them
      for (int c = 0; c < count; ++c)
        for (int m = first; m < std::min(first + stages, micro_batches); ++m) list.forward(m, c);
    return list.take();
  }

  /// A single stage hands over from chunk to chunk: two are alive then.
  static constexpr int live(int, int stages, int micro_batches) { return micro_batches == 0 ? 0 : stages == 1 && Chunks > 1 ? 2 : 1; }
};
using forward_only = forwards_over<1>;

static_assert(pipeline_schedule<forward_only>);

}  // namespace moefold
