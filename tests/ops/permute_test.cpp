#include <moefold/ops/permute.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;

namespace {

struct permutation {
  tensor<std::int32_t> index, row_of_slot, slot_of_row;
  std::vector<std::int64_t> counts;
  extent_t rows = 0;

  permutation(host_exec e, extent_t n, extent_t k, extent_t experts, bool drop)
      : index({n, k}), row_of_slot({n, k}), slot_of_row({n * k}), counts(std::size_t(experts), 99) {
    const random_stream numbers(7, "permutation");
    for (std::size_t s = 0; s < index.size(); ++s)
      index[s] = drop && s % 3 == 1 ? -1 : std::int32_t(numbers.bits(s) % std::uint64_t(experts));
    rows = build_permutation(e, index.view(), experts, counts, row_of_slot, slot_of_row);
  }
  std::span<const std::int32_t> slots() const { return slot_of_row.view().span().first(std::size_t(rows)); }
};

struct padded_permutation {
  extent_t sources, rows;
  tensor<std::int32_t> row_of_slot, slot_of_row;
  std::vector<std::int64_t> counts;

  padded_permutation(host_exec e, const tensor<std::int32_t>& index, extent_t experts, extent_t from, extent_t each)
      : sources(from), rows(each), row_of_slot(index.shape(), 99), slot_of_row({experts * from * each}, 99),
        counts(std::size_t(experts), 99) {
    build_padded_permutation(e, index.view(), experts, sources, rows, counts, row_of_slot, slot_of_row);
  }
};

}  // namespace

