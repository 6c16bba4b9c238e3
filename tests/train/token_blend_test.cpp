#include <moefold/train/token_blend.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace moefold;

namespace {

token_blend blend_of(std::vector<double> weights) { return token_blend(weights); }

// The largest distance of a source from its share after any number of samples up to `most`, beyond samples / slots.
double worst_error(const std::vector<double>& weights, extent_t most) {
  const token_blend blend(weights);
  double sum = 0, worst = 0;
  for (const double w : weights) sum += w;
  std::vector<extent_t> given(weights.size());
  for (extent_t n = 0; n < most; ++n) {
    const token_blend::place at = blend(n);
    if (at.before != given[at.source]) return 1e9;  // not the next of its source
    ++given[at.source];
    for (std::size_t s = 0; s < weights.size(); ++s)
      worst = std::max(worst, std::abs(double(given[s]) - weights[s] / sum * double(n + 1)) - double(n + 1) / double(token_blend::slots));
  }
  return worst;
}

}  // namespace

TEST_SUITE("train/token_blend") {
  TEST_CASE(
      "every source has its share of any first samples, to one sample and one in all the slots, and its samples are numbered without "
      "gaps") {
    const extent_t most = 3 * token_blend::slots + 100;
    CHECK(worst_error({1, 1}, most) <= 1);
    CHECK(worst_error({5, 3}, most) <= 1);
    CHECK(worst_error({0.7, 0.2, 0.0999, 0.0001}, most) <= 1);
    CHECK(worst_error({1e-200, 2e-200, 3e-200}, most) <= 1);
    std::vector<double> many;
    for (int i = 0; i < 60; ++i) many.push_back(1 + (i * 37) % 11);
    CHECK(worst_error(many, most) <= 1);
    many.assign(200, 0.001);  // one large among many small ones: the greedy choice by largest error would fail here
    many[0] = 0.8;
    CHECK(worst_error(many, token_blend::slots) <= 1);
  }
  TEST_CASE("a blend repeats itself, so that any sample is found at once") {
    const token_blend blend = blend_of({5, 3});
    extent_t of_first = 0;
    for (extent_t n = 0; n < token_blend::slots; ++n) of_first += blend(n).source == 0;
    const extent_t far = token_blend::slots * 1'000'000'000;
    for (extent_t n = 0; n < 100; ++n) {
      const auto near = blend(n), later = blend(far + n);
      CHECK(later.source == near.source);
      CHECK(later.before == near.before + 1'000'000'000 * (near.source == 0 ? of_first : token_blend::slots - of_first));
    }
    CHECK(blend.share(0) == doctest::Approx(0.625).epsilon(1e-3));
    CHECK(blend.share(0) + blend.share(1) == 1);
  }
  TEST_CASE("one source gives every sample") {
    for (const token_blend& blend : {token_blend(), blend_of({0.3})}) {
      CHECK(blend.sources() == 1);
      CHECK(blend(123456789).source == 0);
      CHECK(blend(123456789).before == 123456789);
      CHECK(blend.share(0) == 1);
    }
  }
  TEST_CASE("weights that are none are refused, and a share too small for the table too") {
    for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()})
      CHECK_THROWS_WITH_AS(blend_of({1, bad}), doctest::Contains("a weight is a positive finite number"), config_error);
    CHECK_THROWS_WITH_AS(blend_of({}), doctest::Contains("1 to 1024 sources (given 0)"), config_error);
    CHECK_THROWS_WITH_AS(blend_of(std::vector<double>(1025, 1)), doctest::Contains("(given 1025)"), config_error);
    CHECK_THROWS_WITH_AS(blend_of({1e6, 1}), doctest::Contains("source 1 of the blend has the share"), config_error);
  }
}
