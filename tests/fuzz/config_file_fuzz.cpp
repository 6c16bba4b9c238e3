// config.json of a model: a shape that comes out obeys every rule of shapes and comes back the same when it is written and read again.
#include <moefold/model/config_file.hpp>

#include <moefold/model/deepseek.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  model_shape windowed = qwen2_57b_a14b, mixed = qwen3_30b_a3b, dense{.experts = 1, .top_k = 1, .score = score_function::softmax_before};
  windowed.layers = 2, windowed.sliding_window = 64;
  mixed.dense_layers = 2, mixed.dense_ffn = 64;
  dense.dense_layers = dense.layers, dense.dense_ffn = dense.ffn, dense.sliding_window = 8;
  std::vector<std::string> seeds;
  for (const model_shape& m : {mixtral_8x7b, windowed, mixed, deepseek_v3_style, dense}) seeds.push_back(write_config(m));
  seeds.push_back(R"({"model_type":"mixtral","rope_parameters":{"rope_type":"default","rope_theta":1e6},"num_experts":8,"head_dim":null})");
  seeds.push_back(R"({"model_type":"qwen3_moe","rope_scaling":{"type":"yarn"},"mlp_only_layers":[0,1],"layer_types":["full_attention"]})");
  seeds.push_back(R"({"model_type":"deepseek_v3","kv_lora_rank":512,"moe_layer_freq":1,"topk_method":"noaux_tc"})");
  return seeds;
}

void fuzz_one(std::span<const std::byte> input) {
  const model_shape m = read_config(text_of(input), "input");
  check(m);
  holds(read_config(write_config(m), "again") == m);
}
