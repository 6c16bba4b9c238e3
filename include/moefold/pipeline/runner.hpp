#pragma once
// Plays a schedule on one stage. The schedule is a list of steps (schedule/); the runner knows nothing but how to do each kind of step, so every
// schedule, and evaluation, runs through the same lines.
//
//   receive_input -> forward -> send_output ... receive_gradient -> backward -> send_gradient
//                                               or backward_input -> send_gradient ... backward_weight
// A (micro-batch, chunk) pair has a slot from its first step to its last; there are as many slots as the schedule keeps pairs alive. What head and loss keep
// is large and, with several chunks, soon given back: it has places of its own. The stages are a ring: from the last stage outputs go on to the next chunk
// of the first.
#include <moefold/comm/communicator.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/model/stage_events.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/schedule/step.hpp>
#include <moefold/tensor/arena.hpp>
#include <moefold/tensor/tensor.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace moefold {

template <class Stage, class Comm>
class runner {
 public:
  using T = typename Stage::T;
  using saved = typename Stage::saved;
  using memory = typename Stage::memory;

  /// outputs, gradients: two communicators over the stages. rows, hidden: the activation that travels; live: pairs alive at most; reserve: bytes each may
  /// keep, set aside now.
  runner(const Stage& stage, Comm& outputs, Comm& gradients, extent_t rows, extent_t hidden, int live, std::size_t reserve)
      : stage_(stage), outputs_(outputs), gradients_(gradients), rows_(rows), hidden_(hidden), slots_(std::size_t(live)) {
    const memory_scope scope(memory_category::activations);
    const bool hands_over = outputs.size() == 1 && stage.chunks() > 1;  // gradients from chunk to chunk wait in the slot of their receiver
    for (std::size_t i = 0; i < (hands_over ? slots_.size() : 1); ++i) dy_.emplace_back(shape{rows, hidden});
    dx_ = tensor<T, memory>({rows, hidden});
    for (slot& s : slots_) {
      s.state.keep.reserve(reserve);
      s.state.again = &again_;
    }
  }
  runner(const runner&) = delete;
  runner& operator=(const runner&) = delete;

  /// Bytes for what is recomputed (core/recompute.hpp), set aside now instead of during the first step.
  void reserve_again(std::size_t bytes) {
    const memory_scope scope(memory_category::recomputation);
    again_.reserve(bytes);
  }

  /// Bytes of each pair for weight gradients that a split backward leaves for later.
  void reserve_deferred(std::size_t bytes) {
    const memory_scope scope(memory_category::activations);
    for (slot& s : slots_) s.state.deferred.reserve(bytes);
  }

  /// `count` places of so many bytes for what head and loss keep; without, it lies with the rest of its pair.
  void reserve_heads(int count, std::size_t bytes) {
    const memory_scope scope(memory_category::activations);
    heads_.resize(std::size_t(count));
    for (basic_arena<memory>& h : heads_) h.reserve(bytes);
  }

