#include <moefold/ops/capacity.hpp>

#include <moefold/core/rng.hpp>
#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <numeric>
#include <vector>

using namespace moefold;

namespace {

using numbers = std::vector<std::int32_t>;
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct pairs {
  extent_t k, experts;
  numbers index;               // [N k]
  std::vector<double> weight;  // [N k], exact in float
  numbers number;              // [N]
};

struct outcome {
  numbers keep;
  extent_t dropped = 0;
};

template <class A = double>
outcome keep(const pairs& p, extent_t capacity, bool by_position) {
  host_context context;
  const extent_t tokens = extent_t(p.number.size());
  const std::vector<A> weight(p.weight.begin(), p.weight.end());
  outcome out{numbers(p.index.size(), 99)};
  out.dropped =
      keep_within_capacity<A>(host_exec(context), {p.index.data(), {tokens, p.k}}, {weight.data(), {by_position ? 0 : tokens, p.k}},
                              std::span<const std::int32_t>(p.number), p.experts, capacity, by_position, {out.keep.data(), {tokens, p.k}});
  return out;
}

/// The definition, pair by pair: a pair stays unless `capacity` others of its expert go before it.
numbers by_definition(const pairs& p, extent_t capacity, bool by_position) {
  const auto before = [&](std::size_t a, std::size_t b) {
    const double x = p.weight[a], y = p.weight[b];
    if (!by_position && std::isnan(x) != std::isnan(y)) return std::isnan(y);
    if (!by_position && x != y && !std::isnan(x)) return x > y;
    return p.number[a / std::size_t(p.k)] < p.number[b / std::size_t(p.k)];
  };
  numbers keep = p.index;
  for (std::size_t a = 0; a < keep.size(); ++a) {
    extent_t ahead = 0;
    for (std::size_t b = 0; b < keep.size(); ++b) ahead += p.index[b] == p.index[a] && before(b, a);
    if (ahead >= capacity) keep[a] = -1;
  }
  return keep;
}

/// Few different weights, so that many are equal; some NaN; some pairs dropped before; tokens in no order.
pairs random_pairs(std::uint64_t seed) {
  const random_stream draw(seed, "capacity");
  std::uint64_t next = 0;
  const auto below = [&](extent_t n) { return extent_t(draw.bits(next++) % std::uint64_t(n)); };
  pairs p{1 + below(3), 3 + below(4), {}, {}, {}};
  const extent_t tokens = below(40);
  for (extent_t t = 0; t < tokens; ++t) {
    const extent_t first = below(p.experts);
    for (extent_t j = 0; j < p.k; ++j) {  // different experts of one token
      p.index.push_back(below(8) == 0 ? -1 : std::int32_t((first + j) % p.experts));
      p.weight.push_back(below(10) == 0 ? not_a_number : double(below(5)) / 4 - 0.5);
    }
    p.number.insert(p.number.begin() + below(t + 1), std::int32_t(3 * t));
  }
  return p;
}

extent_t lost(const pairs& p, const numbers& keep) {
  return std::count(keep.begin(), keep.end(), -1) - std::count(p.index.begin(), p.index.end(), -1);
}

}  // namespace

