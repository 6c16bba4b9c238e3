#pragma once
// A model in the style of DeepSeek-V3: its MoE layers exactly (sigmoid scores, a bias that only chooses, groups, a shared expert, dense layers first),
// its attention replaced by ordinary heads. Published weights do not fit it: they need latent attention, which is not built.
//
//                     layers  hidden  heads/kv  experts   of width  shared  dense       parameters  a token uses
//   deepseek_v3_style     61    7168  128 / 8   8 of 256      2048    2048  3 x 18432      674.8 B        41.4 B     latent attention: 671 B, 37 B
#include <moefold/core/model_shape.hpp>

namespace moefold {

inline constexpr model_shape deepseek_v3_style{.layers = 61,
                                               .hidden = 7168,
                                               .heads = 128,
                                               .kv_heads = 8,  // ours: as many as make attention about as large as the latent one
                                               .head_dim = 128,
                                               .experts = 256,
                                               .top_k = 8,
                                               .ffn = 2048,
                                               .vocabulary = 129280,
                                               .norm_eps = 1e-6,
                                               .init_std = 0.006,
                                               .score = score_function::sigmoid,
                                               .weight_scale = 2.5,
                                               .expert_groups = 8,
                                               .chosen_groups = 4,
                                               .expert_bias = true,
                                               .shared_ffn = 2048,
                                               .dense_layers = 3,
                                               .dense_ffn = 18432};

}  // namespace moefold
