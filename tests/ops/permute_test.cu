#include <moefold/ops/permute.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::choices;
using test::limit;
using test::pair_of;
using test::poisoned;
using test::random_tensor;
using test::same;
using test::to_device;
using test::to_host;

namespace {

struct permutation {
  tensor<std::int32_t> index, row_of_slot, slot_of_row;
  tensor<std::int64_t> counts;
  test::device_tensor<std::int32_t> index_d, row_of_slot_d, slot_of_row_d;
  test::device_tensor<std::int64_t> counts_d;
  extent_t rows = 0;

  permutation(both_execs& on, extent_t n, extent_t k, extent_t experts, bool drop)
      : index(choices(n, k, experts, drop)), row_of_slot({n, k}), slot_of_row({n * k}), counts({experts}), index_d(to_device(index)),
        row_of_slot_d(poisoned<std::int32_t>({n, k})), slot_of_row_d(to_device(tensor<std::int32_t>({n * k}, 77))),
        counts_d(poisoned<std::int64_t>({experts})) {
    rows = build_permutation(on.host, index.view(), experts, counts.view(), row_of_slot, slot_of_row);
    build_permutation(on.device, index_d.view(), experts, counts_d.view(), row_of_slot_d, slot_of_row_d);
  }
  std::span<const std::int32_t> slots() const { return slot_of_row.view().span().first(std::size_t(rows)); }
  std::span<const std::int32_t> slots_d() const { return slot_of_row_d.view().span().first(std::size_t(rows)); }
};

}  // namespace

