#include <moefold/ops/cross_entropy.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;

namespace {

/// `shards` ranks that hold `width` columns each, of which the last ones have fewer (or none) that are real.
template <class T>
void twins_agree(double limit, extent_t tokens, extent_t width, extent_t shards, extent_t vocabulary) {
  CAPTURE(tokens);
  CAPTURE(width);
  using A = accumulate_t<T>;
  constexpr double close = std::is_same_v<A, float> ? 1e-5 : 1e-12;
  test::both_execs x;
  tensor<std::int32_t> labels({tokens});
  for (std::size_t t = 0; t < labels.size(); ++t) labels[t] = t % 5 == 3 ? -1 : std::int32_t(t * 7919 % std::size_t(vocabulary));
  const auto labels_d = test::to_device(labels);
  tensor<A> parts({shards, tokens, 3}), stats({tokens, 3}), loss({tokens});
  auto parts_d = test::poisoned<A>({shards, tokens, 3}), stats_d = test::poisoned<A>({tokens, 3}), loss_d = test::poisoned<A>({tokens});
  std::vector<tensor<T>> logits;
  std::vector<test::device_tensor<T>> logits_d;
  const auto valid = [&](extent_t s) { return std::clamp<extent_t>(vocabulary - s * width, 0, width); };
  for (extent_t s = 0; s < shards; ++s) {
    logits.push_back(test::random_tensor<T>({tokens, width}, std::uint64_t(s) + 1, 3.0));
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t c = valid(s); c < width; ++c) logits.back().view()(t, c) = T(1e6f);  // padding must not matter
    logits_d.push_back(test::to_device(logits.back()));
    cross_entropy_local(x.host, logits.back().view(), labels.view(), s * width, valid(s), parts.view().rows(s, 1).as({tokens, 3}));
    cross_entropy_local(x.device, view<const T>(logits_d.back()), labels_d.view(), s * width, valid(s),
                        parts_d.view().rows(s, 1).as({tokens, 3}));
  }
  cross_entropy_merge(x.host, parts, stats.view(), loss);
  cross_entropy_merge(x.device, parts_d, stats_d.view(), loss_d);
  CHECK(test::norm_error(test::to_host(x.device, parts_d), parts) < close);
  CHECK(test::norm_error(test::to_host(x.device, stats_d), stats) < close);
  CHECK(test::norm_error(test::to_host(x.device, loss_d), loss) < close);
  for (extent_t s = 0; s < shards; ++s) {
    auto& own = logits[std::size_t(s)];
    auto& own_d = logits_d[std::size_t(s)];
    cross_entropy_backward(x.host, own.view(), labels.view(), s * width, valid(s), stats);
    cross_entropy_backward(x.device, own_d.view(), labels_d.view(), s * width, valid(s), stats_d);
    CHECK(test::norm_error(test::to_host(x.device, own_d), own) < limit);
  }
}

}  // namespace

TEST_SUITE("ops/cross_entropy") {
  TEST_CASE_TEMPLATE("statistics, loss and gradient on the device agree with their host twins, for any number of shards", T, float, double,
                     bf16) {
    const double limit = std::is_same_v<T, bf16> ? 1e-2 : std::is_same_v<T, float> ? 1e-5 : 1e-12;
    twins_agree<T>(limit, 0, 8, 1, 8);
    twins_agree<T>(limit, 1, 1, 1, 1);
    twins_agree<T>(limit, 7, 40, 1, 37);  // packs, the last one partly padding
    twins_agree<T>(limit, 9, 13, 4, 37);  // single elements; the last rank holds padding only
    twins_agree<T>(limit, 6, 4096, 2, 5001);
  }
  TEST_CASE("infinite and NaN logits give what they give on the host") {
    constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    test::both_execs x;
    const extent_t width = 600;  // more than one element for some threads
    tensor<float> logits({6, width}, 1.0f);
    const auto set = [&](extent_t t, extent_t c, float value) { logits.view()(t, c) = value; };
    set(0, 5, -inf), set(0, 500, -inf);
    set(1, 17, nan);
    for (extent_t c = 0; c < width; ++c) set(2, c, -inf), set(3, c, c % 2 ? nan : -inf), set(4, c, c == 3 ? 2.0f : -inf);
    set(5, 9, inf);
    tensor<std::int32_t> labels({6}, 3);
    tensor<float> stats({6, 3});
    const auto logits_d = test::to_device(logits);
    const auto labels_d = test::to_device(labels);
    auto stats_d = test::poisoned<float>({6, 3});
    cross_entropy_local(x.host, logits.view(), labels.view(), 0, width, stats.view());
    cross_entropy_local(x.device, view<const float>(logits_d), labels_d.view(), 0, width, stats_d.view());
    const auto given = test::to_host(x.device, stats_d);
    for (std::size_t i = 0; i < given.size(); ++i) {
      CAPTURE(i);
      if (std::isnan(stats[i]))
        CHECK(std::isnan(given[i]));
      else if (std::isinf(stats[i]))
        CHECK(given[i] == stats[i]);
      else
        CHECK(given[i] == doctest::Approx(stats[i]).epsilon(1e-6));
    }
  }
  TEST_CASE("a label outside the vocabulary is named when the host waits, and only then") {
    test::both_execs x;
    const auto labels = test::to_device(std::vector<std::int32_t>{0, -1, 70, 3});
    require_labels(x.device, labels.view(), 71);
    CHECK_NOTHROW(x.device.wait());
    require_labels(x.device, labels.view(), 70);
    CHECK_THROWS_WITH_AS(x.device.wait(),
                         "moefold: label 70 is outside the vocabulary of 70 (at place 2); use labels below it, negative to ignore", error);
    CHECK_NOTHROW(x.device.wait());
  }
}
