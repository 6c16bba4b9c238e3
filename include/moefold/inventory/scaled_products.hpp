#pragma once
// Which products of a model see 8-bit values under a policy such as fp8, named by their weights, and what is remembered of their tensors: the
// one order in which layers record amaxes, in which they travel, and in which the inventory counts them.
//
//   amax [layers of the whole model, 10 products, 3 tensors: x, W, dy]       4 bytes each; a product that the model has not leaves zeros
#include <moefold/core/fp8_precision.hpp>
#include <moefold/inventory/parameters.hpp>

namespace moefold {

inline constexpr parameter_kind scaled_products[] = {
    parameter_kind::query, parameter_kind::key,  parameter_kind::value,       parameter_kind::output,    parameter_kind::gate,
    parameter_kind::up,    parameter_kind::down, parameter_kind::shared_gate, parameter_kind::shared_up, parameter_kind::shared_down};
inline constexpr extent_t tensors_of_product = 3;  // x, W, dy

/// Where the amaxes of the product with this weight begin, among all of the model; -1: its product sees the tensors as they are.
constexpr extent_t amax_of_product(extent_t layer, parameter_kind weight) {
  constexpr extent_t products = extent_t(std::size(scaled_products));
  for (extent_t p = 0; p < products; ++p)
    if (scaled_products[p] == weight) return (layer * products + p) * tensors_of_product;
  return -1;
}

/// Amaxes that every rank records in a step, and that one all_reduce brings together; 0 where nothing is remembered.
template <class Precision>
constexpr extent_t recorded_amaxes(const model_shape& model) {
  return amax_steps<Precision> > 0 ? model.layers * extent_t(std::size(scaled_products)) * tensors_of_product : 0;
}
/// Bytes a rank holds for them: its own, those of all ranks, and those of the steps before.
template <class Precision>
constexpr extent_t scaling_bytes(const model_shape& model) {
  return recorded_amaxes<Precision>(model) * (2 + amax_steps<Precision>)*extent_t(sizeof(float));
}

}  // namespace moefold
