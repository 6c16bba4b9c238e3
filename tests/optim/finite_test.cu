#include <moefold/optim/finite.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::poisoned;
using test::to_device;
using test::to_host;

TEST_SUITE("optim/finite") {
  TEST_CASE_TEMPLATE("the device finds the first bad element and their number, and zeroes them alone", T, float, double, bf16) {
    using limits = std::numeric_limits<accumulate_t<T>>;
    const test::both_execs on;
    for (const extent_t n : {0, 1, 7, 2051, test::emulated ? 300003 : 3000003})
      for (const extent_t skip : {0, 1}) {
        CAPTURE(n);
        CAPTURE(skip);
        auto x = test::random_tensor<T>({n + skip}, 1);
        const auto own = [&] { return x.view().span().subspan(std::size_t(skip)); };
        const auto agree = [&] {
          auto x_d = to_device(x);
          const std::span<T> own_d = x_d.view().span().subspan(std::size_t(skip));
          tensor<std::int64_t> found({2});
          auto found_d = poisoned<std::int64_t>({2});
          find_bad(on.host, own(), found.view());
          find_bad(on.device, view<const T>(own_d), found_d.view());
          const auto got = to_host(on.device, found_d);
          CHECK(got[0] == found[0]);
          CHECK(got[1] == found[1]);
          zero_bad(on.device, own_d);
          tensor<T> zeroed = test::copy_of(x.view());
          zero_bad(on.host, zeroed.view().span().subspan(std::size_t(skip)));
          CHECK(std::memcmp(to_host(on.device, x_d).data(), zeroed.data(), x.size() * sizeof(T)) == 0);
        };
        agree();
        if (n == 0) continue;
        own()[std::size_t(n - 1)] = T(limits::quiet_NaN());
        agree();
        own()[std::size_t(n / 2)] = T(-limits::infinity());
        own()[std::size_t(n / 3)] = T(limits::infinity());
        agree();
        own()[std::size_t(n / 4)] = T(1e30f);
        agree();
        if (skip > 0) x[0] = T(limits::quiet_NaN());  // in front of the range: none of its business
        for (T& v : own()) v = T(limits::quiet_NaN());
        if (n < 10000) agree();
      }
  }
}
