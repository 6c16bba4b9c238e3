#include <moefold/ops/pick.hpp>

#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("ops/pick") {
  TEST_CASE_TEMPLATE("elements are picked by number, and there is 0 where no element is", T, float, bf16, double) {
    host_context context;
    tensor<T> x({3});
    for (std::size_t i = 0; i < 3; ++i) x[i] = T(float(i) + 0.5f);
    tensor<std::int64_t> at({4});
    at[0] = 2, at[1] = 3, at[2] = -1, at[3] = 0;
    tensor<double> out({4}, -1.0);
    pick(host_exec(context), x.view(), at, out.view());
    CHECK(out[0] == 2.5);
    CHECK(out[1] == 0);
    CHECK(out[2] == 0);
    CHECK(out[3] == 0.5);
  }
}
