#include <moefold/plan/bubble.hpp>

#include <doctest/doctest.h>
#include <moefold/comm/thread.hpp>
#include <moefold/pipeline/runner.hpp>
#include <moefold/schedule/gpipe.hpp>
#include "../support/random.hpp"

#include <mutex>

using namespace moefold;

namespace {

struct moment {
  double begin, end;
  bool operator==(const moment&) const = default;
};

/// A stage without layers, for the engine's runner: computing a chunk puts its virtual clock forward by a fixed time. Activations and gradients carry the
/// clock of their sender, so a stage knows when its message has arrived.
class clock_stage {
 public:
  using T = double;
  using memory = host_memory;
  struct saved {
    int chunk = 0;
    basic_arena<memory> keep, deferred;
    basic_arena<memory>* again = nullptr;
    basic_arena<memory>* head = nullptr;
    view<T> input;
    view<T> output;
    const int* batch = nullptr;
  };

  clock_stage(const pipeline_times& times, int stage, std::vector<moment>& log) : times_(times), stage_(stage), log_(log) {}

  int chunks() const { return times_.chunks; }
  bool first(int chunk) const { return stage_ == 0 && chunk == 0; }
  bool last(int chunk) const { return stage_ + 1 == times_.stages && chunk + 1 == times_.chunks; }

  void forward(host_exec, saved& s, const void*, view<double>, const stage_events&) const {
    if (!first(s.chunk)) receive(s.input[0]);
    work(times_.of(stage_, s.chunk).forward);
    s.output = s.keep.take<T>(1, 1);
    s.output[0] = clock_;
  }
  void backward(host_exec, view<const T> dy, view<T> dx, saved& s, const stage_events&) const {
    go_back(dy, dx, s.chunk, times_.of(stage_, s.chunk).backward);
  }
  void backward_input(host_exec, view<const T> dy, view<T> dx, saved& s) const {
    go_back(dy, dx, s.chunk, times_.of(stage_, s.chunk).of(step_kind::backward_input));
  }
  void backward_weight(host_exec, saved& s, const stage_events&) const { work(times_.of(stage_, s.chunk).weight); }

 private:
  void receive(double sent) const { clock_ = std::max(clock_, times_.stages > 1 ? sent + times_.message : sent); }
  void work(double seconds) const {
    log_.push_back({clock_, clock_ + seconds});
    clock_ += seconds;
  }
  void go_back(view<const T> dy, view<T> dx, int chunk, double seconds) const {
    if (!last(chunk)) receive(dy[0]);
    work(seconds);
    dx[0] = clock_;
  }

  const pipeline_times& times_;
  int stage_;
  std::vector<moment>& log_;
  mutable double clock_ = 0;
};

/// What the engine's runner does on every stage, by its virtual clock. Collective over the stages' threads.
template <class Says>
std::vector<moment> engine_run(thread_comm& outputs, thread_comm& gradients, const Says& says, const pipeline_times& times,
                               int micro_batches) {
  std::vector<moment> log;
  const int stage = outputs.rank();
  const clock_stage layers(times, stage, log);
  host_context context;
  const int live = says.live(stage, times.stages, micro_batches);
  runner runs(layers, outputs, gradients, 1, 1, std::max(live, times.chunks > 1 ? 2 : 1), 0);
  const int batch = 0;
  runs.run(
      host_exec(context), says.steps(stage, times.stages, micro_batches), static_cast<const void*>(nullptr), [&](int) { return &batch; },
      [](const auto&) {});
  return log;
}

std::vector<moment> computing(const std::vector<played_at<double>>& played, int stage) {
  std::vector<moment> log;
  for (const auto& p : played)
    if (p.stage == stage && is_computing(p.step.kind)) log.push_back({p.begin, p.end});
  return log;
}

/// All chunks alike, or every one with times of its own: fractions that do not add up exactly, so that an order of additions shows.
pipeline_times times_for(int stages, int chunks, bool uneven, double message) {
  pipeline_times times{stages, chunks, {}, message};
  for (int i = 0; i < stages * chunks; ++i) {
    const double by = uneven ? 1 + 0.1 * ((i * 7 + 3) % 5) : 1;
    times.chunk.push_back({0.3 * by, 0.7 * by, 0.2 * by});
  }
  return times;
}

struct counts {
  int runs = 0, steps = 0, wrong = 0;
};

/// One schedule on as many threads as stages: every computing step of every stage begins and ends when the player says.
template <class Says>
void compare(thread_comm& outputs, thread_comm& gradients, const Says& says, const std::vector<played_at<double>>& played,
             const pipeline_times& times, int micro_batches, counts& count) {
  const auto expected = computing(played, outputs.rank());
  const auto found = engine_run(outputs, gradients, says, times, micro_batches);
  ++count.runs;
  count.steps += int(expected.size());
  count.wrong += found != expected;
}
void compare(thread_comm& outputs, thread_comm& gradients, plan_schedule kind, const pipeline_times& times, int micro_batches,
             counts& count) {
  with_schedule(kind, times.chunks, [&](const auto& says) {
    compare(outputs, gradients, says, play_pipeline(kind, times, micro_batches), times, micro_batches, count);
  });
}

/// Compares everything that `wanted(stages, chunks, micro_batches)` picks.
template <class Wanted>
counts compare_all(int most_stages, Wanted wanted) {
  counts total;
  std::mutex guard;
  for (int stages = 1; stages <= most_stages; ++stages)
    run_threads(stages, [&](thread_comm& world) {
      thread_comm outputs = world.split(0, world.rank()), gradients = world.split(0, world.rank());
      counts count;
      for (int m = 1; m <= 32; ++m)
        for (int chunks = 1; chunks <= 4; ++chunks) {
          if (!wanted(stages, chunks, m)) continue;
          const pipeline_times times = times_for(stages, chunks, (m + chunks) % 3 != 0, m % 2 == 0 ? 0.05 : 0);
          compare(outputs, gradients, plan_schedule::one_f_one_b, times, m, count);
          if (chunks > 1) continue;
          compare(outputs, gradients, plan_schedule::zero_bubble, times, m, count);
          compare(outputs, gradients, plan_schedule::zero_bubble_h1, times, m, count);
          const auto all_forwards_first = play_at<double>(gpipe{}, stages, m, [&](int stage, const schedule_step& step) {
            return is_computing(step.kind) ? times.of(stage, step.chunk).of(step.kind) : times.message;
          });
          compare(outputs, gradients, gpipe{}, all_forwards_first, times, m, count);
        }
      const std::scoped_lock lock(guard);
      total.steps += count.steps, total.wrong += count.wrong;
      if (world.rank() == 0) total.runs += count.runs;
    });
  return total;
}

}  // namespace

