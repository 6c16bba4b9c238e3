#pragma once
// Mixtral's numbers, as in its published config.json files, and the fine-grained variant that the paper on parallel folding trains.
//
//                         layers  hidden  heads/kv  experts  of width  parameters  a token uses
//   mixtral_8x7b              32    4096   32 / 8   2 of 8      14336      46.7 B        12.9 B
//   mixtral_8x22b             56    6144   48 / 8   2 of 8      16384     140.6 B        39.2 B
//   mixtral_8x22b_g8t8        56    6144   48 / 8   8 of 64      2048     140.6 B        22.3 B    each expert cut into 8; a token uses 8 pieces
#include <moefold/core/model_shape.hpp>

namespace moefold {

inline constexpr model_shape mixtral_8x7b{.layers = 32,
                                          .hidden = 4096,
                                          .heads = 32,
                                          .kv_heads = 8,
                                          .head_dim = 128,
                                          .experts = 8,
                                          .top_k = 2,
                                          .ffn = 14336,
                                          .vocabulary = 32000,
                                          .rope_theta = 1e6};

inline constexpr model_shape mixtral_8x22b{.layers = 56,
                                           .hidden = 6144,
                                           .heads = 48,
                                           .kv_heads = 8,
                                           .head_dim = 128,
                                           .experts = 8,
                                           .top_k = 2,
                                           .ffn = 16384,
                                           .vocabulary = 32000,
                                           .rope_theta = 1e6};

inline constexpr model_shape mixtral_8x22b_g8t8 = [] {
  model_shape m = mixtral_8x22b;
  m.experts = 64, m.top_k = 8, m.ffn = 2048;
  return m;
}();

}  // namespace moefold
