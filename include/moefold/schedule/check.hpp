#pragma once
// Plays a schedule on all its stages with queues instead of messages and proves that it can run: at compile time where the numbers are
// known, else at start-up. A schedule that passes neither deadlocks nor keeps more than it promised.
//
//   every message sent is received once, in the order it was sent                          a stage computes only on what it has
//   every micro-batch and chunk: one forward, then one backward (or input, then weight)    live activations == live()
#include <moefold/schedule/step.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

namespace moefold {

/// One step of a played schedule: who took it and when. A message is sent and received in no time.
template <class Time>
struct played_at {
  int stage;
  schedule_step step;
  Time begin, end;
};
using played_step = played_at<int>;  // in slots of step_times

namespace detail {

/// The state of all stages while a schedule is played. Time: of the virtual clock, int or double.
template <class Time>
class schedule_player {
 public:
  constexpr schedule_player(const char* name, bool trains, int chunks, std::vector<std::vector<schedule_step>> lists, int micro_batches)
      : name_(name), trains_(trains), chunks_(chunks), micro_batches_(micro_batches), lists_(std::move(lists)), stages_(lists_.size()) {
    for (stage_state& s : stages_) s.work.resize(std::size_t(micro_batches * chunks));
  }

  /// times(stage, step): how long a computing step takes, or how long the message of a send is on its way while its sender goes on.
  template <class Times>
  constexpr std::vector<played_at<Time>> play(const Times& times) {
    std::vector<played_at<Time>> log;
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t s = 0; s < stages_.size(); ++s)
        while (stages_[s].next < lists_[s].size() && take(s, times, log)) moved = true;
    }
    for (std::size_t s = 0; s < stages_.size(); ++s) finish(s);
    return log;
  }

  constexpr int most_live(std::size_t stage) const { return stages_[stage].most_live; }

 private:
  struct message {
    int micro_batch;
    int chunk;  // of the receiver
    Time arrives;
  };
  struct channel {
    std::vector<message> queue;
    std::size_t received = 0;
  };
  struct progress {  // of one micro-batch in one chunk
    bool input = false, output = false, sent_output = false, gradient = false, did_input = false, did_weight = false, sent_gradient = false;
    bool alive = false;  // something is kept for it
  };
  struct stage_state {
    std::size_t next = 0;
    Time clock{};
    int live = 0, most_live = 0;
    std::vector<progress> work;  // [micro-batches, chunks]
    bool gradient_waits = false,
         result_waits = false;  // received and not used yet; computed and not sent yet: a stage has room for one of each
    channel inputs, gradients;  // messages on their way to this stage
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

  std::string in_chunk(int chunk) const { return chunks_ > 1 ? sentence(" in chunk ", chunk) : ""; }
  constexpr bool alone() const { return stages_.size() == 1; }
  constexpr bool first(std::size_t s, int chunk) const { return s == 0 && chunk == 0; }
  constexpr bool last(std::size_t s, int chunk) const { return s + 1 == stages_.size() && chunk + 1 == chunks_; }
  constexpr progress& of(std::size_t s, int micro_batch, int chunk) { return stages_[s].work[std::size_t(micro_batch * chunks_ + chunk)]; }

  constexpr void begin(stage_state& me, progress& now) {
    if (now.alive) return;
    now.alive = true;
    me.most_live = std::max(me.most_live, ++me.live);
  }
  constexpr void end(stage_state& me, progress& now) {
    now.alive = false;
    --me.live;
  }

  // A receive whose message has not been sent yet waits: false.
  constexpr bool receive(std::size_t stage, channel& from, schedule_step step) {
    if (from.received == from.queue.size()) return false;
    const message m = from.queue[from.received];
    if (m.micro_batch != step.micro_batch || m.chunk != step.chunk)
      fail(stage, describe(step), "the next message to arrive is that of micro-batch ", m.micro_batch, in_chunk(m.chunk),
           "; receive in the order in which the neighbour sends");
    ++from.received;
    stages_[stage].clock = std::max(stages_[stage].clock, m.arrives);
    return true;
  }

