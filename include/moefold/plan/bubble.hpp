#pragma once
// How long a pipeline takes with given times of its chunks, and how much of that its stages stand still. Where all chunks take the same time the schedules'
// own formulas say it; anything else is played, step by step, by the player that proves schedules (schedule/check.hpp).
//
//   stage 0 | F0 F1 F2 .  .  B0 F3 B1 .  B2 .  B3 |     seconds: until the last stage ends
//   stage 1 | .  F0 F1 .  B0 F2 B1 F3 B2 .  B3 .  |     bubble: seconds minus the work of the busiest stage
#include <moefold/plan/mapping.hpp>
#include <moefold/schedule/check.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/one_f_one_b.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <vector>

namespace moefold {

/// Seconds that one chunk of layers takes with one micro-batch. weight: the part of backward that makes gradients of weights.
using chunk_times = times_of_steps<double>;

namespace detail {

/// Interleaving over a number of chunks that only a mapping knows.
struct interleaved_chunks {
  static constexpr const char* name = "interleaved";
  static constexpr bool trains = true;
  int chunks = 1;
  constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) const {
    return interleaved_over::steps(chunks, stage, stages, micro_batches);
  }
  constexpr int live(int stage, int stages, int micro_batches) const {
    return interleaved_over::live(chunks, stage, stages, micro_batches);
  }
  constexpr int idle(int stages, int micro_batches, const step_times& t) const {
    return interleaved_over::idle(chunks, stages, micro_batches, t);
  }
};

}  // namespace detail

/// Calls f(schedule) with the one that a mapping of vpp chunks per stage runs; returns what f returns.
template <class F>
constexpr decltype(auto) with_schedule(plan_schedule schedule, extent_t vpp, F&& f) {
  switch (schedule) {
    case plan_schedule::zero_bubble: return f(zero_bubble{});
    case plan_schedule::zero_bubble_h1: return f(zero_bubble_h1{});
    default: return vpp == 1 ? f(one_f_one_b{}) : f(detail::interleaved_chunks{int(vpp)});
  }
}

/// Seconds that every stage stands still in a step where all chunks take the same time, by the schedules' formulas, which are linear in the times. Exact,
/// with one exception: of zero_bubble_h1 they need weight <= forward and weight <= backward - weight, else it is a lower bound; play it then.
constexpr double bubble_seconds(plan_schedule schedule, extent_t stages, extent_t vpp, extent_t micro_batches, const chunk_times& t) {
  return with_schedule(schedule, vpp, [&](const auto& s) {
    const auto slots = [&](const step_times& unit) { return double(s.idle(int(stages), int(micro_batches), unit)); };
    const double backward = slots({0, 1, 0});
    return slots({1, 0, 0}) * t.forward + backward * t.backward + (slots({0, 1, 1}) - backward) * t.weight;
  });
}

/// The times of all chunks of a pipeline.
struct pipeline_times {
  int stages = 1, chunks = 1;
  std::vector<chunk_times> chunk{};  // [stages, chunks]
  double message = 0;                // seconds from a send until the neighbour has what was sent; the sender goes on

  const chunk_times& of(int stage, int c) const { return chunk[std::size_t(stage * chunks + c)]; }
};

/// What was played. Seconds.
struct pipeline_run {
  double seconds = 0;
  double bubble = 0;           // seconds - the largest of busy
  std::vector<double> busy{};  // by stage
  std::vector<double> end{};   // by stage: when it has done its last step
};

/// Every step of the step, with its times. O(micro-batches * stages * chunks). Throws config_error where the times are not those of stages * chunks.
inline std::vector<played_at<double>> play_pipeline(plan_schedule schedule, const pipeline_times& times, int micro_batches) {
  require<config_error>(times.stages >= 1 && times.chunks >= 1 && times.chunk.size() == std::size_t(times.stages * times.chunks),
                        "moefold: a pipeline of ", times.stages, " stages of ", times.chunks, " chunks needs the times of as many (given ",
                        times.chunk.size(), ")");
  for (const chunk_times& t : times.chunk)
    require<config_error>(t.forward >= 0 && t.weight >= 0 && t.backward >= t.weight,
                          "moefold: a chunk takes 0 seconds or more, and its backward at least its weight part (given forward ", t.forward,
                          ", backward ", t.backward, ", weight ", t.weight, ")");
  return with_schedule(schedule, times.chunks, [&](const auto& s) {
    return play_at<double>(s, times.stages, micro_batches, [&](int stage, const schedule_step& step) {
      return is_computing(step.kind) ? times.of(stage, step.chunk).of(step.kind) : times.message;
    });
  });
}

/// The same, summed up.
inline pipeline_run run_pipeline(plan_schedule schedule, const pipeline_times& times, int micro_batches) {
  pipeline_run run;
  run.busy.resize(std::size_t(times.stages)), run.end.resize(std::size_t(times.stages));
  for (const played_at<double>& p : play_pipeline(schedule, times, micro_batches)) {
    if (is_computing(p.step.kind)) run.busy[std::size_t(p.stage)] += times.of(p.stage, p.step.chunk).of(p.step.kind);
    run.end[std::size_t(p.stage)] = p.end;
  }
  run.seconds = *std::max_element(run.end.begin(), run.end.end());
  run.bubble = run.seconds - *std::max_element(run.busy.begin(), run.busy.end());
  return run;
}

}  // namespace moefold
