#pragma once
// Plays a schedule on all its stages with queues instead of messages and proves that it can run: at compile time where the numbers are
// known, else at start-up. A schedule that passes neither deadlocks nor keeps more than it promised.
//
//   every message sent is received once, in the order it was sent        a stage computes only on what it has
//   every micro-batch: one forward, then one backward, on every stage    live micro-batches <= live()
#include <moefold/schedule/step.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace moefold {

/// One step of a played schedule: who took it and when. A forward or backward takes time (see play), messages take none.
struct played_step {
  int stage;
  schedule_step step;
  int begin;  // in slots
  int end;
};

namespace detail {

/// The state of all stages while a schedule is played.
class schedule_player {
 public:
  constexpr schedule_player(const char* name, bool trains, std::vector<std::vector<schedule_step>> lists, int micro_batches)
      : name_(name), trains_(trains), micro_batches_(micro_batches), lists_(std::move(lists)), stages_(lists_.size()) {
    for (stage_state& s : stages_) s.done.resize(std::size_t(micro_batches), 0);
  }

  constexpr std::vector<played_step> play(int forward_slots, int backward_slots) {
    std::vector<played_step> log;
    for (bool progress = true; progress;) {
      progress = false;
      for (std::size_t s = 0; s < stages_.size(); ++s)
        while (stages_[s].next < lists_[s].size() && take(s, forward_slots, backward_slots, log)) progress = true;
    }
    for (std::size_t s = 0; s < stages_.size(); ++s) finish(s);
    return log;
  }

  constexpr int most_live(std::size_t stage) const { return stages_[stage].most_live; }

 private:
  struct message {
    int micro_batch;
    int sent;  // at this slot
  };
  struct channel {
    std::vector<message> queue;
    std::size_t received = 0;
  };
  enum progress_bits : unsigned { has_input = 1, has_output = 2, sent_output = 4, has_gradient = 8, did_backward = 16, sent_gradient = 32 };
  struct stage_state {
    std::size_t next = 0;
    int clock = 0, live = 0, most_live = 0;
    std::vector<unsigned> done;  // per micro-batch, progress_bits
    channel inputs, gradients;   // messages on their way to this stage
  };

  template <class... Parts>
  constexpr void demand(bool holds, std::size_t stage, schedule_step step, const Parts&... parts) const {
    if (!holds) fail(stage, describe(step), parts...);
  }
  template <class... Parts>
  [[noreturn]] void fail(std::size_t stage, const std::string& at, const Parts&... parts) const {
    throw config_error(sentence("moefold: schedule ", name_, " (", stages_.size(), " stages, ", micro_batches_,
                                " micro-batches) cannot run: stage ", stage, ", ", at, ": ", parts...));
  }

  // A receive whose message has not been sent yet waits: false.
  constexpr bool receive(std::size_t stage, channel& from, schedule_step step) {
    if (from.received == from.queue.size()) return false;
    const message m = from.queue[from.received];
    demand(m.micro_batch == step.micro_batch, stage, step, "the next message to arrive is that of micro-batch ", m.micro_batch,
           "; receive in the order in which the neighbour sends");
    ++from.received;
    stages_[stage].clock = std::max(stages_[stage].clock, m.sent);
    return true;
  }

