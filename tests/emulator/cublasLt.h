#pragma once
// cuBLASLt, as far as moefold uses it, for the emulator: the same names, products by plain loops in the compute type, run when the stream gets there.
// What the library would refuse or read past is refused here: types it does not multiply, layouts that do not fit, strides too short, an algorithm
// used for another product or for memory less aligned than was promised, host memory.
#include "cuda_runtime.h"

#include <algorithm>
#include <cstdint>
#include <vector>

enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_EXECUTION_FAILED = 13,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasLtMatmulDescAttributes_t { CUBLASLT_MATMUL_DESC_TRANSA = 3, CUBLASLT_MATMUL_DESC_TRANSB = 4 };
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};
enum cublasLtReductionScheme_t { CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2, CUBLASLT_REDUCTION_SCHEME_MASK = 7 };

struct cublasLtContext {};
using cublasLtHandle_t = cublasLtContext*;
struct cublasLtMatrixLayoutOpaque_t {  // column-major
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t stride;
  bool operator==(const cublasLtMatrixLayoutOpaque_t&) const = default;
};
using cublasLtMatrixLayout_t = cublasLtMatrixLayoutOpaque_t*;
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a, b;
  bool operator==(const cublasLtMatmulDescOpaque_t&) const = default;
};
using cublasLtMatmulDesc_t = cublasLtMatmulDescOpaque_t*;
struct cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace;
  std::uint32_t reductions;
  std::uint32_t alignment[4];  // A, B, C, D
};
using cublasLtMatmulPreference_t = cublasLtMatmulPreferenceOpaque_t*;
struct cublasLtMatmulAlgo_t {  // knows what it was made for
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  std::uint32_t alignment[4];
  std::size_t workspace;
};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  std::size_t workspaceSize;
  cublasStatus_t state;
  float wavesCount;
};

inline const char* cublasLtGetStatusName(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
}
inline const char* cublasLtGetStatusString(cublasStatus_t) { return "emulated cuBLASLt"; }

inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, std::uint64_t rows, std::uint64_t cols,
                                               std::int64_t stride) {
  if (rows == 0 || cols == 0 || stride < std::int64_t(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = {type, rows, cols, stride};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t product, cublasComputeType_t compute, cudaDataType_t scale) {
  *product = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N};
  return (compute == CUBLAS_COMPUTE_64F) == (scale == CUDA_R_64F) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t which, const void* value,
                                                     std::size_t bytes) {
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(which == CUBLASLT_MATMUL_DESC_TRANSA ? &product->a : &product->b, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t wish) {
  *wish = {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish, cublasLtMatmulPreferenceAttributes_t which,
                                                           const void* value, std::size_t bytes) {
  const bool workspace = which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
  if (bytes != (workspace ? 8u : 4u)) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace)
    std::memcpy(&wish->workspace, value, bytes);
  else if (which == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
    std::memcpy(&wish->reductions, value, bytes);
  else
    std::memcpy(&wish->alignment[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

namespace emulator {

inline std::size_t size_of(cudaDataType_t type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

inline cublasStatus_t examined(const cublasLtMatmulDescOpaque_t& p, const cublasLtMatrixLayoutOpaque_t& a,
                               const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
                               const cublasLtMatrixLayoutOpaque_t& d) {
  const std::uint64_t m = p.a ? a.cols : a.rows, k = p.a ? a.rows : a.cols, n = p.b ? b.rows : b.cols;
  if ((p.b ? b.cols : b.rows) != k || d.rows != m || d.cols != n || c.rows != m || c.cols != n) return CUBLAS_STATUS_INVALID_VALUE;
  const bool wide = p.compute == CUBLAS_COMPUTE_64F, one = a.type == b.type && c.type == d.type;
  const bool known = wide                  ? a.type == CUDA_R_64F && d.type == CUDA_R_64F
                   : a.type == CUDA_R_16BF ? d.type == CUDA_R_16BF || d.type == CUDA_R_32F
                                           : a.type == CUDA_R_32F && d.type == CUDA_R_32F;
  return one && known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

/// Element i of memory of this type, and back, rounded to nearest even.
template <class S>
S read_as(const void* from, cudaDataType_t type, std::size_t i) {
  if (type == CUDA_R_64F) return S(static_cast<const double*>(from)[i]);
  if (type == CUDA_R_32F) return S(static_cast<const float*>(from)[i]);
  return S(std::bit_cast<float>(std::uint32_t{static_cast<const std::uint16_t*>(from)[i]} << 16));
}
template <class S>
void write_as(void* to, cudaDataType_t type, std::size_t i, S value) {
  if (type == CUDA_R_64F) return void(static_cast<double*>(to)[i] = double(value));
  if (type == CUDA_R_32F) return void(static_cast<float*>(to)[i] = float(value));
  const auto wide = std::bit_cast<std::uint32_t>(float(value));
  const bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
  static_cast<std::uint16_t*>(to)[i] = std::uint16_t(nan ? wide >> 16 | 0x40u : (wide + 0x7fffu + (wide >> 16 & 1u)) >> 16);
}

#if defined(__GNUC__) && !defined(__clang__)
#define MOEFOLD_EMULATOR_FAST __attribute__((optimize("O3")))  // tests are compiled for speed of compilation
#else
#define MOEFOLD_EMULATOR_FAST
#endif
/// sum [columns] += x y [columns].
template <class S>
MOEFOLD_EMULATOR_FAST void add_scaled(S* __restrict__ sum, const S* __restrict__ y, S x, std::size_t columns) {
  for (std::size_t i = 0; i < columns; ++i) sum[i] += x * y[i];
}

template <class S>
void multiply(const cublasLtMatmulAlgo_t& p, S alpha, const void* a, const void* b, S beta, const void* c, void* d) {
  const device_heap::opened here;
  const std::size_t m = p.d.rows, n = p.d.cols, k = p.product.a ? p.a.rows : p.a.cols;
  std::vector<S> left(k * m), sum(m);  // left: op(a), an m-row for each k
  for (std::size_t l = 0; l < k; ++l)
    for (std::size_t i = 0; i < m; ++i)
      left[l * m + i] = read_as<S>(a, p.a.type, p.product.a ? i * std::size_t(p.a.stride) + l : l * std::size_t(p.a.stride) + i);
  for (std::size_t j = 0; j < n; ++j) {
    std::fill(sum.begin(), sum.end(), S(0));
    for (std::size_t l = 0; l < k; ++l)
      add_scaled(sum.data(), left.data() + l * m,
                 read_as<S>(b, p.b.type, p.product.b ? l * std::size_t(p.b.stride) + j : j * std::size_t(p.b.stride) + l), m);
    for (std::size_t i = 0; i < m; ++i) {
      const std::size_t at = j * std::size_t(p.d.stride) + i;
      const S before = beta == S(0) ? S(0) : beta * read_as<S>(c, p.c.type, j * std::size_t(p.c.stride) + i);
      write_as<S>(d, p.d.type, at, alpha * sum[i] + before);
    }
  }
}

}  // namespace emulator

inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                                                     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                     cublasLtMatmulPreference_t wish, int wanted, cublasLtMatmulHeuristicResult_t* results,
                                                     int* found) {
  *found = 0;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t s = emulator::examined(*product, *a, *b, *c, *d); s != CUBLAS_STATUS_SUCCESS) return s;
  const std::uint64_t k = product->a ? a->rows : a->cols;
  const std::size_t workspace = k > 256 ? 4096 : 0;  // so that both a product with and one without is seen
  if (workspace > wish->workspace) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {{*product, *a, *b, *c, *d, {wish->alignment[0], wish->alignment[1], wish->alignment[2], wish->alignment[3]}, workspace},
                workspace,
                CUBLAS_STATUS_SUCCESS,
                1.0f};
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                                     cublasLtMatrixLayout_t of_a, const void* b, cublasLtMatrixLayout_t of_b, const void* beta,
                                     const void* c, cublasLtMatrixLayout_t of_c, void* d, cublasLtMatrixLayout_t of_d,
                                     const cublasLtMatmulAlgo_t* algo, void* workspace, std::size_t workspace_bytes, cudaStream_t stream) {
  using namespace emulator;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!(algo->product == *product && algo->a == *of_a && algo->b == *of_b && algo->c == *of_c && algo->d == *of_d))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < algo->workspace || (algo->workspace > 0 && !device_heap::get().holds(workspace)))
    return CUBLAS_STATUS_INVALID_VALUE;
  const void* const pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (!device_heap::get().holds(pointers[i]) || reinterpret_cast<std::uintptr_t>(pointers[i]) % algo->alignment[i] != 0)
      return CUBLAS_STATUS_EXECUTION_FAILED;
  ++counted().launches;
  if (product->compute == CUBLAS_COMPUTE_64F)
    issue(stream, [p = *algo, x = *static_cast<const double*>(alpha), y = *static_cast<const double*>(beta), a, b, c, d] {
      multiply<double>(p, x, a, b, y, c, d);
    });
  else
    issue(stream, [p = *algo, x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta), a, b, c, d] {
      multiply<float>(p, x, a, b, y, c, d);
    });
  return CUBLAS_STATUS_SUCCESS;
}
