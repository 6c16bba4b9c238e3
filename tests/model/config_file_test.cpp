#include <moefold/model/config_file.hpp>

#include <moefold/model/deepseek.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <random>

using namespace moefold;
using doctest::Contains;

namespace {

// What the published files say of each model, in the order and words of their format. Fields of tokens and versions shortened.
const std::string mixtral_8x7b_text = R"({
  "architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mixtral",
  "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
  "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0", "use_cache": true, "vocab_size": 32000
})";
const std::string mixtral_8x22b_text = R"({
  "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
  "hidden_size": 6144, "initializer_range": 0.02, "intermediate_size": 16384, "max_position_embeddings": 65536, "model_type": "mixtral",
  "num_attention_heads": 48, "num_experts_per_tok": 2, "num_hidden_layers": 56, "num_key_value_heads": 8, "num_local_experts": 8,
  "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_theta": 1000000, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0,
  "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.38.0", "use_cache": true,
  "vocab_size": 32000
})";
const std::string qwen2_57b_a14b_text = R"({
  "architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
  "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
  "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2_moe", "moe_intermediate_size": 2560,
  "norm_topk_prob": false, "num_attention_heads": 28, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 28,
  "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
  "shared_expert_intermediate_size": 20480, "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "transformers_version": "4.40.1", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
})";
const std::string qwen3_30b_a3b_text = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
  "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
  "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
})";
const std::string qwen3_235b_a22b_text = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 94, "mlp_only_layers": [],
  "model_type": "qwen3_moe", "moe_intermediate_size": 1536, "norm_topk_prob": true, "num_attention_heads": 64, "num_experts": 128,
  "num_experts_per_tok": 8, "num_hidden_layers": 94, "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
})";

/// The golden Llama: what a dense model says of its experts is the least there is.
constexpr model_shape dense{.layers = 2,
                            .hidden = 16,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 8,
                            .experts = 1,
                            .top_k = 1,
                            .ffn = 24,
                            .vocabulary = 64,
                            .score = score_function::softmax_before,
                            .dense_layers = 2,
                            .dense_ffn = 24};