  template <class Times>
  constexpr bool take(std::size_t s, const Times& times, std::vector<played_at<Time>>& log) {
    using enum step_kind;
    stage_state& me = stages_[s];
    const schedule_step step = lists_[s][me.next];
    const int m = step.micro_batch, c = step.chunk;
    demand(m >= 0 && m < micro_batches_, s, step, "there is no such micro-batch; they count from 0");
    demand(c >= 0 && c < chunks_, s, step, "there is no such chunk; the schedule has ", chunks_, ", which count from 0");
    progress& now = of(s, m, c);
    const bool first = this->first(s, c), last = this->last(s, c);
    const Time takes = times(int(s), step);
    const std::size_t up = s + 1 == stages_.size() ? 0 : s + 1, down = s == 0 ? stages_.size() - 1 : s - 1;
    switch (step.kind) {
      case receive_input:
        demand(!first && !alone(), s, step,
               first ? "the first stage reads its tokens itself; leave the step out"
                     : "a single stage has its input at hand; leave the step out");
        if (!receive(s, me.inputs, step)) return false;
        now.input = true;
        begin(me, now);
        break;
      case forward:
        demand(first || alone() || now.input, s, step, "its input has not been received; put receive_input before it");
        demand(first || !alone() || of(s, m, c - 1).output, s, step, "the chunk before it has not run; put its forward first");
        demand(!now.output, s, step, "a micro-batch has one forward per stage");
        now.output = true;
        begin(me, now);
        if (!trains_ && last) end(me, now);
        if (!trains_ && !first && alone()) end(me, of(s, m, c - 1));
        break;
      case send_output:
        demand(!last && !alone(), s, step, "the last stage has nobody to send to; leave the step out");
        demand(now.output && !now.sent_output, s, step, "an output is sent once, after its forward");
        now.sent_output = true;
        if (!trains_) end(me, now);
        stages_[up].inputs.queue.push_back({m, up == 0 ? c + 1 : c, me.clock + takes});
        break;
      case receive_gradient:
        demand(trains_ && !last && !alone(), s, step, "no gradient comes from there; leave the step out");
        demand(!me.gradient_waits, s, step, "the gradient received before has not been used; receive one when its backward comes next");
        if (!receive(s, me.gradients, step)) return false;
        now.gradient = me.gradient_waits = true;
        break;
      case backward:
      case backward_input:
        demand(trains_, s, step, "a schedule that does not train has no backward");
        demand(now.output && !now.did_input, s, step, "a micro-batch has one backward per stage, after its forward");
        demand(last || alone() || now.gradient, s, step, "its gradient has not been received; put receive_gradient before it");
        demand(last || !alone() || of(s, m, c + 1).did_input, s, step, "the chunk after it has not run backward; put its backward first");
        demand(!me.result_waits, s, step, "the gradient computed before has not been sent; send it first");
        now.did_input = true;
        now.did_weight = step.kind == backward;
        me.gradient_waits = false;
        me.result_waits = !first && !alone();
        if (now.did_weight) end(me, now);
        break;
      case backward_weight:
        demand(now.did_input && !now.did_weight, s, step, "weight gradients are made once, after backward_input; backward makes both");
        now.did_weight = true;
        end(me, now);
        break;
      case send_gradient:
        demand(trains_ && !first && !alone(), s, step, "the first stage has nobody to send gradients to; leave the step out");
        demand(now.did_input && !now.sent_gradient, s, step, "a gradient is sent once, after its backward");
        now.sent_gradient = true;
        me.result_waits = false;
        stages_[down].gradients.queue.push_back({m, s == 0 ? c - 1 : c, me.clock + takes});
        break;
    }
    const Time begin = me.clock;
    if (is_computing(step.kind)) me.clock += takes;
    log.push_back({int(s), step, begin, me.clock});
    ++me.next;
    return true;
  }

  constexpr void finish(std::size_t s) const {
    const stage_state& me = stages_[s];
    if (me.next < lists_[s].size()) fail(s, describe(lists_[s][me.next]), "it waits for ever; no neighbour sends this message");
    if (me.inputs.received != me.inputs.queue.size() || me.gradients.received != me.gradients.queue.size())
      fail(s, "end", "a neighbour has sent a message that is never received");
    for (int i = 0; i < micro_batches_ * chunks_; ++i) {
      const progress& done = me.work[std::size_t(i)];
      if (done.output && (!trains_ || (done.did_input && done.did_weight))) continue;
      fail(s, "end", "micro-batch ", i / chunks_, in_chunk(i % chunks_), " has no ",
           !done.output     ? "forward"
           : done.did_input ? "backward_weight"
                            : "backward");
    }
  }

