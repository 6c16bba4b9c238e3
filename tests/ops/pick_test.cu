#include <moefold/ops/pick.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("ops/pick") {
  TEST_CASE_TEMPLATE("what is picked is the host's, and 0 where no element is", T, float, bf16, double) {
    const test::both_execs on;
    const auto x = test::random_tensor<T>({1001}, 1);
    const std::vector<std::int64_t> places{0, 1000, 1001, -1, 513};
    const auto x_d = test::to_device(x);
    const auto at_d = test::to_device(places);
    auto got = test::poisoned<double>({5});
    tensor<double> expected({5});
    pick(on.host, x.view(), view<const std::int64_t>(places.data(), {5}), expected.view());
    pick(on.device, x_d.view(), at_d, got.view());
    const auto arrived = test::to_host(on.device, got);
    for (std::size_t i = 0; i < 5; ++i) CHECK(arrived[i] == expected[i]);
    pick(on.device, x_d.view(), {}, view<double>(nullptr, {0}));
    on.device.wait();
  }
}
