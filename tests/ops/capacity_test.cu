#include <moefold/ops/capacity.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::poisoned;
using test::same;
using test::to_device;
using test::to_host;

namespace {

/// Weights of which many are equal, some zero with either sign, some NaN; or all different.
template <class A>
tensor<A> weights(extent_t tokens, extent_t k, bool coarse) {
  const random_stream draw(3, "weights");
  tensor<A> weight({tokens, k});
  for (std::size_t s = 0; s < weight.size(); ++s) {
    const double x = draw.normal(s);
    weight[s] = !coarse ? A(x) : A(double(int(x * 2)) / 4);
    if (coarse && draw.bits(s) % 11 == 0) weight[s] = A(-0.0);
    if (coarse && draw.bits(s) % 13 == 0) weight[s] = std::numeric_limits<A>::quiet_NaN();
  }
  return weight;
}

/// Numbers of tokens, all different, in no order.
tensor<std::int32_t> places(extent_t tokens) {
  tensor<std::int32_t> number({tokens});
  for (extent_t t = 0; t < tokens; ++t) number[std::size_t(t)] = std::int32_t(3 * t - 40);
  const random_stream draw(4, "places");
  for (extent_t t = tokens; t > 1; --t) std::swap(number[std::size_t(t - 1)], number[draw.bits(std::uint64_t(t)) % std::uint64_t(t)]);
  return number;
}

}  // namespace

TEST_SUITE("ops/capacity") {
  TEST_CASE_TEMPLATE("the device keeps exactly the pairs that the host keeps", A, float, double) {
    both_execs on;
    const extent_t k = 2, experts = 5;
    for (const extent_t tokens : {0, 1, 33, 700})
      for (const bool coarse : {false, true})
        for (const bool by_position : {false, true})
          for (const extent_t capacity : {0, 1, 9, 60, 1000}) {
            CAPTURE(tokens);
            CAPTURE(coarse);
            CAPTURE(by_position);
            CAPTURE(capacity);
            tensor<std::int32_t> index({tokens, k}), keep({tokens, k});
            const random_stream draw(2, "index");
            for (extent_t t = 0; t < tokens; ++t)
              for (extent_t j = 0; j < k; ++j)  // different experts of a token, the first ones more often
                index.view()(t, j) =
                    draw.bits(std::uint64_t(t)) % 7 == 0 ? -1 : std::int32_t((draw.bits(std::uint64_t(t)) % 3 + 2 * std::uint64_t(j)) % 5);
            const auto weight = weights<A>(by_position ? 0 : tokens, k, coarse);
            const auto number = places(tokens);
            const auto index_d = to_device(index), number_d = to_device(number);
            const auto weight_d = to_device(weight);
            auto keep_d = poisoned<std::int32_t>({tokens, k});
            keep_within_capacity<A>(on.host, index.view(), weight.view(), number.view(), experts, capacity, by_position, keep.view());
            keep_within_capacity<A>(on.device, index_d.view(), weight_d.view(), number_d.view(), experts, capacity, by_position,
                                    keep_d.view());
            CHECK(same(to_host(on.device, keep_d), keep));

            tensor<std::uint8_t> padding({tokens});
            for (extent_t t = 0; t < tokens; ++t) padding[std::size_t(t)] = t % 4 == 1;
            const auto padding_d = to_device(padding);
            for (const bool padded : {false, true}) {
              tensor<std::int64_t> pairs({1}, 99);
              auto pairs_d = poisoned<std::int64_t>({1});
              count_dropped(on.host, keep.view(), padded ? padding.view() : view<std::uint8_t>{}, pairs.view());
              count_dropped(on.device, keep_d.view(), padded ? padding_d.view() : view<const std::uint8_t>{}, pairs_d.view());
              CHECK(to_host(on.device, pairs_d)[0] == pairs[0]);
            }
          }
  }
}
