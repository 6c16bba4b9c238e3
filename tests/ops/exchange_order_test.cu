#include <moefold/ops/exchange_order.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

#include <numeric>

using namespace moefold;
using test::to_device;
using test::to_host;

namespace {

void orders_agree(extent_t etp, extent_t ep, extent_t own, std::uint64_t most) {
  CAPTURE(etp);
  CAPTURE(ep);
  CAPTURE(own);
  CAPTURE(most);
  test::both_execs on;
  tensor<std::int64_t> counts({etp, ep, own}), sent({ep * own});
  const random_stream draw(most, "exchange");
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = std::int64_t(draw.bits(i) % (most + 1));
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = std::int64_t(draw.bits(9999 + i) % (most + 1));
  const extent_t rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  const auto counts_d = to_device(counts), sent_d = to_device(sent);
  const auto same = [&](const auto& host, const auto& device) {
    const auto found = to_host(on.device, device);
    return std::equal(host.begin(), host.end(), found.begin());
  };
  for (const extent_t me : {extent_t(0), etp - 1}) {
    tensor<std::int64_t> offsets({own + 1}), first({own, ep}), sizes({2 * ep + etp});
    tensor<std::int32_t> order({rows});
    exchange_order(on.host, counts, me, offsets, first, order);
    exchange_sizes(on.host, sent, counts, me, sizes);
    auto offsets_d = test::poisoned<std::int64_t>(offsets.shape()), first_d = test::poisoned<std::int64_t>(first.shape());
    auto sizes_d = test::poisoned<std::int64_t>(sizes.shape());
    auto order_d = test::poisoned<std::int32_t>(order.shape());
    exchange_order(on.device, counts_d, me, offsets_d, first_d, order_d);
    exchange_sizes(on.device, sent_d, counts_d, me, sizes_d);
    CHECK(same(offsets, offsets_d));
    CHECK(same(first, first_d));
    CHECK(same(order, order_d));
    CHECK(same(sizes, sizes_d));
  }
  for (const extent_t each : {-1, 0, 7}) {
    tensor<std::int64_t> offsets({ep * own + 1});
    auto offsets_d = test::poisoned<std::int64_t>(offsets.shape());
    row_offsets(on.host, sent, each, offsets);
    row_offsets(on.device, sent_d, each, offsets_d);
    CHECK(same(offsets, offsets_d));
  }
}

}  // namespace

TEST_SUITE("ops/exchange_order") {
  TEST_CASE("sizes, offsets and the order of the batch on the device are those of the host, exactly") {
    for (const extent_t etp : {1, 2, 3})
      for (const extent_t ep : {1, 2, 5})
        for (const extent_t own : {1, 3, 16})
          for (const std::uint64_t most : {0, 1, 5}) orders_agree(etp, ep, own, most);
    orders_agree(2, 8, 40, 3);    // more segments than threads
    orders_agree(1, 2, 4, 1000);  // more rows than one block has
  }
  TEST_CASE("a number of rows that the counts do not have is told when the host waits") {
    test::both_execs on;
    const auto counts_d = to_device(tensor<std::int64_t>({1, 1, 2}, 3));
    auto offsets_d = test::poisoned<std::int64_t>({3}), first_d = test::poisoned<std::int64_t>({2, 1});
    auto order_d = test::poisoned<std::int32_t>({5});
    exchange_order(on.device, counts_d, 0, offsets_d, first_d, order_d);
    CHECK_THROWS_WITH_AS(on.device.wait(), doctest::Contains("asks for row 6 of 5"), error);
  }
}
