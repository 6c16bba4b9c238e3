#pragma once
// Matrix products on the host: CBLAS where the build has one (one thread per rank), else a small blocked kernel that anyone can read.
// Every matrix is row-major; with beta = 0 the output is written without being read, so it may hold anything.
//
//   gemm_nt   c [m, n] = a [m, k] b [n, k]^T + beta c     y = x W^T          leading extents are flattened into rows
//   gemm_nn   c [m, n] = a [m, k] b [k, n]   + beta c     dx = dy W
//   gemm_tn   c [m, n] = a [k, m]^T b [k, n] + beta c     dW = dy^T x
// The three types may differ (bf16 x bf16 -> bf16 or float, float x bf16 -> ..): what is narrower than accumulate_t of c is widened into scratch,
// the product is made there, and every element of c is rounded once, beta c included.
#include <moefold/ops/rows.hpp>

#include <algorithm>

#if MOEFOLD_HAS_CBLAS
#include <cblas.h>
extern "C" void openblas_set_num_threads(int) __attribute__((weak));  // absent in the reference CBLAS, which has no threads
extern "C" int openblas_get_parallel(void) __attribute__((weak));     // 0: built without threads
#endif

namespace moefold {

namespace detail {

/// c = alpha op(a) op(b) + c by blocks: panels of a and b are copied so that the inner loop reads both with stride 1 from cache.
template <class T>
struct blocked_gemm {
  // A panel of b is [depth, tile_n], a panel of a [tile_m, depth], height / tile_m of them at a time.
  static constexpr extent_t tile_m = 6, tile_n = 128 / sizeof(T), depth = 256, height = 120;

  static void run(host_exec e, bool ta, bool tb, extent_t m, extent_t n, extent_t k, T alpha, const T* a, extent_t lda, const T* b,
                  extent_t ldb, T* c, extent_t ldc) {
    const extent_t strips = (n + tile_n - 1) / tile_n;
    scratch<host_exec> local(e);
    T* const pack_b = local.take<T>(strips * tile_n * std::min(k, depth)).data();
    T* const pack_a = local.take<T>(height * std::min(k, depth)).data();
    for (extent_t k0 = 0; k0 < k; k0 += depth) {
      const extent_t kc = std::min(depth, k - k0);
      for (extent_t s = 0; s < strips; ++s)
        pack<tile_n>(tb ? b + k0 + s * tile_n * ldb : b + k0 * ldb + s * tile_n, tb ? ldb : 1, tb ? 1 : ldb, n - s * tile_n, kc, T(1),
                     pack_b + s * tile_n * kc);
      for (extent_t i0 = 0; i0 < m; i0 += height) {
        const extent_t mc = std::min(height, m - i0);
        for (extent_t i = 0; i < mc; i += tile_m)
          pack<tile_m>(ta ? a + k0 * lda + i0 + i : a + (i0 + i) * lda + k0, ta ? 1 : lda, ta ? lda : 1, mc - i, kc, alpha,
                       pack_a + i * kc);
        for (extent_t s = 0; s < strips; ++s)
          for (extent_t i = 0; i < mc; i += tile_m)
            tile(kc, pack_a + i * kc, pack_b + s * tile_n * kc, c + (i0 + i) * ldc + s * tile_n, ldc, mc - i, n - s * tile_n);
      }
    }
  }

