#pragma once
// A pipeline schedule is plain data: for every stage, the list of steps it takes. The runner plays the list, check.hpp proves it, draw.hpp
// shows it; nobody else knows which schedule is running.
//
//   stage s-1  --- send_output ------>  receive_input  ---  stage s     outputs travel up,
//              <-- receive_gradient --  send_gradient  ---              gradients travel down
// Sends are buffered: a send never waits, a receive waits for its message. Between two stages messages arrive in the order they were sent.
#include <moefold/core/error.hpp>

#include <concepts>
#include <cstdint>
#include <string>
#include <vector>

namespace moefold {

enum class step_kind : std::uint8_t { receive_input, forward, send_output, receive_gradient, backward, send_gradient };

constexpr const char* name_of(step_kind kind) {
  switch (kind) {
    case step_kind::receive_input: return "receive_input";
    case step_kind::forward: return "forward";
    case step_kind::send_output: return "send_output";
    case step_kind::receive_gradient: return "receive_gradient";
    case step_kind::backward: return "backward";
    case step_kind::send_gradient: return "send_gradient";
  }
  return "?";
}

struct schedule_step {
  step_kind kind;
  int micro_batch;
  constexpr bool operator==(const schedule_step&) const = default;
};

/// "forward 3"
inline std::string describe(schedule_step step) { return sentence(name_of(step.kind), ' ', step.micro_batch); }

/// "forward 0, send_output 0, ..."
inline std::string describe(const std::vector<schedule_step>& steps) {
  std::string text;
  for (const schedule_step& step : steps) text += (text.empty() ? "" : ", ") + describe(step);
  return text;
}

/// What a schedule has to say. `trains`: every forward is followed by a backward; else outputs are computed and nothing is kept.
/// steps(stage, stages, micro_batches) is the stage's list; live(...) the most micro-batches whose activations the stage keeps at once.
template <class S>
concept pipeline_schedule = requires(int stage, int stages, int micro_batches) {
  { S::name } -> std::convertible_to<const char*>;
  { S::trains } -> std::convertible_to<bool>;
  { S::steps(stage, stages, micro_batches) } -> std::same_as<std::vector<schedule_step>>;
  { S::live(stage, stages, micro_batches) } -> std::same_as<int>;
};

}  // namespace moefold
