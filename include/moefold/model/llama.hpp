#pragma once
// Llama3-8x70B: Llama 3 70B with every MLP copied into eight experts (model/upcycle.hpp), of which a token uses two.
//
//                 layers  hidden  heads/kv  experts  of width  parameters  a token uses
//   llama3_8x70b      80    8192   64 / 8   2 of 8      28672     465.2 B       126.9 B     how many experts a token uses is our assumption
#include <moefold/core/model_shape.hpp>

namespace moefold {

inline constexpr model_shape llama3_8x70b{.layers = 80,
                                          .hidden = 8192,
                                          .heads = 64,
                                          .kv_heads = 8,
                                          .head_dim = 128,
                                          .experts = 8,
                                          .top_k = 2,
                                          .ffn = 28672,
                                          .vocabulary = 128256,
                                          .rope_theta = 5e5};

}  // namespace moefold
