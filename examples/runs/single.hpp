#pragma once
// One rank: the oracle that every mapping is compared with.
#include <moefold/train/run.hpp>

struct single : moefold::run_defaults {
  using fold = moefold::folding<moefold::mesh<>, moefold::mesh<>>;
};
