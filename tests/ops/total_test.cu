#include <moefold/ops/total.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;

TEST_SUITE("ops/total") {
  TEST_CASE_TEMPLATE("sums on the device are added to what is there, as on the host", T, float, double, bf16) {
    test::both_execs x;
    tensor<double> total({1}, 3.0);
    auto total_d = test::to_device(total);
    for (const extent_t n : {0, 1, 511, 3000}) {
      const auto values = test::random_tensor<T>({n}, std::uint64_t(n) + 1);
      const auto values_d = test::to_device(values);
      sum_to(x.host, values.view(), total.view());
      sum_to(x.device, values_d.view(), total_d.view());
      CHECK(test::norm_error(test::to_host(x.device, total_d), total) < 1e-13);
    }
    CHECK_THROWS_AS(sum_to(x.device, total_d.view(), view<double>(total_d.data(), {0})), error);
  }
}
