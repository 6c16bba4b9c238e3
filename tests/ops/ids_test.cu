#include <moefold/ops/ids.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("ops/ids") {
  TEST_CASE("a wrong token is complained of where the host next waits, and not again") {
    const test::both_execs on;
    std::vector<std::int32_t> ids(1000);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = std::int32_t(i % 64);
    auto there = test::to_device(ids);
    require_tokens(on.device, there.view(), 64);
    CHECK_NOTHROW(on.device.wait());
    for (const std::int32_t wrong : {-1, 64}) {
      ids[777] = wrong;
      there = test::to_device(ids);
      require_tokens(on.device, there.view(), 64);
      CHECK_THROWS_WITH_AS(
          on.device.wait(),
          sentence("moefold: token ", wrong, " is outside the vocabulary of 64 (at place 777); use tokens from 0 to below it").c_str(),
          error);
      CHECK_NOTHROW(on.device.wait());
    }
    require_tokens(on.device, {}, 64);
    CHECK_NOTHROW(on.device.wait());
  }
}
