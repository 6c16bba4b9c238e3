#include <moefold/ops/choice_rows.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::choices;
using test::limit;
using test::pair_of;
using test::same;
using test::to_device;
using test::to_host;

TEST_SUITE("ops/choice_rows") {
  TEST_CASE_TEMPLATE("tokens travel with their choices on the device as on the host, there and back", T, bf16, float, double) {
    using A = accumulate_t<T>;
    both_execs on;
    const extent_t n = 11, k = 3, experts = 6, first = 2, own = 3;
    for (const extent_t width : {1, 8, 31, 64, 600})
      for (const bool shifted : {false, true}) {
        CAPTURE(width);
        CAPTURE(shifted);
        const auto expert = choices(n, k, experts, true);
        const auto expert_d = to_device(expert);
        pair_of<T> x({n, width}, 1, shifted), tokens({n, width + choice_lanes<T>(k)}, shifted);
        pair_of<A> weight({n, k}, 2, shifted);
        pack_choices(on.host, x.host, expert.view(), weight.host, experts, tokens.host.view());
        pack_choices(on.device, x.device(), expert_d.view(), weight.device(), experts, tokens.device());
        const auto packed = to_host<T>(on.device, tokens.device());
        CHECK(std::memcmp(packed.data(), tokens.host.data(), packed.size() * sizeof(T)) == 0);

        tensor<std::int32_t> index({n, k});
        auto index_d = test::poisoned<std::int32_t>({n, k});
        split_choices(on.host, tokens.host.view(), first, own, index.view());
        split_choices(on.device, tokens.device(), first, own, index_d.view());
        CHECK(same(to_host(on.device, index_d), index));
        for (std::size_t s = 0; s < index.size(); ++s)
          CHECK(index[s] == (expert[s] >= first && expert[s] < first + own ? expert[s] - first : -1));

        tensor<std::int32_t> row({n, k}), slot({n * k});
        tensor<std::int64_t> counts({own});
        const extent_t rows = build_permutation(on.host, index.view(), own, counts.view(), row, slot) + 1;  // one filler
        const auto row_d = to_device(row), slot_d = to_device(slot);
        REQUIRE(rows <= n * k);
        pair_of<T> batch({rows, width}, shifted);
        pair_of<A> of_row({rows}, shifted), dp({wide_lanes<T> == 1 ? 0 : n, k}, shifted);
        gather_choices(on.host, tokens.host, slot.view().span().first(std::size_t(rows)), k, batch.host.view(), of_row.host);
        gather_choices(on.device, tokens.device(), slot_d.view().span().first(std::size_t(rows)), k, batch.device(), of_row.device());
        CHECK(batch.error(on) == 0);
        CHECK(of_row.error(on) == 0);

        pair_of<T> sums({n, width + choice_gradient_lanes<T>(k)}, shifted), dx({n, width}, shifted);
        combine_choices(on.host, batch.host, of_row.host, row.view(), sums.host.view(), dp.host);
        combine_choices(on.device, batch.device(), of_row.device(), row_d.view(), sums.device(), dp.device());
        CHECK(sums.error(on) <= limit<T>);
        CHECK(dp.error(on) == 0);
        pair_of<A> dchoice({n, k}, 5, shifted);
        split_gradients(on.host, sums.host, dx.host.view(), dchoice.host);
        split_gradients(on.device, sums.device(), dx.device(), dchoice.device());
        CHECK(dx.error(on) <= limit<T>);
        CHECK(dchoice.error(on) == 0);
      }
  }
  TEST_CASE("a wrong expert is complained of when the host waits") {
    both_execs on;
    const auto x = to_device(test::random_tensor<float>({2, 4}, 1)), weight = to_device(test::random_tensor<float>({2, 1}, 2));
    tensor<std::int32_t> expert({2, 1}, 3);
    expert[1] = 4;
    const auto wrong = to_device(expert);
    auto tokens = test::poisoned<float>({2, 6});
    pack_choices(on.device, x.view(), wrong.view(), weight.view(), 4, tokens.view());
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: token 1 chose expert 4, of 4; experts are numbered from 0, -1 means dropped", error);
  }
}
