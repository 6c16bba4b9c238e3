#include <moefold/model/shape_text.hpp>

#include <moefold/model/deepseek.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("model/shape_text") {
  TEST_CASE("a shape is written as a C++ constant, every field by name and in the struct's order") {
    model_shape m = deepseek_v3_style;
    m.norm_eps = 1.0 / 3, m.sliding_window = 5;
    const std::string text = write_shape(m, "mine", "a/config.json");
    CHECK(text.find("// Made from a/config.json; do not edit.") != std::string::npos);
    CHECK(text.find("inline constexpr moefold::model_shape mine{\n    .layers = 61,\n    .hidden = 7168,") != std::string::npos);
    for (const char* field : {".norm_eps = 0.33333333333333331,", ".score = moefold::score_function::sigmoid,", ".weight_scale = 2.5,",
                              ".expert_bias = true,", ".sliding_window = 5,", ".dense_ffn = 18432};"})
      CHECK(text.find(field) != std::string::npos);
  }
}
