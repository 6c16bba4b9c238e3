#include <moefold/ops/gemm.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

/// The definition: c = alpha op(a) op(b) + beta c, one element after the other, in double.
template <class T>
tensor<T> naive(bool ta, bool tb, extent_t m, extent_t n, extent_t k, T alpha, const T* a, extent_t lda, const T* b, extent_t ldb, T beta,
                const tensor<T>& c) {
  tensor<T> out({m, n});
  for (extent_t i = 0; i < m; ++i)
    for (extent_t j = 0; j < n; ++j) {
      double sum = 0;
      for (extent_t p = 0; p < k; ++p) sum += double(ta ? a[p * lda + i] : a[i * lda + p]) * double(tb ? b[j * ldb + p] : b[p * ldb + j]);
      const double before = beta == T(0) ? 0.0 : double(beta) * double(c[std::size_t(i * n + j)]);
      out[std::size_t(i * n + j)] = T(double(alpha) * sum + before);
    }
  return out;
}

}  // namespace

TEST_SUITE("ops/gemm") {
  TEST_CASE_TEMPLATE("both kernels equal the definition for awkward extents, transposes, strides and beta", T, float, double) {
    host_context context;
    const host_exec e(context);
    const extent_t sizes[][3] = {{1, 1, 1},      {3, 5, 7}, {6, 32, 4}, {7, 33, 300}, {128, 17, 5},
                                 {131, 65, 257}, {0, 4, 3}, {4, 0, 3},  {4, 3, 0}};
    for (const auto& [m, n, k] : sizes)
      for (int flags = 0; flags < 8; ++flags) {
        const bool ta = flags & 1, tb = flags & 2;
        const T alpha = T(0.5), beta = flags & 4 ? T(-1.5) : T(0);
        const extent_t lda = (ta ? m : k) + 3, ldb = (tb ? k : n) + 1;
        const auto a = random_tensor<T>({(ta ? k : m) + 1, lda}, 1), b = random_tensor<T>({(tb ? n : k) + 1, ldb}, 2);
        auto c = random_tensor<T>({m, n}, 3), own = random_tensor<T>({m, n}, 3);
        const auto expected = naive(ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c);
        gemm_strided(e, ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(), n);
        gemm_strided_fallback(e, ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, own.data(), n);
        const std::string extents = sentence(m, " x ", n, " x ", k, " flags ", flags);
        CAPTURE(extents);
        CHECK(test::largest_error(c, expected) < test::rounding<T>);
        CHECK(test::largest_error(own, expected) < test::rounding<T>);
      }
  }
  TEST_CASE_TEMPLATE("the three products flatten leading extents", T, float, double) {
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<T>({3, 2, 5}, 1), w = random_tensor<T>({4, 5}, 2), dy = random_tensor<T>({3, 2, 4}, 3);
    tensor<T> y({3, 2, 4}), dx({3, 2, 5}), dw({4, 5}, T(0)), none({0, 0});
    gemm_nt(e, x, w, y.view());
    gemm_nn(e, dy, w, dx.view());
    gemm_tn(e, dy, x, dw.view(), T(1));
    CHECK(test::largest_error(y, naive<T>(false, true, 6, 4, 5, 1, x.data(), 5, w.data(), 5, 0, none)) < test::rounding<T>);
    CHECK(test::largest_error(dx, naive<T>(false, false, 6, 5, 4, 1, dy.data(), 4, w.data(), 5, 0, none)) < test::rounding<T>);
    CHECK(test::largest_error(dw, naive<T>(true, false, 4, 5, 6, 1, dy.data(), 4, x.data(), 5, 0, none)) < test::rounding<T>);
  }
  TEST_CASE_TEMPLATE("beta = 0 overwrites whatever the output held, NaN too", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t n : {1, 8, 40, 200}) {
      const auto a = random_tensor<T>({n, n}, 1), b = random_tensor<T>({n, n}, 2);
      tensor<T> c({n, n}, std::numeric_limits<T>::quiet_NaN()), own({n, n}, std::numeric_limits<T>::quiet_NaN());
      gemm_nn(e, a, b, c.view());
      gemm_strided_fallback(e, false, false, n, n, n, T(1), a.data(), n, b.data(), n, T(0), own.data(), n);
      CHECK(test::largest_error(c, own) < test::rounding<T>);
    }
  }
  TEST_CASE("bf16 in, products and sums in fp32, one rounding out: the same bits as the float product of the same numbers, rounded") {
    host_context context;
    const host_exec e(context);
    const extent_t m = 13, n = 9, k = 300;
    const auto narrow = [](const tensor<float>& x) {
      tensor<bf16> out(x.shape());
      for (std::size_t i = 0; i < x.size(); ++i) out[i] = bf16(x[i]);
      return out;
    };
    const auto wide = [](const tensor<bf16>& x) {
      tensor<float> out(x.shape());
      for (std::size_t i = 0; i < x.size(); ++i) out[i] = float(x[i]);
      return out;
    };
    const auto x = narrow(random_tensor<float>({m, k}, 1)), w = narrow(random_tensor<float>({n, k}, 2));
    const auto dy = narrow(random_tensor<float>({m, n}, 3)), before = narrow(random_tensor<float>({m, k}, 4));
    const auto dw_before = random_tensor<float>({n, k}, 5), dlogits = random_tensor<float>({m, n}, 6);
    const auto fx = wide(x), fw = wide(w), fdy = wide(dy);

    tensor<float> y_float({m, n}), y_reference({m, n}), dx_reference({m, k}), dw({n, k}), dw_reference({n, k});
    tensor<bf16> y({m, n}, bf16(std::numeric_limits<float>::quiet_NaN())), dx({m, k});
    gemm_nt(e, fx, fw, y_reference.view());
    gemm_nt(e, x, w, y.view());                      // bf16 x bf16 -> bf16
    gemm_nt(e, x.view(), w.view(), y_float.view());  // -> float
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < y.size(); ++i) wrong += y[i].bits != bf16(y_reference[i]).bits || y_float[i] != y_reference[i];

    gemm_nn(e, fdy, fw, dx_reference.view());
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] = before[i];
    gemm_nn(e, dy, w, dx.view(), bf16(1.0f));
    for (std::size_t i = 0; i < dx.size(); ++i) wrong += dx[i].bits != bf16(dx_reference[i] + float(before[i])).bits;
    gemm_nn(e, dlogits, fw, dx_reference.view());
    gemm_nn(e, dlogits.view(), w.view(), dx.view());  // float x bf16 -> bf16
    for (std::size_t i = 0; i < dx.size(); ++i) wrong += dx[i].bits != bf16(dx_reference[i]).bits;

    for (std::size_t i = 0; i < dw.size(); ++i) dw[i] = dw_reference[i] = dw_before[i];
    gemm_tn(e, fdy, fx, dw_reference.view(), 1.0f);
    gemm_tn(e, dy.view(), x.view(), dw.view(), 1.0f);  // the gradient stays in float
    for (std::size_t i = 0; i < dw.size(); ++i) wrong += dw[i] != dw_reference[i];
    CHECK(wrong == 0);
  }
  TEST_CASE("matrices that do not fit are named") {
    host_context context;
    const host_exec e(context);
    tensor<double> a({2, 3}), b({4, 5}), c({2, 4});
    CHECK_THROWS_WITH_AS(gemm_nt(e, a, b, c.view()),
                         "moefold: gemm_nt needs b [4, 3] to fit its other arguments, given [4, 5]; "
                         "pass a view of that many rows and columns",
                         error);
  }
}
