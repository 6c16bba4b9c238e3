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
  view<reduce> gradient;      // same shape; backward adds to it. None: {}, for a layer that only runs forward
};

/// Throws config_error unless the slice has this rank's shape, and its gradient, where there is one, the same.
template <class Precision, class Placement>
void require_weight(const char* name, const parameter<Precision, Placement>& p, const shape& needed) {
  const auto fits = [&](const char* what, const shape& given) {
    require<config_error>(given == needed, "moefold: the ", what, " of ", name, " needs shape ", needed.text(), " on this rank, given ",
                          given.text(), "; pass this rank's slice of the whole tensor, with every extent of its own");
  };
  fits("value", p.value.shape());
  if (p.gradient.data() != nullptr) fits("gradient", p.gradient.shape());
}

}  // namespace moefold