TEST_SUITE("ops/capacity") {
  TEST_CASE("the largest weights stay, equal ones by token number, NaN last; or the lowest numbers") {
    const pairs p{1, 1, {0, 0, 0, 0, 0}, {0.5, 0.75, 0.5, not_a_number, 0.25}, {4, 3, 2, 1, 0}};
    CHECK(keep(p, 1, false).keep == numbers{-1, 0, -1, -1, -1});
    CHECK(keep(p, 2, false).keep == numbers{-1, 0, 0, -1, -1});  // token 2 has the lower number of the two that weigh 0.5
    CHECK(keep(p, 3, false).keep == numbers{0, 0, 0, -1, -1});
    CHECK(keep(p, 4, false).keep == numbers{0, 0, 0, -1, 0});
    CHECK(keep(p, 2, true).keep == numbers{-1, -1, -1, 0, 0});
    CHECK(keep(p, 2, true).dropped == 3);
  }
  TEST_CASE("every expert has a capacity of its own, and a pair that was dropped before takes no room") {
    const pairs p{2, 3, {0, 1, 0, -1, 2, 0, 1, 0}, {0.5, 0.5, 0.25, 1, 0.5, 0.25, 0.75, 0.125}, {0, 1, 2, 3}};
    CHECK(keep(p, 1, false).keep == numbers{0, -1, -1, -1, 2, -1, 1, -1});
    CHECK(keep(p, 1, false).dropped == 4);
    CHECK(keep(p, 2, false).keep == numbers{0, 1, 0, -1, 2, -1, 1, -1});
    CHECK(keep(p, 1, true).keep == numbers{0, 1, -1, -1, 2, -1, -1, -1});
  }
  TEST_CASE_TEMPLATE("many random choices agree with the definition, pair by pair, whatever the capacity", A, float, double) {
    int wrong = 0, dropping = 0;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      const pairs p = random_pairs(seed);
      for (const extent_t capacity : {extent_t(0), extent_t(1), extent_t(4), extent_t(9), std::numeric_limits<extent_t>::max()})
        for (const bool by_position : {false, true}) {
          const outcome out = keep<A>(p, capacity, by_position);
          wrong += out.keep != by_definition(p, capacity, by_position) || out.dropped != lost(p, out.keep);
          dropping += out.dropped > 0;
        }
    }
    CHECK(wrong == 0);
    CHECK(dropping > 1000);
  }
  TEST_CASE("a capacity of 0 keeps nothing, one as large as the set keeps everything") {
    const pairs p = random_pairs(11);
    REQUIRE(p.number.size() > 5);
    for (const bool by_position : {false, true}) {
      CHECK(keep(p, 0, by_position).keep == numbers(p.index.size(), -1));
      CHECK(keep(p, extent_t(p.number.size()), by_position).keep == p.index);
      CHECK(keep(p, extent_t(p.number.size()), by_position).dropped == 0);
    }
  }
  TEST_CASE("the order in which tokens are listed does not matter") {
    int wrong = 0;
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const pairs p = random_pairs(seed);
      const std::size_t k = std::size_t(p.k), tokens = p.number.size();
      std::vector<std::size_t> order(tokens);
      std::iota(order.begin(), order.end(), 0);
      const random_stream draw(seed, "order");
      for (std::size_t t = tokens; t > 1; --t) std::swap(order[t - 1], order[draw.bits(t) % t]);
      pairs listed = p;
      for (std::size_t t = 0; t < tokens; ++t) {
        listed.number[t] = p.number[order[t]];
        for (std::size_t j = 0; j < k; ++j)
          listed.index[t * k + j] = p.index[order[t] * k + j], listed.weight[t * k + j] = p.weight[order[t] * k + j];
      }
      for (const bool by_position : {false, true}) {
        const numbers there = keep(p, 2, by_position).keep, here = keep(listed, 2, by_position).keep;
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t j = 0; j < k; ++j) wrong += here[t * k + j] != there[order[t] * k + j];
      }
    }
    CHECK(wrong == 0);
  }
  TEST_CASE("no tokens lose nothing") {
    const pairs p{2, 4, {}, {}, {}};
    CHECK(keep(p, 0, false).dropped == 0);
    CHECK(keep(p, 3, true).dropped == 0);
  }
  TEST_CASE("a negative capacity, missing weights, numbers or room, and strange experts are refused") {
    const pairs p{2, 3, {0, 1, 2, 0}, {1, 1, 1, 1}, {0, 1}};
    CHECK_THROWS_WITH_AS(keep(p, -1, true), "moefold: a capacity is 0 or more rows, given -1", error);
    pairs strange = p;
    strange.index[3] = 3;
    CHECK_THROWS_WITH_AS(keep(strange, 1, true), "moefold: token 1 chose expert 3, of 3; experts are numbered from 0, -1 means dropped",
                         error);
    host_context context;
    const host_exec e(context);
    tensor<std::int32_t> index({2, 2}, 0), number({2}, 0), result({2, 2});
    const view<const std::int32_t> chosen = index.view(), places = number.view();
    CHECK_THROWS_WITH_AS(keep_within_capacity<double>(e, chosen, {}, places, 1, 1, false, result),
                         "moefold: keep_within_capacity by weight needs a weight for each of 4 pairs, given 0", error);
    CHECK_THROWS_WITH_AS(keep_within_capacity<double>(e, chosen, {}, places.rows(0, 1), 1, 1, true, result),
                         "moefold: keep_within_capacity needs 2 elements in number to fit its other arguments, given 1", error);
    CHECK_THROWS_AS(keep_within_capacity<double>(e, chosen, {}, places, 1, 1, true, result.view().rows(0, 1)), error);
  }
  TEST_CASE_TEMPLATE("the bits that a device selects by sort as the host compares", A, float, double) {
    const A most = std::numeric_limits<A>::infinity(), tiny = std::numeric_limits<A>::denorm_min(),
            nan = std::numeric_limits<A>::quiet_NaN();
    const A descending[] = {most, A(3), A(1.5), A(1), tiny, A(0), -tiny, A(-1), A(-1.5), -most, nan};
    for (std::size_t a = 0; a < std::size(descending); ++a)
      for (std::size_t b = 0; b < std::size(descending); ++b)
        CHECK((detail::keep_bits(descending[a]) < detail::keep_bits(descending[b])) == (a < b));
    CHECK(detail::keep_bits(A(-0.0)) == detail::keep_bits(A(0)));
    CHECK(detail::keep_bits(-nan) == detail::keep_bits(nan));
  }
  TEST_CASE("dropped pairs are counted, those of padding are not") {
    host_context context;
    const numbers expert{-1, 2, -1, -1, 0, 1};
    const std::vector<std::uint8_t> padding{0, 1, 0};
    std::int64_t pairs = 99;
    const view<const std::int32_t> given(expert.data(), {3, 2});
    count_dropped(host_exec(context), given, {}, {&pairs, {1}});
    CHECK(pairs == 3);
    count_dropped(host_exec(context), given, std::span(padding), {&pairs, {1}});
    CHECK(pairs == 1);
    CHECK_THROWS_AS(count_dropped(host_exec(context), given, std::span(padding).first(2), {&pairs, {1}}), error);
  }
}
