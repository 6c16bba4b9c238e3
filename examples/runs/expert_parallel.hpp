#pragma once
// Context parallelism for attention, experts over cp x dp: EP 4 whatever DP is.
#include <moefold/train/run.hpp>

struct expert_parallel : moefold::run_defaults {
  using fold =
      moefold::folding<moefold::mesh<moefold::cp<2>, moefold::dp<moefold::dyn>>, moefold::mesh<moefold::ep<4>, moefold::edp<moefold::dyn>>>;
};
