#pragma once
// A parameter as a layer sees it: this rank's slice of the weights and of their gradient, in memory that somebody else owns (the trainer's
// parameter_store, or the user's own). Its placement is part of its type and decides who sums its gradient and who owns its optimizer state.
#include <moefold/core/precision.hpp>
#include <moefold/mesh/placement.hpp>
#include <moefold/tensor/view.hpp>

namespace moefold {

template <class Precision, class Placement>
struct parameter {
  using storage = typename Precision::storage;
  using reduce = typename Precision::reduce;
  using placement_type = Placement;

  view<const storage> value;  // this rank's slice, row-major
  view<reduce> gradient;      // same shape; backward adds to it
};

}  // namespace moefold
