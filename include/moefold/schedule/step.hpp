#pragma once
// A pipeline schedule is plain data: for every stage, the list of steps it takes. The runner plays the list, check.hpp proves it, draw.hpp
// shows it; nobody else knows which schedule is running.
//
//   chunk c of stage s is virtual stage c * stages + s: a stage holds `chunks` runs of layers that are not neighbours (interleaving), mostly one
//   virtual stage V-1  --- send_output ------>  receive_input  ---  virtual stage V     outputs travel up,
//                      <-- receive_gradient --  send_gradient  ---                      gradients travel down
// Sends are buffered: a send never waits, a receive waits for its message. Between two stages outputs arrive in the order they were sent, and so do
// gradients; the two do not wait for each other. With one stage nothing is sent: a chunk finds what the chunk before it left.
#include <moefold/core/error.hpp>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

namespace moefold {

enum class step_kind : std::uint8_t {
  receive_input,
  forward,
  send_output,
  receive_gradient,
  backward,         // gradients of input and weights together; or in two steps:
  backward_input,   // of the input, which the stage before waits for
  backward_weight,  // of the weights, which nobody waits for: it can fill what would be a bubble
  send_gradient
};
inline constexpr int step_kinds = 8;

constexpr const char* name_of(step_kind kind) {
  constexpr const char* names[step_kinds] = {"receive_input", "forward",        "send_output",     "receive_gradient",
                                             "backward",      "backward_input", "backward_weight", "send_gradient"};
  return int(kind) < step_kinds ? names[int(kind)] : "?";
}

/// Whether a step computes; else it sends or receives.
constexpr bool is_computing(step_kind kind) {
  return kind == step_kind::forward || kind == step_kind::backward || kind == step_kind::backward_input ||
         kind == step_kind::backward_weight;
}

struct schedule_step {
  step_kind kind;
  int micro_batch;
  int chunk = 0;
  constexpr bool operator==(const schedule_step&) const = default;
};

/// "forward 3"; of another chunk than the first "forward 3 of chunk 1"
inline std::string describe(schedule_step step) {
  return step.chunk == 0 ? sentence(name_of(step.kind), ' ', step.micro_batch)
                         : sentence(name_of(step.kind), ' ', step.micro_batch, " of chunk ", step.chunk);
}

/// "forward 0, send_output 0, ..."
inline std::string describe(const std::vector<schedule_step>& steps) {
  std::string text;
  for (const schedule_step& step : steps) text += (text.empty() ? "" : ", ") + describe(step);
  return text;
}

/// How long a step of one chunk takes, in slots of a virtual clock; messages take none. backward is both its parts: backward_weight takes `weight` of it,
/// backward_input the rest.
template <class Time>
struct times_of_steps {
  Time forward = 1;
  Time backward = 2;
  Time weight = 1;

  constexpr Time of(step_kind kind) const {
    switch (kind) {
      case step_kind::forward: return forward;
      case step_kind::backward: return backward;
      case step_kind::backward_input: return backward - weight;
      case step_kind::backward_weight: return weight;
      default: return 0;
    }
  }
};
using step_times = times_of_steps<int>;

/// What a schedule has to say. `trains`: every forward is followed by a backward; else outputs are computed and nothing is kept.
/// `chunks`: of a stage. steps(stage, stages, micro_batches) is the stage's list; live(...) the most (micro-batch, chunk) pairs whose activations the
/// stage keeps at once.
template <class S>
concept pipeline_schedule = requires(int stage, int stages, int micro_batches) {
  { S::name } -> std::convertible_to<const char*>;
  { S::trains } -> std::convertible_to<bool>;
  { S::chunks } -> std::convertible_to<int>;
  { S::steps(stage, stages, micro_batches) } -> std::same_as<std::vector<schedule_step>>;
  { S::live(stage, stages, micro_batches) } -> std::same_as<int>;
};
/// A schedule that also says by a formula in how many slots every stage is idle.
template <class S>
concept timed_schedule = pipeline_schedule<S> && requires(int n, const step_times& times) {
  { S::idle(n, n, times) } -> std::same_as<int>;  // (stages, micro-batches, times)
};

/// A schedule as a value: whoever plays one is compiled once for all of them.
struct schedule_value {
  using steps_function = std::vector<schedule_step> (*)(int stage, int stages, int micro_batches);
  using live_function = int (*)(int stage, int stages, int micro_batches);
  const char* name = "";
  bool trains = false;
  int chunks = 1;
  steps_function steps = nullptr;
  live_function live = nullptr;
};
template <pipeline_schedule S>
inline constexpr schedule_value value_of_schedule{S::name, S::trains, S::chunks, &S::steps, &S::live};

/// The most micro-batches that a stage which plays these steps keeps alive in one chunk at once.
constexpr int most_alive(const std::vector<schedule_step>& steps, int chunk) {
  int alive = 0, most = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].chunk != chunk) continue;
    alive += int(steps[i].kind == step_kind::forward);
    most = std::max(most, alive);
    alive -= int(steps[i].kind == step_kind::backward || steps[i].kind == step_kind::backward_weight);
  }
  return most;
}

/// Writes a stage's list: computing steps with the messages that belong to them.
class step_list {
 public:
  constexpr step_list(int stage, int stages, int chunks = 1) : stage_(stage), stages_(stages), chunks_(chunks) {}

  constexpr void forward(int micro_batch, int chunk = 0) {
    if (!first(chunk)) put(step_kind::receive_input, micro_batch, chunk);
    put(step_kind::forward, micro_batch, chunk, true);
    if (!last(chunk)) put(step_kind::send_output, micro_batch, chunk);
  }
  /// kind: backward or backward_input.
  constexpr void backward(int micro_batch, int chunk = 0, step_kind kind = step_kind::backward) {
    if (!last(chunk)) put(step_kind::receive_gradient, micro_batch, chunk);
    put(kind, micro_batch, chunk, true);
    if (!first(chunk)) put(step_kind::send_gradient, micro_batch, chunk);
  }
  constexpr void backward_weight(int micro_batch, int chunk = 0) { put(step_kind::backward_weight, micro_batch, chunk, true); }
  constexpr std::vector<schedule_step> take() { return std::move(list_); }

 private:
  constexpr bool first(int chunk) const { return stage_ == 0 && chunk == 0; }
  constexpr bool last(int chunk) const { return stage_ == stages_ - 1 && chunk == chunks_ - 1; }
  constexpr void put(step_kind kind, int micro_batch, int chunk, bool alone = false) {
    if (alone || stages_ > 1) list_.push_back({kind, micro_batch, chunk});
  }
  int stage_, stages_, chunks_;
  std::vector<schedule_step> list_;
};

}  // namespace moefold
