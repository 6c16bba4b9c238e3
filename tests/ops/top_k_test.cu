#include <moefold/ops/top_k.cuh>

#include "../support/row_twins.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using test::both_execs;
using test::poisoned;
using test::same;
using test::to_device;
using test::to_host;

TEST_SUITE("ops/top_k") {
  TEST_CASE_TEMPLATE("the k best of the device are the host's, and so is the way back", A, float, double) {
    both_execs on;
    for (const extent_t n : {0, 1, 9})
      for (const extent_t width : {1, 5, 32, 33, 130})
        for (const extent_t k : {1, 2, 5, 33}) {
          if (k > width) continue;
          CAPTURE(n);
          CAPTURE(width);
          CAPTURE(k);
          auto scores = test::random_tensor<A>({n, width}, 1);
          for (auto& s : scores.view()) s = A(int(s * 3));  // many are equal
          const auto dvalue = test::random_tensor<A>({n, k}, 2);
          const auto scores_d = to_device(scores), dvalue_d = to_device(dvalue);
          tensor<std::int32_t> index({n, k});
          tensor<A> value({n, k}), picked({n, k}), back({n, width});
          auto index_d = poisoned<std::int32_t>({n, k});
          auto value_d = poisoned<A>({n, k}), picked_d = poisoned<A>({n, k}), back_d = poisoned<A>({n, width});
          top_k(on.host, scores, k, index.view(), value.view());
          top_k(on.device, scores_d.view(), k, index_d.view(), value_d.view());
          CHECK(same(to_host(on.device, index_d), index));
          CHECK(same(to_host(on.device, value_d), value));
          pick(on.device, scores_d.view(), index_d.view(), picked_d.view());
          CHECK(same(to_host(on.device, picked_d), value));
          if (n > 0) index[0] = -1;  // dropped later
          const auto dropped_d = to_device(index);
          top_k_backward(on.host, dvalue, index.view(), back.view());
          top_k_backward(on.device, dvalue_d.view(), dropped_d.view(), back_d.view());
          CHECK(same(to_host(on.device, back_d), back));
        }
  }
}
