// A model from a config.json, as moefold_model() makes it.
#include <moefold/models/tiny_mixtral.hpp>

static_assert(tiny_mixtral ==
              moefold::model_shape{
                  .layers = 2, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .experts = 4, .ffn = 16, .vocabulary = 64});
