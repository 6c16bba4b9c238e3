#include <moefold/ops/jitter.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

jitter_rule rule_of(double strength, extent_t first_sample = 0, extent_t batch = 1, sequence_part part = {}) {
  jitter_rule rule;
  rule.draw = random_stream(9, "jitter"), rule.strength = strength;
  rule.first_sample = first_sample, rule.batch = batch, rule.part = part;
  return rule;
}

}  // namespace

TEST_SUITE("ops/jitter") {
  TEST_CASE("every element has a factor of its own within the strength") {
    host_context context;
    const host_exec e(context);
    tensor<double> ones({8, 50}, 1.0), out({8, 50});
    jitter_rows(e, ones, rule_of(0.25), out.view());
    double least = 2, most = 0;
    for (const double x : out.view()) least = std::min(least, x), most = std::max(most, x);
    CHECK((least > 0.75 && least < 0.77));
    CHECK((most > 1.23 && most < 1.25));
    for (std::size_t i = 1; i < out.size(); ++i) CHECK(out[i] != out[i - 1]);
    jitter_rows(e, ones, rule_of(0), out.view());
    CHECK(std::equal(out.begin(), out.end(), ones.begin()));
  }
  TEST_CASE("a token has the same factors on whichever rank and in whichever micro-batch it is") {
    host_context context;
    const host_exec e(context);
    const extent_t width = 3, sequence = 8;
    tensor<double> ones({sequence * 2, width}, 1.0), whole({sequence * 2, width}), part({sequence / 2, width});
    jitter_rows(e, ones, rule_of(0.1, 4, 2, {.sequence = sequence}), whole.view());
    for (extent_t rank = 0; rank < 2; ++rank) {
      const sequence_part own{.sequence = sequence, .cp = 2, .cp_rank = rank};
      jitter_rows(e, ones.view().rows(0, sequence / 2), rule_of(0.1, 5, 1, own), part.view());  // the second of the two sequences alone
      for (extent_t i = 0; i < sequence / 2; ++i)
        for (extent_t c = 0; c < width; ++c) CHECK(part.view()(i, c) == whole.view()(own.local_position(i) * 2 + 1, c));
    }
  }
  TEST_CASE("the way back adds the gradient times the same factors") {
    host_context context;
    const host_exec e(context);
    const auto dx = random_tensor<float>({4, 5}, 1), before = random_tensor<float>({4, 5}, 2);
    tensor<float> part({4, 5}), sum = test::copy_of(before.view());
    jitter_rows(e, dx, rule_of(0.1), part.view());
    add_jittered(e, dx, rule_of(0.1), sum.view());
    for (std::size_t i = 0; i < sum.size(); ++i) CHECK(sum[i] == before[i] + part[i]);
    tensor<float> own = test::copy_of(dx.view());
    jitter_rows(e, own, rule_of(0.1), own.view());  // in place
    CHECK(std::equal(own.begin(), own.end(), part.begin()));
  }
}
