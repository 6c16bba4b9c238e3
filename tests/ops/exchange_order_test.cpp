#include <moefold/ops/exchange_order.hpp>

#include <doctest/doctest.h>

#include <moefold/core/rng.hpp>
#include <moefold/tensor/tensor.hpp>

#include <tuple>
#include <vector>

using namespace moefold;

namespace {

tensor<std::int64_t> random_counts(extent_t etp, extent_t ep, extent_t own, std::uint64_t seed, std::uint64_t most) {
  tensor<std::int64_t> counts({etp, ep, own});
  const random_stream draw(seed, "exchange");
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = std::int64_t(draw.bits(i) % (most + 1));
  return counts;
}

/// The batch by sorting: (expert, ep source, etp source, place in the exchange).
struct by_sorting {
  std::vector<std::tuple<extent_t, extent_t, extent_t, std::int32_t>> rows;
  explicit by_sorting(const tensor<std::int64_t>& counts) {
    std::int32_t place = 0;
    for (extent_t q = 0; q < counts.extent(0); ++q)
      for (extent_t r = 0; r < counts.extent(1); ++r)
        for (extent_t x = 0; x < counts.extent(2); ++x)
          for (std::int64_t i = 0; i < counts.view()(q, r, x); ++i) rows.emplace_back(x, r, q, place++);
    std::sort(rows.begin(), rows.end());
  }
};

}  // namespace

TEST_SUITE("ops/exchange_order") {
  TEST_CASE("the batch is sorted by expert, ep source and etp source, on every small shape") {
    host_context context;
    const host_exec e(context);
    for (const extent_t etp : {1, 2, 3})
      for (const extent_t ep : {1, 2, 4})
        for (const extent_t own : {1, 3})
          for (const std::uint64_t most : {0, 1, 4})
            for (extent_t me = 0; me < etp; ++me) {
              CAPTURE(etp);
              CAPTURE(ep);
              CAPTURE(own);
              CAPTURE(me);
              const auto counts = random_counts(etp, ep, own, most, most);
              const by_sorting sorted(counts);
              tensor<std::int64_t> offsets({own + 1}, -1), first({own, ep}, -1);
              tensor<std::int32_t> order({extent_t(sorted.rows.size())}, -1);
              exchange_order(e, counts, me, offsets, first, order);
              for (std::size_t row = 0; row < order.size(); ++row) CHECK(order[row] == std::get<3>(sorted.rows[row]));
              extent_t before_me = 0;  // rows of the etp ranks before this one
              for (extent_t q = 0; q < me; ++q)
                for (const std::int64_t count : counts.view().rows(q, 1)) before_me += count;
              for (extent_t x = 0; x <= own; ++x)
                CHECK(offsets[std::size_t(x)] ==
                      std::count_if(sorted.rows.begin(), sorted.rows.end(), [=](auto& row) { return std::get<0>(row) < x; }));
              for (std::size_t row = 0; row < sorted.rows.size(); ++row) {  // the first row of an (expert, source) of mine
                const auto [x, r, q, place] = sorted.rows[row];
                if (q != me ||
                    (row > 0 && std::tuple(x, r, q) == std::tuple(std::get<0>(sorted.rows[row - 1]), std::get<1>(sorted.rows[row - 1]),
                                                                  std::get<2>(sorted.rows[row - 1]))))
                  continue;
                CHECK(first.view()(x, r) == (etp == 1 ? std::int64_t(row) : place - before_me));
              }
            }
  }
  TEST_CASE("a segment's place among the counts, and the segment of a row, by definition") {
    for (const extent_t etp : {1, 2, 3})
      for (const extent_t ep : {1, 2, 3})
        for (const extent_t own : {1, 2, 5}) {
          const detail::exchange_segments s{etp, ep, own};
          std::vector<int> seen(std::size_t(s.size()), 0);
          for (extent_t x = 0; x < own; ++x)
            for (extent_t r = 0; r < ep; ++r)
              for (extent_t q = 0; q < etp; ++q) {
                ++seen.at(std::size_t(s.segment(x, r, q)));
                CHECK(s.place(s.segment(x, r, q)) == (q * ep + r) * own + x);
              }
          CHECK(seen == std::vector<int>(seen.size(), 1));
          const auto counts = random_counts(1, 1, s.size(), std::uint64_t(own), 2);  // many are empty
          std::vector<std::int64_t> begin{0};
          for (const std::int64_t count : counts) begin.push_back(begin.back() + count);
          std::int64_t row = 0;
          for (extent_t i = 0; i < s.size(); ++i)
            for (std::int64_t j = 0; j < counts[std::size_t(i)]; ++j) CHECK(detail::segment_of(begin.data(), s.size(), row++) == i);
        }
  }
  TEST_CASE("sizes are sums of the counts: sent, received, shared") {
    host_context context;
    const host_exec e(context);
    const auto counts = random_counts(2, 3, 4, 1, 9), sent = random_counts(1, 3, 4, 2, 9);
    tensor<std::int64_t> sizes({2 * 3 + 2}, -1);
    exchange_sizes(e, sent.view().as({12}), counts, 1, sizes);
    const auto sum = [](view<const std::int64_t> v) { return std::accumulate(v.begin(), v.end(), std::int64_t{0}); };
    for (extent_t r = 0; r < 3; ++r) {
      CHECK(sizes[std::size_t(r)] == sum(sent.view().as({3, 4}).rows(r, 1)));
      CHECK(sizes[std::size_t(3 + r)] == sum(counts.view().as({6, 4}).rows(3 + r, 1)));
    }
    for (extent_t q = 0; q < 2; ++q) CHECK(sizes[std::size_t(6 + q)] == sum(counts.view().rows(q, 1)));
  }
  TEST_CASE("offsets are sums of the counts before, or multiples where all have the same") {
    host_context context;
    const host_exec e(context);
    const auto counts = random_counts(1, 1, 5, 1, 9);
    tensor<std::int64_t> offsets({6}, -1);
    row_offsets(e, counts.view().as({5}), -1, offsets);
    for (std::size_t x = 0; x < 5; ++x) CHECK(offsets[x + 1] - offsets[x] == counts[x]);
    CHECK(offsets[0] == 0);
    row_offsets(e, counts.view().as({5}), 7, offsets);
    for (std::size_t x = 0; x <= 5; ++x) CHECK(offsets[x] == 7 * std::int64_t(x));
  }
  TEST_CASE("what does not fit is refused") {
    host_context context;
    const host_exec e(context);
    const tensor<std::int64_t> counts({1, 2, 2}, 1);
    tensor<std::int64_t> offsets({3}), first({2, 2}), sizes({5});
    tensor<std::int32_t> few({3});
    CHECK_THROWS_WITH_AS(exchange_order(e, counts, 0, offsets, first, few), doctest::Contains("needs 4 elements in exchange_of_batch"),
                         error);
    CHECK_THROWS_WITH_AS(exchange_order(e, counts, 1, offsets, first, few), doctest::Contains("has 1 etp ranks, given rank 1"), error);
    CHECK_THROWS_WITH_AS(exchange_sizes(e, counts.view().rows(0, 1).as({4}), counts, 0, offsets),
                         doctest::Contains("needs 5 elements in sizes"), error);
  }
}
