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

TEST_SUITE("train/precision_soak") {
  TEST_CASE(
      "after 200 steps on real text the loss of bf16 is within 1% of fp32's, with narrow moments and folded too; runs repeat bit for bit") {
    using enum axis_id;
    using narrow = with_moments<mixed_bf16, bf16>;
    constexpr std::int64_t steps = 200;
    const folding_extents fold = make_folding({{tp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}});
    const curve exact = train_curve<fp32>(steps), mixed = train_curve<mixed_bf16>(steps), small = train_curve<narrow>(steps),
                folded = train_curve<mixed_bf16>(steps, fold);
    const auto off = [&](const curve& c) { return std::abs(c.last(10) / exact.last(10) - 1); };
    const auto rerouted = [&](const curve& c) {  // experts chosen otherwise, as counted
      std::int64_t moved = 0;
      for (std::size_t i = 0; i < c.load.size(); ++i) moved += std::abs(c.load[i] - exact.load[i]);
      return moved / 2;
    };
    const auto say = [&](const std::string& name, const curve& c) {
      MESSAGE(name, ": mean loss of the last 10 steps ", c.last(10), ", ", 100 * off(c), " % from fp32; at least ", rerouted(c),
              " choices of the last step differ");
    };
    say("fp32", exact), say("bf16", mixed), say("bf16 moments", small), say("bf16 on tp2 pp2, ep2 pp2", folded);
    CHECK(exact.last(10) < order0_entropy(own_sources()) - 0.3);  // well below what letter frequencies alone give
    CHECK(off(mixed) < 0.01);
    CHECK(off(small) < 0.01);
    CHECK(off(folded) < 0.01);
    CHECK(mixed.losses != exact.losses);
    CHECK(mixed == train_curve<mixed_bf16>(steps));  // losses, norms, load and the last weights
    CHECK(small == train_curve<narrow>(steps));
    CHECK(folded == train_curve<mixed_bf16>(steps, fold));
  }
}
