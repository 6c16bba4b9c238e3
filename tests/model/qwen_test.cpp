#include <moefold/model/qwen.hpp>

#include <doctest/doctest.h>
#include "../support/used_parameters.hpp"

using namespace moefold;
using testing::billions;
using testing::used_parameters;

TEST_SUITE("model/qwen") {
  TEST_CASE("the models have as many parameters, and use as many per token, as was published") {
    static_assert(check_model<qwen2_57b_a14b>::ok && check_model<qwen3_30b_a3b>::ok && check_model<qwen3_235b_a22b>::ok);
    static_assert(billions(count_parameters(qwen2_57b_a14b), 57.41, 0.005) && billions(used_parameters(qwen2_57b_a14b), 14.2, 0.05));
    static_assert(billions(count_parameters(qwen3_30b_a3b), 30.5, 0.05) && billions(used_parameters(qwen3_30b_a3b), 3.35, 0.05));
    static_assert(billions(count_parameters(qwen3_235b_a22b), 235, 0.5) && billions(used_parameters(qwen3_235b_a22b), 22, 0.5));
  }
  TEST_CASE("without the two tables, they have the 29.9 and 234 billions that their descriptions give") {
    constexpr auto tables = [](const model_shape& m) { return 2 * m.vocabulary * m.hidden; };
    static_assert(billions(count_parameters(qwen3_30b_a3b) - tables(qwen3_30b_a3b), 29.9, 0.05));
    static_assert(billions(count_parameters(qwen3_235b_a22b) - tables(qwen3_235b_a22b), 234, 0.5));
  }
}
