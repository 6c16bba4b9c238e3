#include <moefold/core/scaling.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace moefold;

TEST_SUITE("core/scaling") {
  TEST_CASE("the scale is the largest power of two that keeps the largest magnitude inside the format") {
    static_assert(scale_of(448, 448) == 1 && scale_of(449, 448) == 0.5f && scale_of(224, 448) == 2 && scale_of(1, 448) == 256);
    for (const float largest : {fp8_e4m3::largest, fp8_e5m2::largest})
      for (float amax = 1e-24f; amax < 1e24f; amax *= 1.37f) {
        const float scale = scale_of(amax, largest);
        int exponent = 0;
        CHECK(std::frexp(scale, &exponent) == 0.5f);
        CHECK(amax * scale <= largest);
        CHECK(amax * scale * 2 > largest);
      }
  }
  TEST_CASE("a magnitude that says nothing gives the scale 1, extreme ones a bounded scale") {
    for (const float amax : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) CHECK(scale_of(amax, 448) == 1);
    CHECK(scale_of(std::numeric_limits<float>::denorm_min(), 448) == std::ldexp(1.0f, 100));
    CHECK(scale_of(1e38f, 448) == std::ldexp(1.0f, -100));
  }
  TEST_CASE("a history knows the largest magnitude of its last steps and forgets older ones") {
    float now = 0;
    std::vector<float> memory(3, 0.0f);
    const amax_history h{&now, memory};
    CHECK(h.known() == 0);
    for (const float seen : {5.0f, 1.0f, 2.0f}) {
      h.record(seen / 2), h.record(seen), h.record(seen / 4);
      h.roll();
    }
    CHECK(h.known() == 5);
    CHECK(memory == std::vector<float>{2, 1, 5});
    h.roll();  // a step in which nothing was seen
    CHECK(h.known() == 2);
    CHECK(now == 0);
    static_assert(scaling_policy<current_scaling> && scaling_policy<delayed_scaling<4>> && delayed_scaling<4>::history == 4);
  }
}
