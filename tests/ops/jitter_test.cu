#include <moefold/ops/jitter.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::limit;
using test::poisoned;
using test::to_device;
using test::to_host;

TEST_SUITE("ops/jitter") {
  TEST_CASE_TEMPLATE("a device draws the same factors as the host, there and back", T, bf16, float, double) {
    using A = accumulate_t<T>;
    both_execs on;
    jitter_rule rule;
    rule.draw = random_stream(5, "jitter"), rule.strength = 0.1, rule.first_sample = 2, rule.batch = 2;
    rule.part = {.sequence = 16, .cp = 2, .cp_rank = 1};
    for (const extent_t width : {1, 7, 1500}) {
      const auto x = test::random_tensor<T>({16, width}, 1), y = test::random_tensor<T>({16, width}, 2);
      const auto dx = test::random_tensor<A>({16, width}, 3);
      tensor<T> out({16, width}), sum = test::copy_of(y.view());
      const auto x_d = to_device(x);
      const auto dx_d = to_device(dx);
      auto out_d = poisoned<T>({16, width}), sum_d = to_device(y);
      jitter_rows(on.host, x, rule, out.view());
      jitter_rows(on.device, x_d.view(), rule, out_d.view());
      CHECK(test::norm_error(to_host(on.device, out_d), out) <= limit<T> / 100);
      CHECK(test::norm_error(out, x) > 0.01);
      add_jittered(on.host, dx, rule, sum.view());
      add_jittered(on.device, dx_d.view(), rule, sum_d.view());
      CHECK(test::norm_error(to_host(on.device, sum_d), sum) <= limit<T>);
    }
    jitter_rows(on.device, view<const T>(nullptr, {0, 4}), rule, view<T>(nullptr, {0, 4}));
  }
}