  /// Plays the steps. feed(m) points at the tokens of micro-batch m; done(state) is called after each forward. events: see model/stage_events.hpp.
  /// Adds this rank's summed loss to loss [1]. Collective over the stages, and over whatever the stage's layers use.
  template <class Exec, class Tap, class Feed, class Done>
  void run(Exec e, std::span<const schedule_step> steps, Tap* tap, Feed&& feed, Done&& done, const stage_events& events,
           view<double> loss) {
    again_.clear();
    for (slot& s : slots_) s.micro_batch = -1;
    const bool trains = std::any_of(steps.begin(), steps.end(), [](const schedule_step& s) {
      return s.kind == step_kind::backward || s.kind == step_kind::backward_input;
    });
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const schedule_step& step = steps[i];
      const bool first = stage_.first(step.chunk), last = stage_.last(step.chunk);
      switch (step.kind) {
        case step_kind::receive_input: {
          saved& s = open(step).state;
          take_input(s);
          outputs_.recv(e, s.input.span(), before()).wait(e);
          break;
        }
        case step_kind::forward: {
          const bool received = !first && !alone();
          slot& own = received ? find(step) : open(step);
          saved& s = own.state;
          if (!first && alone()) {
            slot& from = find({step.kind, step.micro_batch, step.chunk - 1});
            take_input(s);
            copy(e, from.state.output, s.input);
            if (!trains) from.micro_batch = -1;
          }
          s.batch = feed(step.micro_batch);
          stage_.forward(e, s, tap, loss, events);
          done(s);
          if (!trains && last) own.micro_batch = -1;
          break;
        }
        case step_kind::send_output: {
          slot& own = find(step);
          outputs_.send(e, std::span<const T>(own.state.output.span()), after()).wait(e);
          if (!trains) own.micro_batch = -1;
          break;
        }
        case step_kind::receive_gradient: gradients_.recv(e, dy_[0].view().span(), after()).wait(e); break;
        case step_kind::backward:
        case step_kind::backward_input: {
          slot& own = find(step);
          const bool whole = step.kind == step_kind::backward, over = whole && is_last_of_chunk(steps, i);
          tensor<T, memory>& dx = alone() && !first ? gradient_for({step.kind, step.micro_batch, step.chunk - 1}) : dx_;
          const view<const T> dy = alone() && !last ? gradient_for(step) : dy_[0];
          if (whole) {
            stage_.backward(e, dy, dx.view(), own.state, over ? events : events.not_last());
            own.micro_batch = -1;
          } else {
            stage_.backward_input(e, dy, dx.view(), own.state);
          }
          break;
        }
        case step_kind::backward_weight: {
          slot& own = find(step);
          stage_.backward_weight(e, own.state, is_last_of_chunk(steps, i) ? events : events.not_last());
          own.micro_batch = -1;
          break;
        }
        case step_kind::send_gradient: gradients_.send(e, std::span<const T>(dx_.view().span()), before()).wait(e); break;
      }
    }
  }
  /// The same on the host, which has the loss at once.
  template <class Tap, class Feed, class Done>
  double run(host_exec e, std::span<const schedule_step> steps, Tap* tap, Feed&& feed, Done&& done, const stage_events& events = {}) {
    double loss = 0;
    run(e, steps, tap, std::forward<Feed>(feed), std::forward<Done>(done), events, view<double>(&loss, {1}));
    return loss;
  }

  /// Most bytes that one pair has kept so far, head and loss aside where they have places of their own.
  std::size_t peak() const {
    std::size_t most = 0;
    for (const slot& s : slots_) most = std::max(most, s.state.keep.peak());
    return most;
  }
  std::size_t deferred_peak() const {
    std::size_t most = 0;
    for (const slot& s : slots_) most = std::max(most, s.state.deferred.peak());
    return most;
  }
  std::size_t head_peak() const {
    std::size_t most = 0;
    for (const basic_arena<memory>& h : heads_) most = std::max(most, h.peak());
    return most;
  }
  /// Most bytes that recomputation has used so far.
  std::size_t again_peak() const { return again_.peak(); }

 private:
  struct slot {
    int micro_batch = -1, chunk = 0;  // -1: free
    saved state;
  };

  bool alone() const { return outputs_.size() == 1; }
  int after() const { return (outputs_.rank() + 1) % outputs_.size(); }
  int before() const { return (outputs_.rank() + outputs_.size() - 1) % outputs_.size(); }

  slot& find(const schedule_step& step) {
    for (slot& s : slots_)
      if (s.micro_batch == step.micro_batch && s.chunk == step.chunk) return s;
    require(false, "moefold: ", describe(step),
            " needs what its forward has kept, and nothing is kept; check_schedule says where a schedule is wrong");
    return slots_.front();
  }
  slot& open(const schedule_step& step) {
    for (slot& s : slots_)
      if (s.micro_batch < 0) {
        s.micro_batch = step.micro_batch, s.chunk = step.chunk;
        s.state.chunk = step.chunk;
        s.state.keep.clear();
        s.state.deferred.clear();
        s.state.head = heads_.empty() || !stage_.last(step.chunk) ? nullptr : &place_for_head(s);
        return s;
      }
    require(false, "moefold: ", describe(step), " finds all ", slots_.size(), " slots in use; the schedule's live() promises too little");
    return slots_.front();
  }
  basic_arena<memory>& place_for_head(const slot& own) {
    for (basic_arena<memory>& h : heads_) {
      if (std::any_of(slots_.begin(), slots_.end(), [&](const slot& s) { return &s != &own && s.micro_batch >= 0 && s.state.head == &h; }))
        continue;
      h.clear();
      return h;
    }
    require(false, "moefold: micro-batch ", own.micro_batch, " finds all ", heads_.size(),
            " places of head and loss in use; give as many as most_alive() counts (schedule/step.hpp)");
    return heads_.front();
  }
  tensor<T, memory>& gradient_for(const schedule_step& step) { return dy_[std::size_t(&find(step) - slots_.data())]; }
  void take_input(saved& s) { s.input = s.keep.template take<T>(rows_, hidden_); }

  /// Whether no later step makes gradients of this chunk's weights.
  static bool is_last_of_chunk(std::span<const schedule_step> steps, std::size_t i) {
    return std::none_of(steps.begin() + std::ptrdiff_t(i) + 1, steps.end(), [&](const schedule_step& s) {
      return s.chunk == steps[i].chunk && (s.kind == step_kind::backward || s.kind == step_kind::backward_weight);
    });
  }

  const Stage& stage_;
  Comm &outputs_, &gradients_;
  extent_t rows_, hidden_;
  std::vector<tensor<T, memory>> dy_;
  tensor<T, memory> dx_;
  basic_arena<memory> again_;  // what is recomputed, one block at a time
  std::vector<basic_arena<memory>> heads_;
  std::vector<slot> slots_;
};

}  // namespace moefold
