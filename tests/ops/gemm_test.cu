#include <moefold/ops/gemm.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

template <class Y>
constexpr double limit = std::is_same_v<Y, double> ? 1e-12
                       : std::is_same_v<Y, float>  ? 1e-5
                                                   : 2e-2;

constexpr extent_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {32, 8, 16}, {17, 40, 33}, {64, 24, 300}, {0, 4, 3}, {4, 0, 3}, {4, 3, 0}};

/// The three products of X and W into Y, with and without what was there, beside the host's.
template <class X, class W, class Y>
void products_agree(extent_t m, extent_t n, extent_t k, double bound) {
  test::both_execs e;
  const std::string extents =
      sentence(m, " x ", n, " x ", k, ", ", name_of(dtype_of<X>), " ", name_of(dtype_of<W>), " ", name_of(dtype_of<Y>));
  CAPTURE(extents);
  const auto a = random_tensor<X>({m, k}, 1), a_down = random_tensor<X>({k, m}, 2);
  const auto b = random_tensor<W>({k, n}, 3), b_across = random_tensor<W>({n, k}, 4);
  const auto there = random_tensor<Y>({m, n}, 5);
  const auto a_d = test::to_device(a), a_down_d = test::to_device(a_down);
  const auto b_d = test::to_device(b), b_across_d = test::to_device(b_across);
  const auto beta = [](double x) {
    if constexpr (detail::one_type<X, W, Y>)
      return Y(x);
    else
      return accumulate_t<Y>(x);
  };
  for (const double by : {0.0, 1.0, -1.5}) {
    CAPTURE(by);
    const auto check = [&](auto product) {
      auto expected = by == 0 ? tensor<Y>({m, n}) : test::copy_of(there.view());
      auto c = by == 0 ? test::poisoned<Y>({m, n}) : test::to_device(there);
      product(expected, c);
      CHECK(test::norm_error(test::to_host(e.device, c), expected) <= bound);
    };
    check([&](auto& c, auto& c_d) {
      gemm_nt(e.host, a.view(), b_across.view(), c.view(), beta(by));
      gemm_nt(e.device, a_d.view(), b_across_d.view(), c_d.view(), beta(by));
    });
    check([&](auto& c, auto& c_d) {
      gemm_nn(e.host, a.view(), b.view(), c.view(), beta(by));
      gemm_nn(e.device, a_d.view(), b_d.view(), c_d.view(), beta(by));
    });
    check([&](auto& c, auto& c_d) {
      gemm_tn(e.host, a_down.view(), b.view(), c.view(), beta(by));
      gemm_tn(e.device, a_down_d.view(), b_d.view(), c_d.view(), beta(by));
    });
  }
}

}  // namespace

TEST_SUITE("ops/gemm") {
  TEST_CASE("the three products of one type agree with the host's, whatever the extents and beta") {
    for (const auto& [m, n, k] : sizes) {
      products_agree<double, double, double>(m, n, k, limit<double>);
      products_agree<float, float, float>(m, n, k, limit<float>);
      products_agree<bf16, bf16, bf16>(m, n, k, limit<bf16>);
    }
  }
  TEST_CASE("bf16 into fp32 keeps what fp32 keeps, and a wide operand beside a bf16 one is rounded to it") {
    for (const auto& [m, n, k] : sizes) {
      products_agree<bf16, bf16, float>(m, n, k, limit<float>);  // logits, gradients of weights
      if (m * n == 1) continue;                                  // one element may cancel, and then the rounding is all there is
      products_agree<float, bf16, bf16>(m, n, k, limit<bf16>);   // gradients of logits times a weight
      products_agree<float, bf16, float>(m, n, k, limit<bf16>);
    }
  }
  TEST_CASE("strides and misaligned memory are taken as they are") {
    test::both_execs e;
    const extent_t m = 9, n = 6, k = 5, lda = 11, ldb = 8, ldc = 7;
    const auto a = random_tensor<bf16>({1 + k * lda}, 1), b = random_tensor<bf16>({1 + k * ldb}, 2);
    auto c = random_tensor<float>({1 + m * ldc}, 3);
    const auto a_d = test::to_device(a), b_d = test::to_device(b);
    auto c_d = test::to_device(c);
    gemm_strided(e.device, true, false, m, n, k, 0.5f, a_d.data() + 1, lda, b_d.data() + 1, ldb, 2.0f, c_d.data() + 1, ldc);
    const auto wide_a = test::converted<float>(a), wide_b = test::converted<float>(b);
    gemm_strided_fallback(e.host, true, false, m, n, k, 0.5f, wide_a.data() + 1, lda, wide_b.data() + 1, ldb, 2.0f, c.data() + 1, ldc);
    CHECK(test::norm_error(test::to_host(e.device, c_d), c) <= limit<float>);  // what lies between the rows is as it was
  }
  TEST_CASE("a shape seen before takes no new plan and no memory, and the same product gives the same bits") {
    test::both_execs e;
    const auto a = test::to_device(random_tensor<float>({24, 300}, 1)), b = test::to_device(random_tensor<float>({16, 300}, 2));
    auto first = test::poisoned<float>({24, 16}), second = test::poisoned<float>({24, 16});
    gemm_nt(e.device, a, b, first.view());
    const std::size_t plans = blas_library::of(e.device).plans(), allocations = device_memory::allocations();
    gemm_nt(e.device, a, b, second.view());
    CHECK(blas_library::of(e.device).plans() == plans);
    CHECK(device_memory::allocations() == allocations);
    const auto once = test::to_host(e.device, first), again = test::to_host(e.device, second);
    CHECK(std::memcmp(once.data(), again.data(), once.size() * sizeof(float)) == 0);
    gemm_nt(e.device, a.view().rows(0, 8), b, second.view().rows(0, 8));
    CHECK(blas_library::of(e.device).plans() == plans + 1);
  }
  TEST_CASE("a product of matrices that do not fit says what was given and what is needed") {
    test::both_execs e;
    test::device_tensor<float> a({2, 3}), b({4, 5}), c({2, 4});
    CHECK_THROWS_WITH_AS(
        gemm_nt(e.device, a, b, c.view()),
        "moefold: gemm_nt needs b [4, 3] to fit its other arguments, given [4, 5]; pass a view of that many rows and columns", error);
  }
  TEST_CASE("what cuBLASLt refuses is told with the operation, the types and the shape") {
    test::both_execs e;
    test::device_tensor<bf16> a({4, 5}), b({5, 6});
    test::device_tensor<float> c({4, 6});
    std::string text;
    try {
      gemm_strided(e.device, false, false, 4, 6, 5, 1.0f, a.data(), 5, b.data(), 6, 0.0f, c.data(), 2);  // rows of c overlap
    } catch (const blas_error& refused) {
      text = refused.what();
    }
    CAPTURE(text);
    CHECK(text.find("moefold: cuBLASLt ") == 0);
    CHECK(text.find("gemm_strided of bf16 [4, 5] x [5, 6] -> fp32") != std::string::npos);
  }
}