TEST_SUITE("plan/bubble") {
  TEST_CASE("P06: every step begins and ends when the planner's simulation says, in the engine's runner on a virtual clock") {
    const counts count = compare_all(5, [](int stages, int chunks, int m) { return (stages * 5 + chunks * 3 + m) % 11 == 0; });
    MESSAGE("P06: ", count.runs - count.wrong, " of ", count.runs, " pipelines, ", count.steps, " steps");
    CHECK(count.runs > 60);
    CHECK(count.wrong == 0);
  }
  TEST_CASE("the schedules' formulas are the simulation where all chunks take the same time") {
    int compared = 0;
    for (const auto schedule : {plan_schedule::one_f_one_b, plan_schedule::zero_bubble, plan_schedule::zero_bubble_h1})
      for (int stages = 1; stages <= 8; ++stages)
        for (int chunks = 1; chunks <= (schedule == plan_schedule::one_f_one_b ? 4 : 1); ++chunks)
          for (const int m : {1, 2, 3, 5, 8, 13, 32})
            for (const chunk_times& t : {chunk_times{1, 2, 1}, chunk_times{0.3, 0.7, 0.3}, chunk_times{2.5, 5.5, 1}}) {
              const pipeline_times times{stages, chunks, std::vector<chunk_times>(std::size_t(stages * chunks), t), 0};
              const pipeline_run run = run_pipeline(schedule, times, m);
              CAPTURE(stages);
              CAPTURE(chunks);
              CAPTURE(m);
              CHECK(run.bubble == doctest::Approx(bubble_seconds(schedule, stages, chunks, m, t)).epsilon(1e-12));
              ++compared;
            }
    MESSAGE("P06: formulas compared: ", compared);
  }
  TEST_CASE("a pipeline whose micro-batches are a multiple of its stages stands still for (stages - 1) (forward + backward) of a chunk") {
    CHECK(bubble_seconds(plan_schedule::one_f_one_b, 8, 7, 32, {1, 2, 1}) == 21);
    CHECK(bubble_seconds(plan_schedule::one_f_one_b, 8, 1, 32, {1, 2, 1}) == 21);
    CHECK(bubble_seconds(plan_schedule::zero_bubble, 8, 1, 32, {1, 2, 1}) == 14);
    CHECK(bubble_seconds(plan_schedule::zero_bubble_h1, 8, 1, 32, {1, 2, 1}) == 7);
    CHECK(bubble_seconds(plan_schedule::one_f_one_b, 1, 4, 32, {1, 2, 1}) == 0);
  }
  TEST_CASE("a slow stage holds up all others, and a late message the stage that waits for it") {
    pipeline_times times{3, 1, {{1, 2, 1}, {2, 4, 2}, {1, 2, 1}}, 0};
    const pipeline_run run = run_pipeline(plan_schedule::one_f_one_b, times, 12);
    CHECK(run.busy == std::vector<double>{36, 72, 36});
    CHECK(run.seconds >= 72 + 1 + 2);  // it waits for its first input, and its last gradient goes on
    times.message = 0.5;
    CHECK(run_pipeline(plan_schedule::one_f_one_b, times, 12).seconds > run.seconds);
    CHECK_THROWS_AS(run_pipeline(plan_schedule::one_f_one_b, {2, 1, {{1, 2, 1}}, 0}, 4), config_error);
    CHECK_THROWS_AS(run_pipeline(plan_schedule::one_f_one_b, {1, 1, {{1, 2, 3}}, 0}, 4), config_error);
  }
  TEST_CASE("no micro-batches take no time") {
    CHECK(run_pipeline(plan_schedule::one_f_one_b, times_for(3, 2, true, 1), 0).seconds == 0);
    CHECK(bubble_seconds(plan_schedule::zero_bubble_h1, 3, 1, 0, {1, 2, 1}) == 0);
  }
}

TEST_SUITE("plan/bubble_soak") {
  TEST_CASE("P06: PP 1 to 8, 1 to 4 chunks, 1 to 32 micro-batches, all schedules: every step at the simulation's time") {
    const counts count = compare_all(8, [](int, int, int) { return true; });
    MESSAGE("P06: ", count.runs - count.wrong, " of ", count.runs, " pipelines, ", count.steps, " steps");
    CHECK(count.runs == 8 * 32 * (4 + 3));
    CHECK(count.wrong == 0);
  }
}
