#include <moefold/ops/numbered_choices.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::to_device;
using test::to_host;

TEST_SUITE("ops/numbered_choices") {
  TEST_CASE("numbered choices on the device are those of the host, exactly, there and back") {
    test::both_execs on;
    for (const extent_t cp : {1, 2})
      for (const extent_t batch : {1, 3})
        for (const extent_t k : {1, 2, 8}) {
          const batch_place place{0, 0, batch, {48, cp, cp - 1, 2, 1}};
          const extent_t n = 48 / (cp * 2) * batch;
          tensor<std::int32_t> expert({n, k}), rows({n, 1 + k}), number({n}), counted({n});
          const random_stream draw(5, "expert");
          for (std::size_t i = 0; i < expert.size(); ++i) expert[i] = std::int32_t(draw.bits(i) % 9) - 1;
          number_choices(on.host, place, expert, rows);
          count_up(on.host, counted);
          const auto expert_d = to_device(expert);
          auto rows_d = test::poisoned<std::int32_t>(rows.shape()), number_d = test::poisoned<std::int32_t>({n});
          auto again_d = test::poisoned<std::int32_t>(expert.shape()), counted_d = test::poisoned<std::int32_t>({n});
          number_choices(on.device, place, expert_d, rows_d);
          split_numbers(on.device, rows_d, number_d, again_d);
          count_up(on.device, counted_d);
          const auto same = [&](const auto& host, const auto& device) {
            const auto found = to_host(on.device, device);
            return std::equal(host.begin(), host.end(), found.begin());
          };
          CHECK(same(rows, rows_d));
          CHECK(same(expert, again_d));
          CHECK(same(counted, counted_d));
          const auto numbers = to_host(on.device, number_d);
          for (extent_t t = 0; t < n; ++t) CHECK(numbers[std::size_t(t)] == place.number(t));
        }
  }
  TEST_CASE("no tokens launch nothing") {
    test::both_execs on;
    auto expert_d = test::poisoned<std::int32_t>({0, 2}), rows_d = test::poisoned<std::int32_t>({0, 3});
    auto number_d = test::poisoned<std::int32_t>({0});
    number_choices(on.device, {}, expert_d, rows_d);
    split_numbers(on.device, rows_d, number_d, expert_d);
    count_up(on.device, number_d);
    CHECK_NOTHROW(on.device.wait());
  }
}
