#pragma once
// The numbers of Qwen's MoE models, as in their published config.json files.
//
//                     layers  hidden  heads/kv  experts   of width  shared  parameters  a token uses
//   qwen2_57b_a14b        28    3584   28 / 4   8 of 64       2560   20480      57.4 B        14.2 B    biases of q, k, v; weights not renormalised
//   qwen3_30b_a3b         48    2048   32 / 4   8 of 128       768       -      30.5 B         3.3 B    norms of query and key heads
//   qwen3_235b_a22b       94    4096   64 / 4   8 of 128      1536       -     235.1 B        22.2 B    norms of query and key heads
#include <moefold/core/model_shape.hpp>

namespace moefold {

inline constexpr model_shape qwen2_57b_a14b{.layers = 28,
                                            .hidden = 3584,
                                            .heads = 28,
                                            .kv_heads = 4,
                                            .head_dim = 128,
                                            .experts = 64,
                                            .top_k = 8,
                                            .ffn = 2560,
                                            .vocabulary = 151936,
                                            .rope_theta = 1e6,
                                            .norm_eps = 1e-6,
                                            .score = score_function::softmax_before,
                                            .shared_ffn = 20480,
                                            .shared_gate = true,
                                            .qkv_bias = true};

inline constexpr model_shape qwen3_30b_a3b{.layers = 48,
                                           .hidden = 2048,
                                           .heads = 32,
                                           .kv_heads = 4,
                                           .head_dim = 128,
                                           .experts = 128,
                                           .top_k = 8,
                                           .ffn = 768,
                                           .vocabulary = 151936,
                                           .rope_theta = 1e6,
                                           .norm_eps = 1e-6,
                                           .qk_norm = true};

inline constexpr model_shape qwen3_235b_a22b{.layers = 94,
                                             .hidden = 4096,
                                             .heads = 64,
                                             .kv_heads = 4,
                                             .head_dim = 128,
                                             .experts = 128,
                                             .top_k = 8,
                                             .ffn = 1536,
                                             .vocabulary = 151936,
                                             .rope_theta = 1e6,
                                             .norm_eps = 1e-6,
                                             .qk_norm = true};

}  // namespace moefold