  constexpr bool take(std::size_t s, int forward_slots, int backward_slots, std::vector<played_step>& log) {
    using enum step_kind;
    stage_state& me = stages_[s];
    const schedule_step step = lists_[s][me.next];
    const bool first = s == 0, last = s + 1 == stages_.size();
    demand(step.micro_batch >= 0 && step.micro_batch < micro_batches_, s, step, "there is no such micro-batch; they count from 0");
    unsigned& done = me.done[std::size_t(step.micro_batch)];
    switch (step.kind) {
      case receive_input:
        demand(!first, s, step, "the first stage reads its tokens itself; leave the step out");
        if (!receive(s, me.inputs, step)) return false;
        done |= has_input;
        break;
      case forward:
        demand(first || (done & has_input), s, step, "its input has not been received; put receive_input before it");
        demand(!(done & has_output), s, step, "a micro-batch has one forward per stage");
        done |= has_output;
        me.most_live = std::max(me.most_live, me.live + 1);
        if (trains_) ++me.live;
        me.clock += forward_slots;
        break;
      case send_output:
        demand(!last, s, step, "the last stage has nobody to send to; leave the step out");
        demand((done & has_output) && !(done & sent_output), s, step, "an output is sent once, after its forward");
        done |= sent_output;
        stages_[s + 1].inputs.queue.push_back({step.micro_batch, me.clock});
        break;
      case receive_gradient:
        demand(trains_ && !last, s, step, "no gradient comes from there; leave the step out");
        if (!receive(s, me.gradients, step)) return false;
        done |= has_gradient;
        break;
      case backward:
        demand(trains_, s, step, "a schedule that does not train has no backward");
        demand((done & has_output) && !(done & did_backward), s, step, "a micro-batch has one backward per stage, after its forward");
        demand(last || (done & has_gradient), s, step, "its gradient has not been received; put receive_gradient before it");
        done |= did_backward;
        --me.live;
        me.clock += backward_slots;
        break;
      case send_gradient:
        demand(trains_ && !first, s, step, "the first stage has nobody to send gradients to; leave the step out");
        demand((done & did_backward) && !(done & sent_gradient), s, step, "a gradient is sent once, after its backward");
        done |= sent_gradient;
        stages_[s - 1].gradients.queue.push_back({step.micro_batch, me.clock});
        break;
    }
    const int slots = step.kind == forward ? forward_slots : step.kind == backward ? backward_slots : 0;
    log.push_back({int(s), step, me.clock - slots, me.clock});
    ++me.next;
    return true;
  }

  constexpr void finish(std::size_t s) const {
    const stage_state& me = stages_[s];
    if (me.next < lists_[s].size()) fail(s, describe(lists_[s][me.next]), "it waits for ever; no neighbour sends this message");
    if (me.inputs.received != me.inputs.queue.size() || me.gradients.received != me.gradients.queue.size())
      fail(s, "end", "a neighbour has sent a message that is never received");
    for (int m = 0; m < micro_batches_; ++m) {
      const unsigned done = me.done[std::size_t(m)];
      if (!(done & has_output) || (trains_ && !(done & did_backward)))
        fail(s, "end", "micro-batch ", m, " has no ", done & has_output ? "backward" : "forward");
    }
  }

  const char* name_;
  bool trains_;
  int micro_batches_;
  std::vector<std::vector<schedule_step>> lists_;
  std::vector<stage_state> stages_;
};

}  // namespace detail

/// Plays the schedule, every stage as early as it can, and returns all steps with their times. A forward takes `forward_slots` units of
/// time, a backward `backward_slots`, messages none. Throws config_error with stage, step and reason if the schedule cannot run.
template <pipeline_schedule Schedule>
constexpr std::vector<played_step> play(int stages, int micro_batches, int forward_slots = 1, int backward_slots = 1) {
  require<config_error>(stages >= 1 && micro_batches >= 0, "moefold: a schedule needs at least 1 stage and 0 micro-batches (given ", stages,
                        " and ", micro_batches, ")");
  std::vector<std::vector<schedule_step>> lists;
  for (int s = 0; s < stages; ++s) lists.push_back(Schedule::steps(s, stages, micro_batches));
  detail::schedule_player player(Schedule::name, Schedule::trains, std::move(lists), micro_batches);
  auto log = player.play(forward_slots, backward_slots);
  for (int s = 0; s < stages; ++s) {
    const int kept = player.most_live(std::size_t(s)), promised = Schedule::live(s, stages, micro_batches);
    require<config_error>(kept <= promised, "moefold: schedule ", Schedule::name, " keeps the activations of ", kept,
                          " micro-batches on stage ", s, " of ", stages, ", but its live() promises at most ", promised,
                          "; raise live() or run backwards earlier");
  }
  return log;
}

/// True if the schedule runs as promised; otherwise throws config_error with stage, step and reason. A constant expression where it holds.
template <pipeline_schedule Schedule>
constexpr bool check_schedule(int stages, int micro_batches) {
  play<Schedule>(stages, micro_batches);
  return true;
}

}  // namespace moefold