/// The text with its first `from` replaced.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}
model_shape read(const std::string& text) { return read_config(text, "config.json"); }
std::string golden(const std::string& name) {
  std::ifstream in("tests/golden/" + name + "/config.json");
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_SUITE("model/config_file") {
  TEST_CASE("the published files of the zoo's models say exactly the zoo's numbers") {
    CHECK(read(mixtral_8x7b_text) == mixtral_8x7b);
    CHECK(read(mixtral_8x22b_text) == mixtral_8x22b);
    CHECK(read(qwen2_57b_a14b_text) == qwen2_57b_a14b);
    CHECK(read(qwen3_30b_a3b_text) == qwen3_30b_a3b);
    CHECK(read(qwen3_235b_a22b_text) == qwen3_235b_a22b);
  }
  TEST_CASE("the first Mixtral files had a window of 4096 tokens") {
    model_shape windowed = mixtral_8x7b;
    windowed.sliding_window = 4096;
    CHECK(read(with(mixtral_8x7b_text, "\"sliding_window\": null", "\"sliding_window\": 4096")) == windowed);
    const std::string wide = with(qwen3_30b_a3b_text, "\"sliding_window\": null", "\"sliding_window\": 4096");
    CHECK(read(wide) == qwen3_30b_a3b);  // not used
    CHECK(read(with(wide, "\"use_sliding_window\": false", "\"use_sliding_window\": true")).sliding_window == 4096);
  }
  TEST_CASE("files of transformers 5 are read: every golden model") {
    constexpr model_shape tiny{
        .layers = 2, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .experts = 4, .top_k = 2, .ffn = 16, .vocabulary = 64};
    CHECK(read(golden("mixtral")) == tiny);
    model_shape m = tiny;
    m.hidden = 16, m.experts = 8, m.top_k = 3, m.ffn = 8, m.vocabulary = 66, m.rope_theta = 1e6;
    m.score = score_function::softmax_before, m.shared_ffn = 24, m.shared_gate = true, m.qkv_bias = true;
    CHECK(read(golden("qwen2_moe")) == m);
    m = tiny;
    m.layers = 4, m.hidden = 16, m.experts = 8, m.top_k = 4, m.ffn = 8, m.rope_theta = 1e6, m.qk_norm = true;
    m.tied_embeddings = true, m.dense_layers = 1, m.dense_ffn = 40;
    CHECK(read(golden("qwen3_moe")) == m);
    m.rope_theta = 1e4, m.tied_embeddings = false, m.qkv_bias = true, m.score = score_function::sigmoid, m.expert_bias = true;
    m.shared_ffn = 16, m.weight_scale = 2.5, m.expert_groups = 4, m.chosen_groups = 2;
    CHECK(read(golden("glm4_moe")) == m);
    CHECK(read(golden("llama")) == dense);
  }
  TEST_CASE("what is written reads back as the same shape, whatever the numbers") {
    model_shape mixed = qwen3_30b_a3b, windowed = qwen2_57b_a14b, tied = mixtral_8x22b_g8t8;
    mixed.dense_layers = 3, mixed.dense_ffn = 99, mixed.score = score_function::softmax_before;
    windowed.sliding_window = 512, windowed.qkv_bias = false, windowed.norm_eps = 1.0 / 3;
    tied.tied_embeddings = true, tied.rope_theta = 12345.678, tied.init_std = 0.006, tied.sliding_window = 7;
    model_shape one = deepseek_v3_style;
    one.top_k = 1, one.expert_groups = one.chosen_groups = 1, one.dense_layers = one.dense_ffn = 0, one.qk_norm = true;
    model_shape mistral = dense, qwen2 = dense, qwen3 = dense;
    mistral.sliding_window = 4096, qwen2.qkv_bias = true, qwen3.qk_norm = true, qwen3.sliding_window = 5;
    for (const model_shape& m : {dense, mistral, qwen2, qwen3, mixtral_8x7b, mixtral_8x22b, mixtral_8x22b_g8t8, qwen2_57b_a14b,
                                 qwen3_30b_a3b, qwen3_235b_a22b, deepseek_v3_style, mixed, windowed, tied, one}) {
      const std::string text = write_config(m);
      CAPTURE(text);
      CHECK(read(text) == m);
    }
    CHECK_THROWS_WITH_AS(write_config(model_shape{.activation = activation_function::gelu}), Contains("SwiGLU"), config_error);
  }
  TEST_CASE("a field that asks for what is not built, or that nobody knows, is an error that names it") {
    const auto refused = [](const std::string& text, const char* field, const char* words) {
      CAPTURE(field);
      CHECK_THROWS_WITH_AS(read(text), Contains(field), format_error);
      CHECK_THROWS_WITH_AS(read(text), Contains(words), format_error);
      CHECK_THROWS_WITH_AS(read(text), Contains("'config.json' at byte"), format_error);
    };
    const std::string& m = mixtral_8x7b_text;
    const auto added = [&](const std::string& text, const std::string& field) { return with(text, "\"use_cache\": true", field); };
    refused(added(m, R"("logit_softcap": 30.0)"), "logit_softcap", "not supported");
    refused(added(m, R"("quantization_config": {"bits": 4})"), "quantization_config", "not supported");
    refused(added(m, R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0})"), "rope_type", "scaled RoPE is not built");
    refused(added(m, R"("rope_scaling": {"type": "default", "factor": 4.0})"), "factor", "not supported");
    refused(added(m, R"("rope_parameters": {"rope_theta": 5000.0})"), "rope_theta", "differ");
    refused(added(m, R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor", "whole heads");
    refused(added(m, R"("kv_lora_rank": 512)"), "kv_lora_rank", "latent attention is not built");
    refused(added(m, R"("attention_bias": true)"), "attention_bias", "output projection");
    refused(added(m, R"("num_experts": 9)"), "num_experts", "differs from 'num_local_experts'");
    refused(added(m, R"("layer_types": ["sliding_attention"])"), "layer_types", "needs 32");
    refused(added(m, R"("model_type": "mixtral")"), "", "twice");
    refused(with(m, "\"mixtral\"", "\"deepseek_v3\""), "model_type", "built are mixtral, qwen2_moe");
    refused(with(m, "\"silu\"", "\"gelu\""), "hidden_act", "SwiGLU");
    refused(with(m, "\"hidden_size\": 4096", "\"hidden_size\": 4096.5"), "hidden_size", "needs an integer");
    refused(with(m, "\"hidden_size\": 4096", "\"hidden_size\": -1"), "hidden_size", "needs 1 to");
    refused(with(m, "\"hidden_size\": 4096", "\"hidden_size\": 4095"), "hidden_size", "multiple of 'num_attention_heads'");
    refused(with(m, "\"hidden_size\": 4096,", ""), "hidden_size", "is missing");
    refused(with(m, "\"rope_theta\": 1000000.0,", ""), "rope_theta", "is missing");
    refused(with(m, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 9"), "num_experts_per_tok", "needs 1 to 8");
    refused(with(m, "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 1"), "", "the router cannot learn");
    refused(with(m, "\"num_key_value_heads\": 8", "\"num_key_value_heads\": 5"), "", "heads must be a multiple of kv_heads");
    refused("[]", "", "an object");
    refused(m.substr(0, m.size() / 2), "", "no valid JSON");
    const std::string& q = qwen3_30b_a3b_text;
    refused(with(q, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [0, 5]"), "mlp_only_layers", "layer 5 is dense behind");
    refused(with(q, "\"mlp_only_layers\": []", "\"mlp_only_layers\": [48]"), "config.json", "needs 0 to 47");
    refused(with(q, "\"decoder_sparse_step\": 1", "\"decoder_sparse_step\": 2"), "decoder_sparse_step", "is dense behind");
    refused(with(q, "\"attention_bias\": false", "\"attention_bias\": true"), "attention_bias", "output projection");
    std::string layers = "\"sliding_attention\"";
    for (int l = 1; l < 48; ++l) layers += ",\"full_attention\"";
    refused(added(q, "\"layer_types\": [" + layers + "]"), "layer_types", "sliding_attention");
    const std::string g = golden("glm4_moe");
    refused(with(g, "\"num_nextn_predict_layers\": 0", "\"num_nextn_predict_layers\": 1"), "num_nextn_predict_layers", "tokens ahead");
    refused(with(g, "\"partial_rotary_factor\": 1.0,", ""), "partial_rotary_factor", "means 0.5");
    refused(with(g, "\"norm_topk_prob\": true", "\"norm_topk_prob\": false"), "norm_topk_prob", "divided by their sum");
    const std::string d = golden("llama");
    refused(with(d, "\"attention_bias\": false", "\"attention_bias\": true"), "attention_bias", "output projection");
    refused(with(d, "\"mlp_bias\": false", "\"mlp_bias\": true"), "mlp_bias", "no bias");
    refused(with(d, "\"llama\"", "\"mistral\""), "sliding_window", "say null");
    refused(with(g, "\"topk_group\": 2", "\"topk_group\": 4"), "", "best two experts");
  }
  TEST_CASE("texts cut anywhere, and with any byte changed, are a shape or a format_error") {
    std::mt19937 random(7);
    const std::string whole = golden("glm4_moe");
    int shapes = 0, errors = 0;
    const auto attempt = [&](const std::string& text) {
      try {
        check(read(text));
        ++shapes;
      } catch (const format_error&) {
        ++errors;
      }
    };
    for (std::size_t n = 0; n < whole.size() - 2; ++n) attempt(whole.substr(0, n));
    CHECK(shapes == 0);
    for (int i = 0; i < 3000; ++i) {
      std::string text = whole;
      text[random() % text.size()] = char(random() % 4 == 0 ? random() % 256 : '0' + random() % 10);
      attempt(text);
    }
    CHECK(errors > 1000);
    CHECK(shapes > 100);  // another number is another model
  }
}
