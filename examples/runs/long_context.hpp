#pragma once
// Everything for long sequences at once, in bf16: ring attention over cp 4, two interleaved chunks of layers per stage, norms and activations computed
// twice instead of kept.
#include <moefold/attention/cp_ring.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/train/run.hpp>

struct long_context : moefold::run_defaults {
  static constexpr moefold::extent_t sequence = 1024;
  using fold =
      moefold::folding<moefold::mesh<moefold::cp<4>, moefold::pp<2>>, moefold::mesh<moefold::etp<1>, moefold::ep<4>, moefold::pp<2>>>;
  using precision = moefold::mixed_bf16;
  using context = moefold::cp_ring;
  using schedule = moefold::interleaved<2>;
  static constexpr moefold::recompute_rule recompute =
      moefold::selective<moefold::recompute_part::norms, moefold::recompute_part::activation>;
};
