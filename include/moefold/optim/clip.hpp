#pragma once
// Clipping by one global norm, dense and expert parameters together.

#include <algorithm>

namespace moefold {

/// min(1, max_norm / (norm + 1e-6)); max_norm <= 0 switches clipping off. The norm is finite: the trainer stops before it is not.
constexpr double clip_coefficient(double norm, double max_norm) { return max_norm <= 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6)); }

}  // namespace moefold
