#pragma once
// The first losses of a run beside those of one rank alone: a build or a mapping that computes something else is noticed before the run, not after it.
#include <moefold/train/progress.hpp>
#include <moefold/train/trainer.hpp>

#include <cmath>
#include <span>
#include <string>
#include <vector>

namespace moefold {

/// What to say of the first losses of many ranks beside those of one; `same` becomes false where they differ by more than rounding, or are not numbers.
inline std::string compare_losses(std::span<const double> many, std::span<const double> one, bool& same, double rounding = 1e-4) {
  double worst = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    const double difference = std::abs(many[i] - one[i]) / std::abs(one[i]);
    if (!(difference <= worst)) worst = difference;  // NaN wins
  }
  same = worst <= rounding;
  const std::string numbers = detail::printed("largest relative difference %.1e", worst);
  if (same) return sentence("the first ", one.size(), " losses are those of a single rank: ", numbers);
  return sentence("WARNING: the first ", one.size(), " losses are NOT those of a single rank: ", numbers,
                  "; do not trust this build or mapping, and please report it");
}

/// The first losses of one rank with the same seed, data and batch. start(trainer) may give it other weights first.
template <class Run, class Ranks, class Start>
std::vector<double> single_rank_losses(const Ranks& ranks, const trainer_options& options, const dataset& data, int steps, Start&& start) {
  std::vector<double> losses;
  trainer_options alone = options;
  alone.schedule = &value_of_schedule<one_f_one_b>;  // the run's own, and its layer counts, are made for its stages
  alone.observe = {};
  routing_tap tap;
  if (options.tap) tap.replay = options.tap->replay, tap.even = options.tap->even;
  alone.tap = &tap;
  ranks.alone([&](typename Ranks::comm_type& world) {
    alone.device = ranks.device_of(0);
    basic_trainer<policies_of<Run, typename Ranks::exec_type>, typename Ranks::comm_type, typename Ranks::exec_type> trainer(
        std::move(world), Run::model, Run::sequence, folding_extents{}, alone, data);
    start(trainer);
    for (bool stop = false; !stop && int(losses.size()) < steps;) {
      const step_result step = trainer.step();
      losses.push_back(step.loss);
      stop = step.stop != 0;
    }
  });
  return losses;
}

}  // namespace moefold
