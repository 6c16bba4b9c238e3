#pragma once
// The main job: attention on tp2 cp2 pp2, experts on ep4 pp2, over the same 8 ranks. EP is folded over TP x CP.
#include <moefold/train/run.hpp>

struct folded_8 : moefold::run_defaults {
  using fold = moefold::folding<moefold::mesh<moefold::tp<2>, moefold::cp<2>, moefold::pp<2>>,
                                moefold::mesh<moefold::etp<1>, moefold::ep<4>, moefold::pp<2>>>;
};
