#include <moefold/optim/clip.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("optim/clip") {
  TEST_CASE("a norm below the limit is left alone, one above is scaled to the limit") {
    CHECK(clip_coefficient(0.5, 1.0) == 1.0);
    CHECK(clip_coefficient(0.0, 1.0) == 1.0);
    CHECK(clip_coefficient(4.0, 1.0) * 4.0 == doctest::Approx(1.0).epsilon(1e-6));
    CHECK(clip_coefficient(4.0, 1.0) * 4.0 < 1.0);  // the 1e-6 of the contract
    CHECK(clip_coefficient(4.0, 1.0) == 1.0 / (4.0 + 1e-6));
  }
  TEST_CASE("a limit of 0 or less switches clipping off") {
    CHECK(clip_coefficient(1e9, 0.0) == 1.0);
    CHECK(clip_coefficient(1e9, -1.0) == 1.0);
  }
}
