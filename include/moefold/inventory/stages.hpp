#pragma once
// Which layers the chunks of a pipeline stage hold: core/layer_split.hpp, asked for a folding.
#include <moefold/core/layer_split.hpp>
#include <moefold/mesh/extents.hpp>

namespace moefold {

/// Layers of one chunk of a stage.
constexpr layer_range chunk_layers(extent_t layers, const folding_extents& fold, extent_t stage, extent_t chunk) {
  const extent_t stages = fold.attention.of(axis_id::pp);
  return layers_of(fold.layers, layers, stages * fold.layers.chunks, chunk * stages + stage);
}
/// Layers of all chunks of a stage together.
constexpr extent_t layers_on_stage(extent_t layers, const folding_extents& fold, extent_t stage) {
  extent_t count = 0;
  for (extent_t c = 0; c < fold.layers.chunks; ++c) count += chunk_layers(layers, fold, stage, c).count;
  return count;
}
/// How many layers of a run are dense, where the first `dense` of the model are.
constexpr extent_t dense_in(const layer_range& own, extent_t dense) {
  const extent_t behind = dense - own.first;
  return behind < 0 ? 0 : behind < own.count ? behind : own.count;
}
constexpr extent_t dense_on_stage(extent_t layers, extent_t dense, const folding_extents& fold, extent_t stage) {
  extent_t count = 0;
  for (extent_t c = 0; c < fold.layers.chunks; ++c) count += dense_in(chunk_layers(layers, fold, stage, c), dense);
  return count;
}
/// f(layer) for every layer of a stage, chunk after chunk: ascending.
template <class F>
constexpr void for_each_layer(extent_t layers, const folding_extents& fold, extent_t stage, F&& f) {
  for (extent_t c = 0; c < fold.layers.chunks; ++c) {
    const layer_range own = chunk_layers(layers, fold, stage, c);
    for (extent_t l = own.first; l < own.first + own.count; ++l) f(l);
  }
}

}  // namespace moefold
