#include <moefold/train/trainer.hpp>

#include <doctest/doctest.h>
#include "../support/curve.hpp"

#include <cmath>

using namespace moefold;
using namespace moefold::testing;

TEST_SUITE("train/precision") {
  TEST_CASE("real text is learnt in 30 steps of bf16 as in fp32, also with narrow moments or folded, and a run repeats bit for bit") {
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}});
    const curve exact = train_curve<fp32>(30), mixed = train_curve<mixed_bf16>(30), again = train_curve<mixed_bf16>(30, {}, 10),
                narrow = train_curve<with_moments<mixed_bf16, bf16>>(30), folded = train_curve<mixed_bf16>(30, fold);
    MESSAGE("mean loss of the last 5 steps: fp32 ", exact.last(5), ", bf16 ", mixed.last(5), ", bf16 moments ", narrow.last(5), ", folded ",
            folded.last(5));
    CHECK(exact.last(5) < 0.8 * std::log(256.0));  // something was learnt
    CHECK(std::equal(again.losses.begin(), again.losses.end(), mixed.losses.begin()));
    CHECK(std::equal(again.norms.begin(), again.norms.end(), mixed.norms.begin()));
    CHECK(mixed.losses != exact.losses);   // it is another arithmetic,
    CHECK(mixed.losses != narrow.losses);  // and narrow moments another state
    for (const curve* other : {&mixed, &narrow, &folded}) {
      CHECK(std::abs(other->losses.front() / exact.losses.front() - 1) < 1e-4);
      CHECK(std::abs(other->last(5) / exact.last(5) - 1) < 0.01);
    }
  }
}
