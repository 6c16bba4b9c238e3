#pragma once
// Data parallelism over as many ranks as there are, experts replicated: `--ranks N` chooses. The unfolded starting point.
#include <moefold/train/run.hpp>

struct data_parallel : moefold::run_defaults {
  using fold = moefold::folding<moefold::mesh<moefold::dp<moefold::dyn>>, moefold::mesh<moefold::edp<moefold::dyn>>>;
};
