#pragma once
// Plays a schedule on one stage. The schedule is a list of steps (schedule/); the runner knows nothing but how to do each kind of step, so every
// schedule, and evaluation, runs through the same lines.
//
//   receive_input -> forward -> send_output ... receive_gradient -> backward -> send_gradient      micro-batch m keeps its state in slot m % live
#include <moefold/comm/communicator.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/schedule/step.hpp>
#include <moefold/tensor/tensor.hpp>

#include <span>
#include <vector>

namespace moefold {

template <class Stage, class Comm>
class runner {
 public:
  using T = typename Stage::T;
  using saved = typename Stage::saved;

  /// rows, hidden: the activation that travels between stages; reserve: bytes each micro-batch in flight may keep, set aside now.
  runner(const Stage& stage, Comm& pp, extent_t rows, extent_t hidden, int live, std::size_t reserve)
      : stage_(stage), pp_(pp), rows_(rows), hidden_(hidden), dy_({rows, hidden}), dx_({rows, hidden}), slots_(std::size_t(live)) {
    const memory_scope scope(memory_category::activations);
    for (saved& s : slots_) s.keep.reserve(reserve), s.again = &again_;
  }
  runner(const runner&) = delete;
  runner& operator=(const runner&) = delete;

  /// Bytes for what is recomputed (core/recompute.hpp), set aside now instead of during the first step.
  void reserve_again(std::size_t bytes) {
    const memory_scope scope(memory_category::recomputation);
    again_.reserve(bytes);
  }

  /// Plays the steps. feed(m) points at the tokens of micro-batch m; done(state) is called after its forward.
  /// Returns this rank's summed loss. Collective over pp, and over whatever the stage's layers use.
  template <class Exec, class Tap, class Feed, class Done>
  double run(Exec e, std::span<const schedule_step> steps, Tap* tap, Feed&& feed, Done&& done) {
    double loss = 0;
    for (const schedule_step& step : steps) {
      saved& s = slots_[std::size_t(step.micro_batch) % slots_.size()];
      switch (step.kind) {
        case step_kind::receive_input:
          s.keep.clear();
          s.input = s.keep.template take<T>(rows_, hidden_);
          pp_.recv(e, s.input.span(), pp_.rank() - 1).wait(e);
          break;
        case step_kind::forward:
          if (stage_.first()) s.keep.clear();
          s.batch = feed(step.micro_batch);
          loss += stage_.forward(e, s, tap);
          done(s);
          break;
        case step_kind::send_output: pp_.send(e, std::span<const T>(s.output.span()), pp_.rank() + 1).wait(e); break;
        case step_kind::receive_gradient: pp_.recv(e, dy_.view().span(), pp_.rank() + 1).wait(e); break;
        case step_kind::backward: stage_.backward(e, view<const T>(dy_), dx_.view(), s); break;
        case step_kind::send_gradient: pp_.send(e, std::span<const T>(dx_.view().span()), pp_.rank() - 1).wait(e); break;
      }
    }
    return loss;
  }

  /// Most bytes that one micro-batch has kept so far.
  std::size_t peak() const {
    std::size_t most = 0;
    for (const saved& s : slots_) most = std::max(most, s.keep.peak());
    return most;
  }

  /// Most bytes that recomputation has used so far.
  std::size_t again_peak() const { return again_.peak(); }

 private:
  const Stage& stage_;
  Comm& pp_;
  extent_t rows_, hidden_;
  tensor<T> dy_, dx_;
  arena again_;  // what is recomputed, one block at a time
  std::vector<saved> slots_;
};

}  // namespace moefold