 private:
  /// out [kc, Width] = alpha * in(w, p), zero where w is beyond the matrix.
  template <extent_t Width>
  static void pack(const T* in, extent_t step_w, extent_t step_p, extent_t width, extent_t kc, T alpha, T* out) {
    for (extent_t p = 0; p < kc; ++p)
      for (extent_t w = 0; w < Width; ++w) out[p * Width + w] = w < width ? alpha * in[w * step_w + p * step_p] : T(0);
  }
  static void tile(extent_t kc, const T* MOEFOLD_RESTRICT a, const T* MOEFOLD_RESTRICT b, T* c, extent_t ldc, extent_t rows,
                   extent_t cols) {
    T sum[tile_m][tile_n] = {};
    for (extent_t p = 0; p < kc; ++p)
      for (extent_t i = 0; i < tile_m; ++i)
        for (extent_t j = 0; j < tile_n; ++j) sum[i][j] += a[p * tile_m + i] * b[p * tile_n + j];
    for (extent_t i = 0; i < std::min(rows, tile_m); ++i)
      for (extent_t j = 0; j < std::min(cols, tile_n); ++j) c[i * ldc + j] += sum[i][j];
  }
};

template <class T>
void scale_matrix(extent_t m, extent_t n, T beta, T* c, extent_t ldc) {
  if (beta == T(1)) return;
  for (extent_t i = 0; i < m; ++i)
    for (extent_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
}

#if MOEFOLD_HAS_CBLAS
/// A rank is one thread: the library behind CBLAS must not start more, and must bear being called by several ranks at once, which OpenBLAS
/// built without threads does not (its results are then sometimes wrong).
inline void one_blas_thread() {
  [[maybe_unused]] static const bool once = [] {
    require(!&openblas_get_parallel || openblas_get_parallel() != 0,
            "moefold: the OpenBLAS that was loaded is built without threads and gives wrong products when several ranks call it; install "
            "libopenblas-pthread-dev (or another OpenBLAS with threads), or build with MOEFOLD_ENABLE_CBLAS=OFF");
    if (&openblas_set_num_threads) openblas_set_num_threads(1);
    return true;
  }();
}
inline void blas_gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                      int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void blas_gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, double alpha, const double* a, int lda, const double* b,
                      int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
#endif

}  // namespace detail

/// The kernel that needs no library: c [m, n] = alpha op(a) op(b) + beta c, leading dimensions in elements.
template <class T>
void gemm_strided_fallback(host_exec e, bool ta, bool tb, extent_t m, extent_t n, extent_t k, std::type_identity_t<T> alpha,
                           const std::type_identity_t<T>* a, extent_t lda, const std::type_identity_t<T>* b, extent_t ldb,
                           std::type_identity_t<T> beta, T* c, extent_t ldc) {
  detail::scale_matrix(m, n, beta, c, ldc);
  if (m > 0 && n > 0 && k > 0) detail::blocked_gemm<T>::run(e, ta, tb, m, n, k, alpha, a, lda, b, ldb, c, ldc);
}

/// c [m, n] = alpha op(a) op(b) + beta c; ta: a is stored [k, m] instead of [m, k]; tb: b is stored [n, k] instead of [k, n].
/// lda, ldb, ldc: elements from one stored row to the next. Local; O(m n k).
template <class T>
void gemm_strided(host_exec e, bool ta, bool tb, extent_t m, extent_t n, extent_t k, std::type_identity_t<T> alpha,
                  const std::type_identity_t<T>* a, extent_t lda, const std::type_identity_t<T>* b, extent_t ldb,
                  std::type_identity_t<T> beta, T* c, extent_t ldc) {
  e.context->multiply_adds += m * n * k;
#if MOEFOLD_HAS_CBLAS
  constexpr extent_t most = std::numeric_limits<int>::max();
  require(std::max({m, n, k, lda, ldb, ldc}) <= most, "moefold: CBLAS counts in 32 bits, given a product [", m, ", ", k, "] x [", k, ", ",
          n, "]; cut it into parts or build without CBLAS");
  if (m == 0 || n == 0) return;
  if (k == 0) return detail::scale_matrix(m, n, beta, c, ldc);
  detail::one_blas_thread();
  detail::blas_gemm(ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, int(m), int(n), int(k), alpha, a, int(lda), b, int(ldb),
                    beta, c, int(ldc));
#else
  gemm_strided_fallback(e, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#endif
}

namespace detail {

/// Whether a product of these types needs widening: not all three are one type, or that type is not its own accumulate type.
template <class X, class W, class Y>
inline constexpr bool one_type = std::is_same_v<std::remove_const_t<X>, Y>&& std::is_same_v<std::remove_const_t<W>, Y>;

/// [rows, cols], packed, in A: the matrix itself where it is of A already.
template <class A, class T>
const A* widened(const T* from, extent_t rows, extent_t cols, scratch<host_exec>& local) {
  if constexpr (std::is_same_v<A, T>) {
    return from;
  } else {
    A* const to = local.take<A>(rows * cols).data();
    for (extent_t i = 0; i < rows * cols; ++i) to[i] = A(from[i]);
    return to;
  }
}

/// c [m, n] = op(a) op(b) + beta c, all packed: the product in A = accumulate_t<Y>, one rounding at the store.
template <class X, class W, class Y>
void gemm_packed(host_exec e, bool ta, bool tb, extent_t m, extent_t n, extent_t k, const X* a, const W* b, accumulate_t<Y> beta, Y* c) {
  using A = accumulate_t<Y>;
  const extent_t lda = ta ? m : k, ldb = tb ? k : n;
  if constexpr (one_type<X, W, Y> && std::is_same_v<Y, A>) {
    gemm_strided(e, ta, tb, m, n, k, A(1), a, lda, b, ldb, beta, c, n);
  } else {
    scratch<host_exec> local(e);
    const A* const wide_a = widened<A>(a, m, k, local);
    const A* const wide_b = widened<A>(b, k, n, local);
    if constexpr (std::is_same_v<Y, A>) {
      gemm_strided(e, ta, tb, m, n, k, A(1), wide_a, lda, wide_b, ldb, beta, c, n);
    } else {
      A* const wide = local.take<A>(m * n).data();
      gemm_strided(e, ta, tb, m, n, k, A(1), wide_a, lda, wide_b, ldb, A(0), wide, n);
      for (extent_t i = 0; i < m * n; ++i) c[i] = beta == A(0) ? Y(wide[i]) : Y(wide[i] + beta * A(c[i]));
    }
  }
}

}  // namespace detail

template <class T>
void gemm_nt(host_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nt", "a", a, m, k);
  require_matrix("gemm_nt", "b", b, n, k);
  detail::gemm_packed(e, false, true, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

template <class T>
void gemm_nn(host_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nn", "a", a, m, k);
  require_matrix("gemm_nn", "b", b, k, n);
  detail::gemm_packed(e, false, false, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

template <class T>
void gemm_tn(host_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = rows_of(a);
  require_matrix("gemm_tn", "a", a, k, m);
  require_matrix("gemm_tn", "b", b, k, n);
  detail::gemm_packed(e, true, false, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

/// The same with different types.
template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_nt(host_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nt", "a", a, m, k);
  require_matrix("gemm_nt", "b", b, n, k);
  detail::gemm_packed(e, false, true, m, n, k, a.data(), b.data(), beta, c.data());
}

template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_nn(host_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nn", "a", a, m, k);
  require_matrix("gemm_nn", "b", b, k, n);
  detail::gemm_packed(e, false, false, m, n, k, a.data(), b.data(), beta, c.data());
}

template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_tn(host_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = rows_of(a);
  require_matrix("gemm_tn", "a", a, k, m);
  require_matrix("gemm_tn", "b", b, k, n);
  detail::gemm_packed(e, true, false, m, n, k, a.data(), b.data(), beta, c.data());
}

}  // namespace moefold
