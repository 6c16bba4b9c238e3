#pragma once
// Where the elements of one of our tensors lie among tensors with published names. Our tensors are larger (all experts in one), theirs may be too
// (gate and up in one): a tensor is a list of segments, each a run of elements in both, row-major.
//
//   layers.0.moe.gate [E, F, H]   | expert 0 | expert 1 | ...     first = e * F * H, count = F * H
//   model.layers.0.block_sparse_moe.experts.1.w1.weight           first_in_tensor = 0
#include <moefold/core/shape.hpp>

namespace moefold {

/// Our flat elements [first, first + count) of the whole, unpadded tensor are elements [first_in_tensor, first_in_tensor + count) of the published one.
struct published_segment {
  std::string tensor;
  extent_t first_in_tensor = 0;
  extent_t first = 0;
  extent_t count = 0;
  shape needed;  // of the published tensor, which is refused in any other; of rank 0: not checked
  friend bool operator==(const published_segment&, const published_segment&) = default;
};

/// A tensor of a published file, by name and extents.
struct published_tensor {
  std::string name;
  shape extent;
  friend bool operator==(const published_tensor&, const published_tensor&) = default;
};

}  // namespace moefold
