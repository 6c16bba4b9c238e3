#pragma once
// Which layers a pipeline stage holds. As even as whole layers allow: the first stages take one more where they do not divide,
// because the last stage also carries the head.
//
//   layers 7, stages 3:   stage 0 [0 1 2]   stage 1 [3 4]   stage 2 [5 6]
#include <moefold/core/error.hpp>

namespace moefold {

struct layer_range {
  extent_t first = 0;
  extent_t count = 0;
  constexpr bool operator==(const layer_range&) const = default;
};

constexpr layer_range stage_layers(extent_t layers, extent_t stages, extent_t stage) {
  const extent_t even = layers / stages;
  const extent_t longer = layers % stages;  // this many stages hold one layer more
  return {stage * even + (stage < longer ? stage : longer), even + (stage < longer ? 1 : 0)};
}

}  // namespace moefold