TEST_SUITE("ops/permute") {
  TEST_CASE("rows are sorted by expert, and by slot inside an expert") {
    host_context context;
    for (const extent_t n : {0, 1, 7, 100})
      for (const extent_t k : {1, 2, 3})
        for (const bool drop : {false, true}) {
          const permutation p(host_exec(context), n, k, 5, drop);
          extent_t kept = 0;
          for (std::size_t s = 0; s < p.index.size(); ++s) kept += p.index[s] >= 0;
          REQUIRE(p.rows == kept);
          std::vector<std::int64_t> counts(5, 0);
          for (extent_t r = 0; r < p.rows; ++r) {
            const std::size_t slot = std::size_t(p.slot_of_row[std::size_t(r)]);
            ++counts[std::size_t(p.index[slot])];
            CHECK(p.row_of_slot[slot] == r);
            if (r == 0) continue;
            const std::size_t before = std::size_t(p.slot_of_row[std::size_t(r - 1)]);
            CHECK((p.index[before] < p.index[slot] || (p.index[before] == p.index[slot] && before < slot)));
          }
          CHECK(counts == p.counts);
          for (std::size_t s = 0; s < p.index.size(); ++s)
            if (p.index[s] < 0) CHECK(p.row_of_slot[s] == -1);
          for (extent_t r = p.rows; r < n * k; ++r) CHECK(p.slot_of_row[std::size_t(r)] == -1);
        }
  }
  TEST_CASE("rows too many for the cache are the same rows") {
    host_context context;
    const host_exec e(context);
    const permutation p(e, 9000, 2, 4, true);
    constexpr extent_t width = 401;
    const auto x = random_tensor<float>({9000, width}, 3);
    tensor<float> rows({p.rows, width}, std::numeric_limits<float>::quiet_NaN());
    REQUIRE(rows.size() * sizeof(float) > bulk_footprint);
    permute_rows(e, x, p.slots(), 2, rows.view());
    int wrong = 0;
    for (extent_t r = 0; r < p.rows; ++r)
      wrong += !std::equal(&rows.view()(r, 0), &rows.view()(r, 0) + width, &x.view()(p.slots()[std::size_t(r)] / 2, 0));
    CHECK(wrong == 0);
  }
  TEST_CASE("rows are added in slot order, whatever their number, odd or even, and some dropped") {
    host_context context;
    const host_exec e(context);
    for (extent_t k = 1; k <= 9; ++k) {
      const auto rows = random_tensor<float>({k, 37}, std::uint64_t(k));
      tensor<std::int32_t> order({1, k});
      for (extent_t j = 0; j < k; ++j) order[std::size_t(j)] = j % 4 == 3 ? -1 : std::int32_t((j * 5 + 2) % k);
      tensor<float> y({1, 37});
      combine_rows(e, rows, order.view(), y.view());
      for (extent_t c = 0; c < 37; ++c) {
        float sum = 0;
        for (extent_t j = 0; j < k; ++j)
          if (order[std::size_t(j)] >= 0) sum += rows.view()(order[std::size_t(j)], c);
        CHECK(y[std::size_t(c)] == sum);
      }
    }
  }
  TEST_CASE_TEMPLATE("permute, then combine multiplies every token by its number of kept slots", T, float, double) {
    host_context context;
    const host_exec e(context);
    const permutation p(e, 11, 2, 4, true);
    for (const extent_t width : {1, 5, 64, 130}) {
      const auto x = random_tensor<T>({11, width}, 1);
      tensor<T> rows({p.rows, width}), y({11, width});
      permute_rows(e, x, p.slots(), 2, rows.view());
      for (extent_t r = 0; r < p.rows; ++r) CHECK(rows.view()(r, width - 1) == x.view()(p.slot_of_row[std::size_t(r)] / 2, width - 1));
      combine_rows(e, rows, p.row_of_slot.view(), y.view());
      for (extent_t t = 0; t < 11; ++t) {
        const T kept = T((p.index.view()(t, 0) >= 0) + (p.index.view()(t, 1) >= 0));
        for (extent_t c = 0; c < width; ++c) CHECK(y.view()(t, c) == kept * x.view()(t, c));
      }
    }
  }
  TEST_CASE("permute and combine are each other's backward") {
    host_context context;
    const host_exec e(context);
    const permutation p(e, 5, 2, 3, true);
    auto x = random_tensor<double>({5, 3}, 1), rows = random_tensor<double>({p.rows, 3}, 2);
    const auto drows = random_tensor<double>({p.rows, 3}, 3), dy = random_tensor<double>({5, 3}, 4);
    tensor<double> dx({5, 3}), back({p.rows, 3}), y({5, 3}), out({p.rows, 3});
    combine_rows(e, drows, p.row_of_slot.view(), dx.view());
    CHECK(test::largest_error(dx, test::numerical_gradient(x, [&] {
                                permute_rows(e, x, p.slots(), 2, out.view());
                                return test::dot(out, drows);
                              })) < 1e-9);
    permute_rows(e, dy, p.slots(), 2, back.view());
    CHECK(test::largest_error(back, test::numerical_gradient(rows, [&] {
                                combine_rows(e, rows, p.row_of_slot.view(), y.view());
                                return test::dot(y, dy);
                              })) < 1e-9);
  }
  TEST_CASE("gather and scatter undo each other, for rows and for lists of numbers") {
    host_context context;
    const host_exec e(context);
    const std::vector<std::int32_t> row = {3, 0, 2, 1};
    const auto x = random_tensor<float>({4, 9}, 1), list = random_tensor<float>({4}, 2);
    tensor<float> there({4, 9}), back({4, 9}), list_there({4}), list_back({4});
    gather_rows(e, x, row, there.view());
    scatter_rows(e, there, row, back.view());
    gather_rows(e, list, row, list_there.view());
    scatter_rows(e, list_there, row, list_back.view());
    CHECK(there.view()(0, 4) == x.view()(3, 4));
    CHECK(list_there[0] == list[3]);
    CHECK(test::largest_error(back, x) == 0);
    CHECK(test::largest_error(list_back, list) == 0);
  }
  TEST_CASE("padded: by hand, two sources of two tokens") {
    host_context context;
    tensor<std::int32_t> index({4, 2});
    const std::int32_t choices[] = {1, 0, 1, -1, 0, 1, 0, 2};
    std::copy(std::begin(choices), std::end(choices), index.begin());
    const padded_permutation p(host_exec(context), index, 3, 2, 2);
    CHECK(std::vector<std::int32_t>(p.slot_of_row.begin(), p.slot_of_row.end()) ==
          std::vector<std::int32_t>{1, -1, 4, 6, 0, 2, 5, -1, -1, -1, 7, -1});
    CHECK(std::vector<std::int32_t>(p.row_of_slot.begin(), p.row_of_slot.end()) == std::vector<std::int32_t>{4, 0, 5, -1, 2, 6, 3, 10});
    CHECK(p.counts == std::vector<std::int64_t>{3, 3, 1});
  }
  TEST_CASE("padded: without its fillers it is the unpadded order, every row lies with its expert and source, fillers come last") {
    host_context context;
    const host_exec e(context);
    for (const extent_t sources : {1, 2, 3, 6})
      for (const extent_t n : {0, 6, 12, 96})
        for (const extent_t k : {1, 2})
          for (const bool drop : {false, true}) {
            const permutation plain(e, n, k, 5, drop);
            const extent_t rows = std::max<extent_t>(1, n / sources * k);
            const padded_permutation p(e, plain.index, 5, sources, rows);
            CHECK(p.counts == plain.counts);
            std::vector<std::int32_t> kept;
            int misplaced = 0;
            for (extent_t r = 0; r < 5 * sources * rows; ++r) {
              const std::int32_t slot = p.slot_of_row[std::size_t(r)];
              if (slot < 0) {
                misplaced += r % rows + 1 < rows && p.slot_of_row[std::size_t(r + 1)] >= 0;
                continue;
              }
              kept.push_back(slot);
              misplaced += p.row_of_slot[std::size_t(slot)] != r;
              misplaced += plain.index[std::size_t(slot)] != r / (sources * rows);
              misplaced += slot / (n / sources * k) != r / rows % sources;
            }
            for (std::size_t s = 0; s < plain.index.size(); ++s) misplaced += (p.row_of_slot[s] < 0) != (plain.index[s] < 0);
            CHECK(misplaced == 0);
            CHECK(kept == std::vector<std::int32_t>(plain.slots().begin(), plain.slots().end()));
          }
  }
  TEST_CASE("padded: every row equals its unpadded twin, fillers are zeros over whatever was there, and combine ignores what they hold") {
    host_context context;
    const host_exec e(context);
    constexpr double garbage = std::numeric_limits<double>::quiet_NaN();
    const permutation plain(e, 12, 2, 4, true);
    const padded_permutation p(e, plain.index, 4, 3, 8);
    const auto x = random_tensor<double>({12, 5}, 1), list = random_tensor<double>({12}, 2);
    tensor<double> rows({4 * 3 * 8, 5}, garbage), numbers({4 * 3 * 8}, garbage), expected({plain.rows, 5}), y({12, 5}), expected_y({12, 5});
    permute_rows(e, x, p.slot_of_row.view().span(), 2, rows.view());
    permute_rows(e, list, p.slot_of_row.view().span(), 2, numbers.view());
    permute_rows(e, x, plain.slots(), 2, expected.view());
    extent_t next = 0, fillers = 0;
    bool same = true;
    for (extent_t r = 0; r < rows.extent(0); ++r) {
      const std::int32_t slot = p.slot_of_row[std::size_t(r)];
      same = same && numbers[std::size_t(r)] == (slot < 0 ? 0 : list[std::size_t(slot / 2)]);
      for (extent_t c = 0; c < 5; ++c) same = same && rows.view()(r, c) == (slot < 0 ? 0 : expected.view()(next, c));
      if (slot < 0)
        for (extent_t c = 0; c < 5; ++c) rows.view()(r, c) = garbage;
      (slot < 0 ? fillers : next) += 1;
    }
    CHECK(same);
    CHECK((next == plain.rows && fillers > 10));
    combine_rows(e, rows, p.row_of_slot.view(), y.view());
    combine_rows(e, expected, plain.row_of_slot.view(), expected_y.view());
    CHECK(test::largest_error(y, expected_y) == 0);
  }
  TEST_CASE("padded: no rows at all hold no pairs, and none are needed where everything was dropped") {
    host_context context;
    const tensor<std::int32_t> dropped({4, 2}, -1);
    const padded_permutation p(host_exec(context), dropped, 3, 2, 0);
    CHECK(p.counts == std::vector<std::int64_t>{0, 0, 0});
    CHECK(std::count(p.row_of_slot.begin(), p.row_of_slot.end(), -1) == 8);
  }
  TEST_CASE("padded: an expert that overflows, uneven shares and strange experts are refused") {
    host_context context;
    const host_exec e(context);
    tensor<std::int32_t> index({4, 2}, 1), three({3, 2}, 0);
    CHECK_THROWS_WITH_AS(padded_permutation(e, index, 3, 2, 3),
                         "moefold: expert 1 has more than the 3 rows that padding gives it; drop what exceeds the capacity first", error);
    CHECK_NOTHROW(padded_permutation(e, index, 3, 2, 4));        // of each source
    CHECK_THROWS_WITH_AS(padded_permutation(e, three, 1, 2, 9),  // 3 slots each would cut a token
                         "moefold: build_padded_permutation shares 3 tokens equally among 2 sources; give all ranks equally many tokens",
                         error);
    CHECK_THROWS_WITH_AS(padded_permutation(e, three, 1, 0, 9),
                         "moefold: build_padded_permutation shares 3 tokens equally among 0 sources; give all ranks equally many tokens",
                         error);
    index[5] = 3;
    CHECK_THROWS_WITH_AS(padded_permutation(e, index, 3, 2, 4),
                         "moefold: token 2 chose expert 3, of 3; experts are numbered from 0, -1 means dropped", error);
    std::vector<std::int64_t> counts(3);
    tensor<std::int32_t> row_of_slot({4, 2}), slot_of_row({3 * 2 * 4 - 1});
    CHECK_THROWS_WITH_AS(build_padded_permutation(e, index.view(), 3, 2, 4, counts, row_of_slot, slot_of_row),
                         "moefold: build_padded_permutation needs 24 elements in slot_of_row to fit its other arguments, given 23", error);
  }
  TEST_CASE("an expert or a row out of range is named") {
    host_context context;
    const host_exec e(context);
    tensor<std::int32_t> index({2, 2}, 1), row_of_slot({2, 2}), slot_of_row({4});
    std::vector<std::int64_t> counts(3);
    index[3] = 3;
    CHECK_THROWS_WITH_AS(build_permutation(e, index.view(), 3, counts, row_of_slot, slot_of_row),
                         "moefold: token 1 chose expert 3, of 3; experts are numbered from 0, -1 means dropped", error);
    const std::vector<std::int32_t> row = {4};
    tensor<float> x({4, 2}), out({1, 2});
    CHECK_THROWS_AS(gather_rows(e, x, row, out.view()), error);
    CHECK_THROWS_AS(permute_rows(e, x, row, 1, out.view()), error);
  }
  TEST_CASE("the inverse may be given with the rows, fillers included; another one is refused") {
    host_context context;
    const host_exec e(context);
    const permutation p(e, 6, 2, 3, true);
    const padded_permutation q(e, p.index, 3, 1, 12);
    const auto x = random_tensor<float>({6, 5}, 1);
    tensor<float> with({36, 5}, 7), without({36, 5}, 8);
    permute_rows(e, x, q.slot_of_row.view().span(), 2, with.view(), q.row_of_slot.view());
    permute_rows(e, x, q.slot_of_row.view().span(), 2, without.view());
    CHECK(std::equal(with.begin(), with.end(), without.begin()));
    tensor<float> rows({p.rows, 5});
    CHECK_THROWS_AS(permute_rows(e, x, p.slots(), 2, rows.view(), q.row_of_slot.view()), error);
    CHECK_THROWS_AS(permute_rows(e, x, p.slots(), 2, rows.view(), p.row_of_slot.view().rows(0, 5)), error);
  }
}
