#include <moefold/ops/rope.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_device;
using test::to_host;

namespace {

template <class T>
void twins_agree(double limit, const shape& s, extent_t skip, double theta) {
  CAPTURE(s[0]);
  CAPTURE(s[3]);
  CAPTURE(skip);
  const test::both_execs on;
  const auto x = random_tensor<T>(s, 1);
  std::vector<std::int32_t> position;
  for (extent_t t = 0; t < s[0]; ++t) position.push_back(std::int32_t(t * 37 % 911));
  const auto position_d = to_device(position);
  const std::span<const std::int32_t> at = position_d.view();
  auto turned = test::copy_of(x.view()), back = test::copy_of(x.view());
  rope_forward(on.host, turned.view(), position, theta);
  rope_backward(on.host, back.view(), position, theta);
  shifted turned_d(x, skip), back_d(x, skip), again_d(x, skip);
  rope_forward(on.device, turned_d.view(), at, theta);
  rope_backward(on.device, back_d.view(), at, theta);
  rope_forward(on.device, again_d.view(), at, theta);
  const auto got = to_host(on.device, turned_d);
  CHECK(test::norm_error(got, turned) <= limit);
  CHECK(test::norm_error(to_host(on.device, back_d), back) <= limit);
  CHECK(same_bits(to_host(on.device, again_d), got));
}

}  // namespace

TEST_SUITE("ops/rope") {
  TEST_CASE("rope on the device turns as its host twin, forward and backward") {
    const shape shapes[] = {{0, 1, 2, 8}, {1, 1, 1, 2}, {7, 2, 3, 16}, {5, 1, 2, 6}, {9, 1, 4, 128}, {3, 2, 1, 2048}};
    for (const shape& s : shapes)
      for (const extent_t skip : {0, 1}) {
        twins_agree<double>(1e-12, s, skip, 10000.0);
        twins_agree<float>(1e-5, s, skip, 500.0);
        twins_agree<bf16>(2e-2, s, skip, 10000.0);
      }
  }
  TEST_CASE("a negative position is complained of when the host waits, and its token stays as it is") {
    const test::both_execs on;
    const auto x = random_tensor<float>({6, 1, 2, 8}, 1);
    shifted x_d(x, 0);
    const auto position = to_device(std::vector<std::int32_t>{0, 1, 2, 3, -4, 5});
    rope_forward(on.device, x_d.view(), position.view(), 10000.0);
    CHECK_THROWS_WITH(on.device.wait(), doctest::Contains("given -4 at index 4"));
    const auto got = to_host(on.device, x_d);
    for (std::size_t i = 0; i < 16; ++i) CHECK(got[4 * 16 + i] == x[4 * 16 + i]);
    CHECK(got[3 * 16] != x[3 * 16]);
  }
  TEST_CASE("an odd head and a wrong number of positions are refused before anything is launched") {
    const test::both_execs on;
    test::device_tensor<float> odd({1, 1, 1, 3}), even({1, 1, 1, 4});
    test::device_tensor<std::int32_t> two({2});
    CHECK_THROWS_AS(rope_forward(on.device, odd.view(), std::span<const std::int32_t>(two.view()).first(1), 1e4), error);
    CHECK_THROWS_AS(rope_forward(on.device, even.view(), two.view(), 1e4), error);
  }
}
