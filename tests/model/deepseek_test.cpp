#include <moefold/model/deepseek.hpp>

#include <doctest/doctest.h>
#include "../support/used_parameters.hpp"

using namespace moefold;
using testing::billions;
using testing::used_parameters;

TEST_SUITE("model/deepseek") {
  TEST_CASE("everything but attention has as many parameters as DeepSeek-V3: 671 billions without its latent attention's 11.4") {
    static_assert(check_model<deepseek_v3_style>::ok);
    constexpr model_shape m = deepseek_v3_style;
    // per layer: q_a, q_b, kv_a, kv_b, o and the two norms inside
    constexpr extent_t latent =
        7168 * 1536 + 1536 * 128 * (128 + 64) + 7168 * (512 + 64) + 512 * 128 * (128 + 128) + 128 * 128 * 7168 + 1536 + 512;
    constexpr extent_t ordinary = 2 * m.hidden * (m.q_width() + m.kv_width());
    static_assert(billions(count_parameters(m) + m.layers * (latent - ordinary), 671.0, 0.05));
    static_assert(billions(used_parameters(m) + m.layers * (latent - ordinary), 37, 0.6));  // published as 37: 37.6 with both tables
  }
}
