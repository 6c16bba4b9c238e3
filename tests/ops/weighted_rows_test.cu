#include <moefold/ops/weighted_rows.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::choices;
using test::limit;
using test::pair_of;
using test::to_device;
using test::to_host;

TEST_SUITE("ops/weighted_rows") {
  TEST_CASE_TEMPLATE("rows and their weights move on the device as on the host", T, bf16, float, double) {
    using A = accumulate_t<T>;
    both_execs on;
    const extent_t n = 13, k = 3;
    for (const extent_t width : {1, 8, 31, 64, 600})
      for (const bool shifted : {false, true}) {
        CAPTURE(width);
        CAPTURE(shifted);
        const extent_t wide = width + wide_lanes<T>;
        const auto index = choices(n, k, 5, true);
        tensor<std::int32_t> row({n, k}), slot({n * k});
        tensor<std::int64_t> counts({5});
        const extent_t rows = build_permutation(on.host, index.view(), 5, counts.view(), row, slot);
        const auto row_d = to_device(row), slot_d = to_device(slot);
        const std::span<const std::int32_t> slots = slot.view().span().first(std::size_t(rows)),
                                            slots_d = slot_d.view().span().first(std::size_t(rows));
        const auto bits = [&](pair_of<T>& p) {  // a weight's bits are no numbers: compared as they are
          const auto got = to_host<T>(on.device, p.device());
          return std::memcmp(got.data(), p.host.data(), got.size() * sizeof(T)) == 0;
        };

        pair_of<T> x({n, width}, 1, shifted), packed({rows, wide}, shifted), by_token({rows, wide}, shifted), y({n, width}, shifted),
            taken({rows, width}, shifted), put({rows, wide}, shifted), side({rows, wide}, shifted);
        pair_of<A> weight({n, k}, 2, shifted), of_row({rows}, shifted), back({n, k}, shifted);
        permute_weighted(on.host, x.host, weight.host, slots, packed.host.view());
        permute_weighted(on.device, x.device(), weight.device(), slots_d, packed.device());
        CHECK(bits(packed));
        permute_weighted(on.host, x.host, weight.host, slots, by_token.host.view(), row.view());
        permute_weighted(on.device, x.device(), weight.device(), slots_d, by_token.device(), row_d.view());
        CHECK(bits(by_token));

        tensor<std::int32_t> order({rows});
        for (extent_t r = 0; r < rows; ++r) order[std::size_t(r)] = std::int32_t((r * 7 + 3) % rows);
        const auto order_d = to_device(order);
        gather_weighted(on.host, packed.host, order.view().span(), taken.host.view(), of_row.host);
        gather_weighted(on.device, packed.device(), order_d.view().span(), taken.device(), of_row.device());
        CHECK(taken.error(on) == 0);
        CHECK(of_row.error(on) == 0);
        scatter_weighted(on.host, taken.host, of_row.host, order.view().span(), put.host.view());
        scatter_weighted(on.device, taken.device(), of_row.device(), order_d.view().span(), put.device());
        CHECK(bits(put));
        pack_weighted(on.host, taken.host, of_row.host, side.host.view());
        pack_weighted(on.device, taken.device(), of_row.device(), side.device());
        CHECK(bits(side));
        combine_weighted(on.host, packed.host, row.view(), y.host.view(), back.host);
        combine_weighted(on.device, packed.device(), row_d.view(), y.device(), back.device());
        CHECK(y.error(on) <= limit<T>);
        CHECK(back.error(on) == 0);
      }
  }
  TEST_CASE_TEMPLATE("a filler is zeros, its weight too", T, bf16, float) {
    using A = accumulate_t<T>;
    both_execs on;
    const extent_t width = 10, wide = width + wide_lanes<T>;
    tensor<std::int32_t> row({2, 1}), slot({5}, -1);
    row[0] = 3, row[1] = -1, slot[3] = 0;
    const auto row_d = to_device(row), slot_d = to_device(slot);
    pair_of<T> x({2, width}, 1, false), by_row({5, wide}, false), by_token({5, wide}, false);
    pair_of<A> weight({2, 1}, 2, false);
    permute_weighted(on.host, x.host, weight.host, slot.view().span(), by_row.host.view());
    permute_weighted(on.device, x.device(), weight.device(), slot_d.view().span(), by_row.device());
    permute_weighted(on.device, x.device(), weight.device(), slot_d.view().span(), by_token.device(), row_d.view());
    const auto a = to_host<T>(on.device, by_row.device()), b = to_host<T>(on.device, by_token.device());
    CHECK(std::memcmp(a.data(), by_row.host.data(), a.size() * sizeof(T)) == 0);
    CHECK(std::memcmp(b.data(), by_row.host.data(), a.size() * sizeof(T)) == 0);
  }
}
