#pragma once
// What a training run may be told besides its types: numbers, and what to do when something goes wrong; and what a step reports.
#include <moefold/core/memory_ledger.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/inventory/legality.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/model/stage_events.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/optim/finite.hpp>
#include <moefold/optim/rate.hpp>
#include <moefold/schedule/step.hpp>

#include <atomic>
#include <optional>

namespace moefold {

/// A step in which a rank's own gradient has a number that is none (infinite or NaN), found before anything is summed.
///   stop   every rank throws, naming parameter and rank; nothing has changed
///   skip   no rank updates anything; the run goes on with the next step
///   zero   such elements become 0, and the step goes on
/// A loss or a norm that is not finite without such an element ends the run, or under skip and zero skips the step.
enum class bad_step : std::uint8_t { stop, skip, zero };
inline constexpr const char* bad_step_names[] = {"stop", "skip", "zero"};
constexpr const char* name_of(bad_step policy) { return bad_step_names[std::size_t(policy)]; }
/// Throws config_error, which lists the names, if there is none like it.
inline bad_step bad_step_of(std::string_view name) {
  for (std::size_t i = 0; i < std::size(bad_step_names); ++i)
    if (name == bad_step_names[i]) return bad_step(i);
  require<config_error>(false, "moefold: there is nothing called '", name,
                        "' to do about gradients that are not finite; choose stop, skip or zero");
  return {};
}

struct trainer_options {
  std::int64_t steps = 200;
  std::uint64_t seed = 1234;
  extent_t global_batch = 8;             // sequences per step
  extent_t micro_batch = 1;              // sequences per rank and forward
  double learning_rate = 4e-3;           // its peak
  rate_shape rate = rate_shape::cosine;  // how it comes and goes (optim/rate.hpp)
  std::int64_t warmup = -1;              // steps; -1: a tenth of the run, at most 100
  std::int64_t decay = -1;               // steps, of stable_decay; -1: a fifth of the run
  double floor = 0.1;                    // of the peak
  double expert_rate = 1;                // the experts' learning rate as a share of the others'
  double max_norm = 1.0;                 // of all gradients together; 0: no clipping
  bad_step bad = bad_step::stop;         // what to do about gradients that are not finite or beyond 2^64
  bool overlap = true;                   // gradients and parameters travel beside the computation where the communicator can; the same bits
  extent_t bucket = default_bucket;      // elements in a bucket of parameters that travel together; 0: no limit
  std::size_t memory = memory_ledger::no_budget;  // bytes a rank may hold at once; more is out_of_memory
  int device = 0;                                 // which of the machine's devices this rank computes on; of a trainer on the host none
  recompute_rule recompute{};                     // what is computed twice instead of kept; a run's own takes its place
  const schedule_value* schedule = nullptr;       // instead of the run's own
  const std::atomic<int>* stop = nullptr;         // not 0 on any rank, such as a signal's number: all ranks stop after the same step
  stage_events observe{};                         // of this rank: told of its layers as they compute, before their gradients travel
  routing_tap* tap = nullptr;                     // of this rank: record, replay or measure the router's choices
};

constexpr rate_plan rate_of(const trainer_options& o) {
  return {o.rate,
          o.learning_rate,
          o.learning_rate * o.floor,
          o.warmup >= 0 ? o.warmup : std::min<std::int64_t>(100, o.steps / 10),
          o.steps,
          o.decay >= 0 ? o.decay : o.steps / 5};
}

/// Throws config_error if the numbers cannot work, whatever the model. Safe for any numbers.
constexpr void check(const trainer_options& o, const folding_extents& fold) {
  require<config_error>(o.steps >= 1, "moefold: a run has at least 1 step (given ", o.steps, ")");
  require<config_error>(o.learning_rate >= 0 && o.learning_rate < 1e300,
                        "moefold: the learning rate is a finite number, 0 or above (given ", o.learning_rate, ")");
  require<config_error>(o.floor >= 0 && o.floor <= 1, "moefold: the learning rate falls to a share of its peak between 0 and 1 (given ",
                        o.floor, ")");
  if (o.learning_rate > 0) check(rate_of(o));
  require<config_error>(o.expert_rate >= 0 && o.expert_rate < 1e300,
                        "moefold: the experts' share of the learning rate is a finite number, 0 or above (given ", o.expert_rate, ")");
  require<config_error>(o.max_norm >= 0, "moefold: max_norm is 0 (no clipping) or above (given ", o.max_norm, ")");
  check_batch_size(o.global_batch, fold.attention.of(axis_id::dp), o.micro_batch);
}

/// Gradients of a step that are not bounded (optim/finite.hpp): where the first ones were found, and how many.
struct bad_report {
  extent_t rank = 0;      // the lowest rank that has one
  std::string parameter;  // its first such parameter
  extent_t index = 0;     // within its part of it
  double value = 0;
  extent_t elements = 0, ranks = 0;  // of all ranks
};

/// "rank 3 has nan in its gradient of layers.0.moe.up (element 17 of its part); 2 elements on 1 rank are not finite or beyond 2^64"
inline std::string describe(const bad_report& b) {
  return sentence("rank ", b.rank, " has ", b.value, " in its gradient of ", b.parameter, " (element ", b.index, " of its part); ",
                  b.elements, b.elements == 1 ? " element on " : " elements on ", b.ranks, b.ranks == 1 ? " rank" : " ranks",
                  b.elements == 1 ? " is" : " are", " not finite or beyond 2^64");
}

/// What an evaluation found out; the same on every rank.
struct evaluation {
  double loss = 0;          // mean over the tokens that count, in nats
  std::int64_t tokens = 0;  // that count
};

/// What a step found out; the same on every rank.
struct step_result {
  std::int64_t step = 0;  // counted from 0
  double loss = 0;        // mean over the step's tokens that count, in nats
  double grad_norm = 0;   // of the mean gradient, before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;  // tokens that count
  int stop = 0;             // somebody asked to stop: the largest of what the ranks were asked by
  double balance = 0;       // balance losses and z-loss: mean over the step's tokens that are not padding, summed over layers
  double dropped = 0;       // share of the (token, expert) pairs that no expert took, 0..1
  bool skip = false;        // nothing is to be updated: something was not finite
  std::optional<bad_report> bad{};
};

}  // namespace moefold