TEST_SUITE("ops/permute") {
  TEST_CASE("slots are sorted on the device exactly as on the host") {
    both_execs on;
    for (const auto& [n_, k_, experts_] :
         {std::array<extent_t, 3>{0, 2, 5}, {1, 1, 1}, {1, 3, 7}, {33, 2, 5}, {100, 3, 129}, {700, 3, 8}, {2049, 2, 4}})
      for (const bool drop : {false, true}) {
        const extent_t n = n_, k = k_, experts = experts_;
        CAPTURE(n);
        CAPTURE(k);
        CAPTURE(experts);
        CAPTURE(drop);
        const permutation p(on, n, k, experts, drop);
        CHECK(same(to_host(on.device, p.counts_d), p.counts));
        CHECK(same(to_host(on.device, p.row_of_slot_d), p.row_of_slot));
        CHECK(same(to_host(on.device, p.slot_of_row_d), p.slot_of_row));
      }
  }
  TEST_CASE("more numbers than the scan has threads, and more experts than a warp has lanes") {
    if (test::emulated) return;
    both_execs on;
    const permutation p(on, 30000, 8, 300, true);
    CHECK(same(to_host(on.device, p.counts_d), p.counts));
    CHECK(same(to_host(on.device, p.row_of_slot_d), p.row_of_slot));
    CHECK(same(to_host(on.device, p.slot_of_row_d), p.slot_of_row));
  }
  TEST_CASE("padded slots are sorted on the device exactly as on the host") {
    both_execs on;
    for (const auto& [n_, k_, experts_, sources_] :
         {std::array<extent_t, 4>{0, 2, 3, 2}, {6, 2, 4, 3}, {64, 3, 5, 2}, {1200, 2, 3, 1}, {2200, 2, 3, 2}}) {
      const extent_t n = n_, k = k_, experts = experts_, sources = sources_;
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(experts);
      CAPTURE(sources);
      const auto index = choices(n, k, experts, true);
      const extent_t rows = n / sources * k + 1;
      tensor<std::int32_t> row_of_slot({n, k}), slot_of_row({experts * sources * rows});
      tensor<std::int64_t> counts({experts});
      build_padded_permutation(on.host, index.view(), experts, sources, rows, counts.view(), row_of_slot, slot_of_row);
      const auto index_d = to_device(index);
      auto row_d = poisoned<std::int32_t>({n, k});
      auto slot_d = to_device(tensor<std::int32_t>({experts * sources * rows}, 77));
      auto counts_d = poisoned<std::int64_t>({experts});
      build_padded_permutation(on.device, index_d.view(), experts, sources, rows, counts_d.view(), row_d, slot_d);
      CHECK(same(to_host(on.device, counts_d), counts));
      CHECK(same(to_host(on.device, row_d), row_of_slot));
      CHECK(same(to_host(on.device, slot_d), slot_of_row));
    }
  }
  TEST_CASE("a wrong expert and a full expert are complained of when the host waits") {
    both_execs on;
    tensor<std::int32_t> index({3, 1}, 0);
    index[2] = 5;
    const auto wrong = to_device(index);
    auto row = poisoned<std::int32_t>({3, 1}), slot = poisoned<std::int32_t>({3}), filled = poisoned<std::int32_t>({4});
    auto counts = poisoned<std::int64_t>({2});
    build_permutation(on.device, wrong.view(), 2, counts.view(), row, slot);
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: token 2 chose expert 5, of 2; experts are numbered from 0, -1 means dropped", error);
    index[2] = 0;
    const auto full = to_device(index);
    build_padded_permutation(on.device, full.view(), 2, 1, 2, counts.view(), row, filled);
    CHECK_THROWS_WITH_AS(on.device.wait(),
                         "moefold: expert 0 has 3 rows, more than the 2 that padding gives it; drop what exceeds the capacity first",
                         error);
    CHECK(to_host(on.device, row)[2] == -1);
  }
  TEST_CASE_TEMPLATE("rows are moved as on the host, by token and by row, in packs and in single elements", T, bf16, float, double) {
    both_execs on;
    const extent_t n = 19;
    const permutation p(on, n, 3, 4, true);
    for (const extent_t width : {1, 6, 40, 72, 300, 2056})
      for (const bool shifted : {false, true}) {
        CAPTURE(width);
        CAPTURE(shifted);
        pair_of<T> x({n, width}, 1, shifted), rows({p.rows, width}, shifted), again({p.rows, width}, shifted), y({n, width}, shifted);
        permute_rows(on.host, x.host, p.slots(), 3, rows.host.view());
        permute_rows(on.device, x.device(), p.slots_d(), 3, rows.device());
        permute_rows(on.device, x.device(), p.slots_d(), 3, again.device(), p.row_of_slot_d.view());
        again.host = test::copy_of(rows.host.view());
        CHECK(rows.error(on) == 0);
        CHECK(again.error(on) == 0);
        combine_rows(on.host, rows.host, p.row_of_slot.view(), y.host.view());
        combine_rows(on.device, rows.device(), p.row_of_slot_d.view(), y.device());
        CHECK(y.error(on) <= limit<T>);

        pair_of<T> back({p.rows, width}, shifted);
        const random_stream numbers(3, "order");
        tensor<std::int32_t> order({p.rows});
        for (extent_t r = 0; r < p.rows; ++r) order[std::size_t(r)] = std::int32_t(r);
        for (extent_t r = p.rows; r > 1; --r)
          std::swap(order[std::size_t(r - 1)], order[numbers.bits(std::uint64_t(r)) % std::uint64_t(r)]);
        const auto order_d = to_device(order);
        gather_rows(on.host, rows.host, order.view().span(), again.host.view());
        gather_rows(on.device, rows.device(), order_d.view().span(), again.device());
        CHECK(again.error(on) == 0);
        scatter_rows(on.host, rows.host, order.view().span(), back.host.view());
        scatter_rows(on.device, rows.device(), order_d.view().span(), back.device());
        CHECK(back.error(on) == 0);
      }
  }
  TEST_CASE_TEMPLATE("rows are added in slot order, whatever their number, and some dropped", T, bf16, float) {
    both_execs on;
    for (extent_t k = 1; k <= 9; ++k) {
      CAPTURE(k);
      tensor<std::int32_t> order({2, k});
      for (extent_t s = 0; s < 2 * k; ++s) order[std::size_t(s)] = s % 7 == 3 ? -1 : std::int32_t((s * 5 + 2) % (2 * k));
      const auto order_d = to_device(order);
      pair_of<T> rows({2 * k, 40}, std::uint64_t(k), false), y({2, 40}, false);
      combine_rows(on.host, rows.host, order.view(), y.host.view());
      combine_rows(on.device, rows.device(), order_d.view(), y.device());
      CHECK(y.error(on) <= (std::is_same_v<T, float> ? 1e-6 : 1e-2));
    }
  }
  TEST_CASE_TEMPLATE("fillers become zeros, by token and by row", T, bf16, float) {
    both_execs on;
    const extent_t n = 300, experts = 3, each = 301, width = 24;
    const auto index = choices(n, 2, experts, true);
    tensor<std::int32_t> row({n, 2}), slot({experts * each});
    tensor<std::int64_t> counts({experts});
    tensor<std::int32_t> once({n, 2}, -1);  // one choice of a token, so that no expert overflows
    for (extent_t t = 0; t < n; ++t) once.view()(t, t % 2) = index.view()(t, t % 2);
    build_padded_permutation(on.host, once.view(), experts, 1, each, counts.view(), row, slot);
    const auto row_d = to_device(row), slot_d = to_device(slot);
    pair_of<T> x({n, width}, 1, false), by_row({experts * each, width}, false), by_token({experts * each, width}, false);
    permute_rows(on.host, x.host, slot.view().span(), 2, by_row.host.view());
    permute_rows(on.host, x.host, slot.view().span(), 2, by_token.host.view(), row.view());
    permute_rows(on.device, x.device(), slot_d.view().span(), 2, by_row.device());
    permute_rows(on.device, x.device(), slot_d.view().span(), 2, by_token.device(), row_d.view());
    CHECK(same(by_token.host, by_row.host));
    CHECK(by_row.error(on) == 0);
    CHECK(by_token.error(on) == 0);
  }
  TEST_CASE("rows that do not exist are complained of, and nothing is written beyond the end") {
    both_execs on;
    const auto in = to_device(random_tensor<float>({3, 5}, 1));
    auto out = poisoned<float>({2, 5});
    tensor<std::int32_t> row({2}, 0);
    row[1] = 3;
    const auto wrong = to_device(row);
    gather_rows(on.device, in, wrong.view().span(), out.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: place 1 asks for row 3 of 3", error);
    auto three = poisoned<float>({3, 5});
    scatter_rows(on.device, in.view().rows(0, 2), wrong.view().span(), three.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: place 1 asks for row 3 of 3", error);
    permute_rows(on.device, in.view(), wrong.view().span(), 1, out.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: row 1 names slot 3 of 3", error);
    combine_rows(on.device, in.view(), wrong.view().as({2, 1}), out.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: place 1 asks for row 3 of 3", error);
    on.device.wait();
  }
  TEST_CASE("lists of single elements are rows of one element, and no rows launch nothing") {
    both_execs on;
    tensor<std::int32_t> row({3});
    row[0] = 2, row[1] = 0, row[2] = 1;
    const auto row_d = to_device(row);
    const auto in = random_tensor<float>({3}, 1);
    const auto in_d = to_device(in);
    auto out = poisoned<float>({3});
    gather_rows(on.device, in_d.view(), row_d.view().span(), out.view());
    const auto got = to_host(on.device, out);
    for (std::size_t i = 0; i < 3; ++i) CHECK(got[i] == in[std::size_t(row[i])]);
    gather_rows(on.device, view<const float>(nullptr, {0, 7}), {}, view<float>(nullptr, {0, 7}));
    combine_rows(on.device, view<const float>(nullptr, {0, 7}), view<const std::int32_t>(nullptr, {0, 2}), view<float>(nullptr, {0, 7}));
    permute_rows(on.device, view<const float>(nullptr, {0, 7}), {}, 2, view<float>(nullptr, {0, 7}));
    on.device.wait();
  }
}
