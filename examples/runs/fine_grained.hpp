#pragma once
// Many small experts, as DeepSeek-V3 routes them: sigmoid scores, groups, a bias that balances without a loss, a shared expert; experts take at most
// 1.25 x their even share of a whole sequence, padded, so that no shape depends on the routing. EP is folded over TP x CP, as many ranks as there are.
// Nothing balances the untrained router: it drops a third of the pairs and more until the bias has moved, within some fifty steps.
#include <moefold/train/run.hpp>

struct fine_grained_moe : moefold::moe_defaults {
  using tokens = moefold::capacity<125, moefold::full_sequence, moefold::padded>;
  static constexpr moefold::balance_losses balance{.sequence = 1e-3, .z = 1e-4, .bias_step = 1e-2};
};

struct fine_grained : moefold::run_defaults {
  static constexpr moefold::model_shape model{.experts = 32,
                                              .top_k = 4,
                                              .ffn = 48,
                                              .score = moefold::score_function::sigmoid,
                                              .weight_scale = 2.5,
                                              .expert_groups = 8,
                                              .chosen_groups = 4,
                                              .expert_bias = true,
                                              .shared_ffn = 96,
                                              .shared_gate = true};
  using fold = moefold::folding<moefold::mesh<moefold::tp<2>, moefold::cp<2>, moefold::dp<moefold::dyn>>,
                                moefold::mesh<moefold::ep<4>, moefold::edp<moefold::dyn>>>;
  using moe = fine_grained_moe;
};
