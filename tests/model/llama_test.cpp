#include <moefold/model/llama.hpp>

#include <doctest/doctest.h>
#include "../support/used_parameters.hpp"

using namespace moefold;
using testing::billions;
using testing::used_parameters;

TEST_SUITE("model/llama") {
  TEST_CASE("with one expert and no router it is Llama 3 70B, parameter for parameter") {
    static_assert(check_model<llama3_8x70b>::ok);
    constexpr model_shape dense = [] {
      model_shape m = llama3_8x70b;
      m.dense_layers = m.layers, m.dense_ffn = m.ffn;
      return m;
    }();
    static_assert(count_parameters(dense) == 70'553'706'496);  // of the published files
    static_assert(count_parameters(llama3_8x70b) == 70'553'706'496 + 80 * (7 * 3 * extent_t{28672} * 8192 + 8 * 8192));
    static_assert(billions(count_parameters(llama3_8x70b), 465.2, 0.05) && billions(used_parameters(llama3_8x70b), 126.9, 0.05));
  }
}
