#pragma once
// What the MoE layers did in a step, as the record of the step shows it: load, dropped pairs and balance losses.
//
//   load [layers, E] -> max / mean by layer, the worst in the step line        dropped pairs -> shares        sums of losses -> means by name
#include <moefold/inventory/activations.hpp>
#include <moefold/tensor/view.hpp>
#include <moefold/train/metrics.hpp>

#include <algorithm>
#include <numeric>

namespace moefold {

/// The fullest expert's tokens over the even share, in every layer of load [layers, E].
inline std::vector<double> max_over_mean(view<const std::int64_t> load) {
  std::vector<double> ratios;
  for (extent_t layer = 0; layer < load.extent(0); ++layer) {
    const auto row = load.rows(layer, 1);
    const double mean = double(std::accumulate(row.begin(), row.end(), std::int64_t{0})) / double(load.extent(1));
    ratios.push_back(mean > 0 ? double(*std::max_element(row.begin(), row.end())) / mean : 1);
  }
  return ratios;
}

/// Adds what the trainer's MoE layers did in `step` (a step_result) to its record; by_layer: the lists too. Local.
template <class Trainer, class Result>
void add_moe(step_record& record, const Trainer& trainer, const Result& step, bool by_layer) {
  const activation_shape a = trainer.activations();
  const std::vector<double> ratios = max_over_mean(trainer.load());
  record.moe_max_over_mean = *std::max_element(ratios.begin(), ratios.end());
  if (a.facts.tokens.drops()) record.dropped = step.dropped;
  if (a.facts.balance.any()) record.balance = step.balance;
  if (!by_layer) return;
  record.load_max_over_mean = ratios;
  for (extent_t layer = 0; layer < a.model.layers; ++layer) {
    const auto row = trainer.load().rows(layer, 1);
    record.expert_load.emplace_back(row.begin(), row.end());
    if (a.facts.tokens.drops()) record.dropped_share.push_back(trainer.dropped(layer) / double(std::max<std::int64_t>(1, trainer.pairs())));
  }
  for (std::size_t i = 0; i < balance_kinds; ++i) {
    if (coefficients(a.facts.balance)[i] == 0) continue;
    auto& values = record.balance_losses.emplace_back(balance_names[i], std::vector<double>{}).second;
    for (extent_t layer = 0; layer < a.model.layers; ++layer) values.push_back(trainer.balance(layer)[i]);
  }
}

}  // namespace moefold
