#pragma once
// The CUDA twin of ops/gemm.hpp: the same products by cuBLASLt (ops/blas.cuh), on the exec's stream.
//
//   operands      product                              result
//   bf16 x bf16   fp32 accumulation                    bf16 or fp32, rounded once
//   fp32, fp64    in themselves, never TF32            fp32, fp64
//   fp32 x bf16   the wide one is rounded to bf16      as bf16 x bf16: gradients of logits meet weights on the tensor cores
#include <moefold/ops/blas.cuh>
#include <moefold/ops/elementwise.cuh>
#include <moefold/ops/gemm.hpp>

namespace moefold {

namespace kernel {

/// c [rows, cols] = beta c, where nothing is multiplied.
template <class T>
__global__ void scale_matrix(T* c, std::int64_t cols, std::int64_t stride, std::int64_t count, accumulate_t<T> beta) {
  using A = accumulate_t<T>;
  const std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  T& at = c[i / cols * stride + i % cols];
  at = beta == A(0) ? T(A(0)) : T(beta * A(at));
}

}  // namespace kernel

namespace detail {

template <class T>
void scale_matrix(cuda_exec e, const char* op, extent_t m, extent_t n, accumulate_t<T> beta, T* c, extent_t ldc) {
  constexpr unsigned threads = 256;  // one element each
  if (m == 0 || n == 0 || beta == accumulate_t<T>(1)) return;
  launch(e, op, kernel::scale_matrix<T>, blocks_for(op, m * n, threads), threads, 0, c, n, ldc, m * n, beta);
}

/// The type in which two operands are multiplied: bf16 where one of them is, else the wider.
template <class X, class W>
using operand_t = std::conditional_t<std::is_same_v<X, bf16> || std::is_same_v<W, bf16>, bf16,
                                     std::conditional_t<std::is_same_v<X, double> || std::is_same_v<W, double>, double, float>>;

/// `count` elements in To: the matrix itself where it is of To already.
template <class To, class From>
const To* operand(cuda_exec e, const From* from, extent_t count, scratch<cuda_exec>& local) {
  if constexpr (std::is_same_v<To, From>) {
    return from;
  } else {
    const view<To> to = local.take<To>(count);
    cast(e, view<const From>(from, {count}), to);
    return to.data();
  }
}

}  // namespace detail

/// c [m, n] = alpha op(a) op(b) + beta c, operands of one type; ta: a is stored [k, m] instead of [m, k]; tb: b is stored [n, k] instead of
/// [k, n]. lda, ldb, ldc: elements from one stored row to the next. Local; O(m n k).
template <class T, class Y>
void gemm_strided(cuda_exec e, bool ta, bool tb, extent_t m, extent_t n, extent_t k, accumulate_t<Y> alpha, const T* a, extent_t lda,
                  const T* b, extent_t ldb, accumulate_t<Y> beta, Y* c, extent_t ldc, const char* op = "gemm_strided") {
  static_assert(blas_multiplies<T, Y>, "moefold: cuBLASLt multiplies bf16 into bf16 or float, float into float, double into double");
  if (m == 0 || n == 0) return;
  if (k == 0) return detail::scale_matrix(e, op, m, n, beta, c, ldc);
  const blas_product p{dtype_of<T>, dtype_of<Y>, ta, tb, m, n, k, lda, ldb, ldc, alignment_of(a), alignment_of(b), alignment_of(c)};
  blas_library::of(e).multiply(e, op, p, alpha, a, b, beta, c);
}

namespace detail {

/// c [m, n] = op(a) op(b) + beta c, all packed.
template <class X, class W, class Y>
void gemm_packed(cuda_exec e, const char* op, bool ta, bool tb, extent_t m, extent_t n, extent_t k, const X* a, const W* b,
                 accumulate_t<Y> beta, Y* c) {
  using O = operand_t<X, W>;
  scratch<cuda_exec> local(e);
  const O* const left = operand<O>(e, a, m * k, local);
  const O* const right = operand<O>(e, b, k * n, local);
  gemm_strided(e, ta, tb, m, n, k, accumulate_t<Y>(1), left, ta ? m : k, right, tb ? k : n, beta, c, n, op);
}

}  // namespace detail

template <class T>
void gemm_nt(cuda_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nt", "a", a, m, k);
  require_matrix("gemm_nt", "b", b, n, k);
  detail::gemm_packed(e, "gemm_nt", false, true, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

template <class T>
void gemm_nn(cuda_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nn", "a", a, m, k);
  require_matrix("gemm_nn", "b", b, k, n);
  detail::gemm_packed(e, "gemm_nn", false, false, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

template <class T>
void gemm_tn(cuda_exec e, input<T> a, input<T> b, view<T> c, std::type_identity_t<T> beta = T(0)) {
  const extent_t m = rows_of(c), n = cols_of(c), k = rows_of(a);
  require_matrix("gemm_tn", "a", a, k, m);
  require_matrix("gemm_tn", "b", b, k, n);
  detail::gemm_packed(e, "gemm_tn", true, false, m, n, k, a.data(), b.data(), accumulate_t<T>(beta), c.data());
}

/// The same with different types. Where one operand is bf16 the other is rounded to it in scratch, unlike on the host, which widens.
template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_nt(cuda_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nt", "a", a, m, k);
  require_matrix("gemm_nt", "b", b, n, k);
  detail::gemm_packed<std::remove_const_t<X>, std::remove_const_t<W>>(e, "gemm_nt", false, true, m, n, k, a.data(), b.data(), beta,
                                                                      c.data());
}

template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_nn(cuda_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = cols_of(a);
  require_matrix("gemm_nn", "a", a, m, k);
  require_matrix("gemm_nn", "b", b, k, n);
  detail::gemm_packed<std::remove_const_t<X>, std::remove_const_t<W>>(e, "gemm_nn", false, false, m, n, k, a.data(), b.data(), beta,
                                                                      c.data());
}

template <class X, class W, class Y>
  requires(!detail::one_type<X, W, Y>)
void gemm_tn(cuda_exec e, view<X> a, view<W> b, view<Y> c, std::type_identity_t<accumulate_t<Y>> beta = 0) {
  const extent_t m = rows_of(c), n = cols_of(c), k = rows_of(a);
  require_matrix("gemm_tn", "a", a, k, m);
  require_matrix("gemm_tn", "b", b, k, n);
  detail::gemm_packed<std::remove_const_t<X>, std::remove_const_t<W>>(e, "gemm_tn", true, false, m, n, k, a.data(), b.data(), beta,
                                                                      c.data());
}

}  // namespace moefold