  const char* name_;
  bool trains_;
  int chunks_, micro_batches_;
  std::vector<std::vector<schedule_step>> lists_;
  std::vector<stage_state> stages_;
};

}  // namespace detail

/// Plays a schedule with times of its own for every stage and step: times(stage, step) is how long a computing step takes, and of a send how long its
/// message is on its way while the sender goes on. `says`: what a schedule says of itself: name, trains, chunks, steps(stage, stages, micro_batches) and
/// live(...). Throws as play does.
template <class Time, class Says, class Times>
constexpr std::vector<played_at<Time>> play_at(const Says& says, int stages, int micro_batches, const Times& times) {
  const char* const name = says.name;
  require<config_error>(stages >= 1 && micro_batches >= 0, "moefold: a schedule needs at least 1 stage and 0 micro-batches (given ", stages,
                        " and ", micro_batches, ")");
  std::vector<std::vector<schedule_step>> lists;
  for (int s = 0; s < stages; ++s) lists.push_back(says.steps(s, stages, micro_batches));
  detail::schedule_player<Time> player(name, says.trains, says.chunks, std::move(lists), micro_batches);
  auto log = player.play(times);
  for (int s = 0; s < stages; ++s) {
    const int kept = player.most_live(std::size_t(s)), promised = says.live(s, stages, micro_batches);
    require<config_error>(kept <= promised, "moefold: schedule ", name, " keeps the activations of ", kept, " micro-batches on stage ", s,
                          " of ", stages, ", but its live() promises at most ", promised, "; raise live() or run backwards earlier");
    require<config_error>(kept == promised, "moefold: schedule ", name, " keeps the activations of ", kept, " micro-batches on stage ", s,
                          " of ", stages, ", but its live() sets aside ", promised, "; lower live() to what is needed");
  }
  return log;
}

/// Plays the schedule, every stage as early as it can, and returns all steps with their times on a virtual clock.
/// Throws config_error with stage, step and reason if the schedule cannot run, or keeps another number of activations than live() says.
template <pipeline_schedule Schedule>
constexpr std::vector<played_step> play(int stages, int micro_batches, const step_times& times = {1, 1, 1}) {
  require<config_error>(times.forward >= 0 && times.weight >= 0 && times.backward >= times.weight,
                        "moefold: steps take 0 slots or more, and a backward at least its weight part (given forward ", times.forward,
                        ", backward ", times.backward, ", weight ", times.weight, ")");
  return play_at<int>(Schedule{}, stages, micro_batches, [&](int, const schedule_step& step) { return times.of(step.kind); });
}
/// The same proof of a schedule that is a value: what a trainer asks for before it starts.
inline void check_schedule(const schedule_value& schedule, int stages, int micro_batches) {
  play_at<int>(schedule, stages, micro_batches, [](int, const schedule_step& step) { return step_times{1, 1, 1}.of(step.kind); });
}

/// Slots that every stage of a played schedule stands still: its end minus the stage's own work; the largest of the stages.
template <pipeline_schedule Schedule>
constexpr int idle_slots(int stages, int micro_batches, const step_times& times) {
  std::vector<int> busy(std::size_t(stages), 0);
  int end = 0, least = 0;
  for (const played_step& p : play<Schedule>(stages, micro_batches, times)) {
    busy[std::size_t(p.stage)] += p.end - p.begin;
    end = std::max(end, p.end);
  }
  for (std::size_t s = 0; s < busy.size(); ++s) least = s == 0 ? busy[s] : std::min(least, busy[s]);
  return end - least;
}

/// True if the schedule runs as promised; otherwise throws config_error with stage, step and reason. A constant expression where it holds.
template <pipeline_schedule Schedule>
constexpr bool check_schedule(int stages, int micro_batches) {
  play<Schedule>(stages, micro_batches);
  return true;
}

}  // namespace moefold
