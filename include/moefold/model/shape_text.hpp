#pragma once
// A model's shape as C++ text: the header that moefold_model() (cmake/Models.cmake) makes from a config.json, so that a model read from a file is a
// constant of the program like one from the zoo.
//
//   inline constexpr moefold::model_shape my_moe{
//       .layers = 32,
//       .hidden = 4096, ...
#include <moefold/core/model_shape.hpp>

namespace moefold {

/// Every field of the shape for the braces of a C++ initialiser, a line each, behind `indent`.
inline std::string shape_fields(const model_shape& m, const char* indent = "    ") {
  // All fields by name; a field that this list does not know is a compile error here.
  const auto& [layers, hidden, heads, kv_heads, head_dim, experts, top_k, ffn, vocabulary, rope_theta, norm_eps, init_std, score,
               weight_scale, expert_groups, chosen_groups, expert_bias, activation, shared_ffn, shared_gate, qkv_bias, qk_norm,
               sliding_window, tied_embeddings, dense_layers, dense_ffn] = m;
  std::string fields;
  const auto put = [&](const char* field, const auto& value) {
    fields += sentence(fields.empty() ? "" : ",", "\n", indent, ".", field, " = ", value);
  };
  const auto real = [](double x) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.17g", x);
    return std::string(digits);
  };
  constexpr const char* scores[] = {"softmax_after", "softmax_before", "sigmoid"};
  put("layers", layers);
  put("hidden", hidden);
  put("heads", heads);
  put("kv_heads", kv_heads);
  put("head_dim", head_dim);
  put("experts", experts);
  put("top_k", top_k);
  put("ffn", ffn);
  put("vocabulary", vocabulary);
  put("rope_theta", real(rope_theta));
  put("norm_eps", real(norm_eps));
  put("init_std", real(init_std));
  put("score", sentence("moefold::score_function::", scores[int(score)]));
  put("weight_scale", real(weight_scale));
  put("expert_groups", expert_groups);
  put("chosen_groups", chosen_groups);
  put("expert_bias", expert_bias);
  put("activation", sentence("moefold::activation_function::", activation == activation_function::swiglu ? "swiglu" : "gelu"));
  put("shared_ffn", shared_ffn);
  put("shared_gate", shared_gate);
  put("qkv_bias", qkv_bias);
  put("qk_norm", qk_norm);
  put("sliding_window", sliding_window);
  put("tied_embeddings", tied_embeddings);
  put("dense_layers", dense_layers);
  put("dense_ffn", dense_ffn);
  return fields;
}

/// A C++ header that defines the shape as a constant `name`, a valid identifier. from: what it was made of, for its first line.
inline std::string write_shape(const model_shape& m, const std::string& name, const std::string& from) {
  return sentence("#pragma once\n// Made from ", from, "; do not edit.\n#include <moefold/core/model_shape.hpp>\n\n",
                  "inline constexpr moefold::model_shape ", name, "{", shape_fields(m), "};\n");
}

}  // namespace moefold
