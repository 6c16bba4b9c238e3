#include <moefold/ops/rope.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/rope") {
  TEST_CASE_TEMPLATE("pairs (i, i + d/2) turn by position * theta^(-2i/d), whatever the order of positions", T, float, double) {
    host_context context;
    const host_exec e(context);
    const std::vector<std::int32_t> position = {0, 1, 31, 32, 33, 1000, 7, 100000, 63, 64};
    for (const extent_t d : {2, 6, 16}) {
      auto x = random_tensor<T>({10, 2, 3, d}, 1);
      tensor<T> expected({10, 2, 3, d});
      for (extent_t s = 0; s < 10; ++s)
        for (extent_t b = 0; b < 2; ++b)
          for (extent_t h = 0; h < 3; ++h)
            for (extent_t i = 0; i < d / 2; ++i) {
              const double angle = position[std::size_t(s)] * std::pow(10000.0, -2.0 * double(i) / double(d));
              const double low = double(x.view()(s, b, h, i)), high = double(x.view()(s, b, h, i + d / 2));
              expected.view()(s, b, h, i) = T(low * std::cos(angle) - high * std::sin(angle));
              expected.view()(s, b, h, i + d / 2) = T(high * std::cos(angle) + low * std::sin(angle));
            }
      rope_forward(e, x.view(), position, 10000.0);
      CHECK(test::largest_error(x, expected) < (std::is_same_v<T, float> ? 1e-6 : 1e-10));
    }
  }
  TEST_CASE("backward turns back: it undoes forward and equals finite differences") {
    host_context context;
    const host_exec e(context);
    const std::vector<std::int32_t> position = {5, 2, 40};
    auto x = random_tensor<double>({3, 1, 2, 4}, 1);
    const auto before = test::copy_of(x.view());
    const auto dy = random_tensor<double>({3, 1, 2, 4}, 2);
    auto dx = test::copy_of(dy.view());
    rope_backward(e, dx.view(), position, 500.0);
    const auto loss = [&] {
      auto y = test::copy_of(x.view());
      rope_forward(e, y.view(), position, 500.0);
      return test::dot(y, dy);
    };
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-9);
    rope_forward(e, x.view(), position, 500.0);
    rope_backward(e, x.view(), position, 500.0);
    CHECK(test::largest_error(x, before) < 1e-14);
  }
  TEST_CASE_TEMPLATE("a position's rotation has the same bits in every neighbourhood", T, float, double) {
    host_context context;
    const host_exec e(context);
    std::vector<std::int32_t> whole(100);
    for (int i = 0; i < 100; ++i) whole[std::size_t(i)] = i;
    auto x = random_tensor<T>({100, 1, 2, 8}, 1), part = random_tensor<T>({100, 1, 2, 8}, 1);
    rope_forward(e, x.view(), whole, 10000.0);
    rope_forward(e, part.view().rows(41, 30), std::span(whole).subspan(41, 30), 10000.0);
    for (extent_t i = 41 * 16; i < 71 * 16; ++i) CHECK(x[std::size_t(i)] == part[std::size_t(i)]);
  }
  TEST_CASE("odd widths and missing positions are refused, no tokens are fine") {
    host_context context;
    const host_exec e(context);
    tensor<float> odd({1, 1, 1, 3}), even({2, 1, 1, 4}), none({0, 1, 1, 4});
    const std::vector<std::int32_t> one = {0}, negative = {0, -1};
    CHECK_THROWS_AS(rope_forward(e, odd.view(), one, 10000.0), error);
    CHECK_THROWS_AS(rope_forward(e, even.view(), one, 10000.0), error);
    CHECK_THROWS_AS(rope_forward(e, even.view(), negative, 10000.0), error);
    CHECK_NOTHROW(rope_forward(e, none.view(), {}, 10000.0));
  }
  TEST_CASE("bf16 is turned in fp32 and rounded once") {
    host_context context;
    const host_exec e(context);
    auto x = test::random_tensor<bf16>({5, 2, 3, 8}, 1);
    auto wide = test::converted<float>(x);
    const std::vector<std::int32_t> position{0, 1, 77, 31, 32};
    rope_forward(e, x.view(), position, 1e4);
    rope_forward(e, wide.view(), position, 1e4);
    CHECK(test::not_rounded_once(x, wide) == 0);
  }
}
