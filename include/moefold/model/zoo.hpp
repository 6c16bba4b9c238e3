#pragma once
// Every shape of the zoo by the name that people type, and the constant and header it stands in.
//
//   find_model("mixtral-8x22b")->shape == mixtral_8x22b
#include <moefold/model/deepseek.hpp>
#include <moefold/model/llama.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include <array>
#include <string_view>

namespace moefold {

struct known_model {
  std::string_view name;
  const model_shape* shape = nullptr;
  std::string_view constant, header;  // C++: the constant's name, the header of moefold/model/
};

/// Of the trainer's default runs: 2 million parameters over bytes.
inline constexpr model_shape default_model{};

inline constexpr std::array<known_model, 9> known_models = {{{"mixtral-8x7b", &mixtral_8x7b, "mixtral_8x7b", "mixtral"},
                                                             {"mixtral-8x22b", &mixtral_8x22b, "mixtral_8x22b", "mixtral"},
                                                             {"mixtral-8x22b-g8t8", &mixtral_8x22b_g8t8, "mixtral_8x22b_g8t8", "mixtral"},
                                                             {"qwen2-57b-a14b", &qwen2_57b_a14b, "qwen2_57b_a14b", "qwen"},
                                                             {"qwen3-30b-a3b", &qwen3_30b_a3b, "qwen3_30b_a3b", "qwen"},
                                                             {"qwen3-235b-a22b", &qwen3_235b_a22b, "qwen3_235b_a22b", "qwen"},
                                                             {"llama3-8x70b", &llama3_8x70b, "llama3_8x70b", "llama"},
                                                             {"deepseek-v3-style", &deepseek_v3_style, "deepseek_v3_style", "deepseek"},
                                                             {"default", &default_model, "default_model", "zoo"}}};

/// A model by its name; nullptr where there is none.
constexpr const known_model* find_model(std::string_view name) {
  for (const known_model& m : known_models)
    if (name == m.name) return &m;
  return nullptr;
}

}  // namespace moefold
