#pragma once
// cuBLASLt for one rank: its handle, its workspace, and a plan (descriptors and the algorithm that the library proposes) for every product
// met so far, so that a product seen before costs one call and allocates nothing. Row-major matrices are handed over as their transposes.
//
//   c [m, n] = op(a) op(b)     row-major          c^T [n, m] = op(b)^T op(a)^T     the same memory, column-major: the library's A is b
#include <moefold/core/launch.cuh>
#include <moefold/core/scalar.hpp>
#include <moefold/core/shape.hpp>

#include <cublasLt.h>

#include <unordered_map>

namespace moefold {

/// A call of cuBLASLt that failed.
class blas_error : public error {
 public:
  using error::error;
};

/// Throws blas_error unless `result` is success. what: the call and what it was for, with types and shape.
template <class... What>
inline void blas_check(cublasStatus_t result, const What&... what) {
  require<blas_error>(result == CUBLAS_STATUS_SUCCESS, "moefold: cuBLASLt failed in ", what..., ": ", cublasLtGetStatusName(result), ", ",
                      cublasLtGetStatusString(result));
}

/// One product as the library is asked for it: c [m, n] = alpha op(a) op(b) + beta c. ta: a is stored [k, m]; tb: b is stored [n, k].
struct blas_product {
  dtype operand, result;  // both operands have one type
  bool ta, tb;
  extent_t m, n, k, lda, ldb, ldc;
  unsigned align_a, align_b, align_c;  // bytes, powers of two up to 256

  bool operator==(const blas_product&) const = default;
  std::string words(const char* op) const {
    return sentence(op, " of ", name_of(operand), " [", m, ", ", k, "] x [", k, ", ", n, "] -> ", name_of(result));
  }
  struct hash {
    std::size_t operator()(const blas_product& p) const {
      std::uint64_t h = 0xcbf29ce484222325u;
      for (const std::uint64_t part :
           {std::uint64_t(p.operand) << 16 | std::uint64_t(p.result) << 8 | std::uint64_t(p.ta) << 1 | std::uint64_t(p.tb),
            std::uint64_t(p.m), std::uint64_t(p.n), std::uint64_t(p.k), std::uint64_t(p.lda), std::uint64_t(p.ldb), std::uint64_t(p.ldc),
            std::uint64_t(p.align_a) << 40 | std::uint64_t(p.align_b) << 20 | p.align_c})
        h = (h ^ part) * 0x100000001b3u, h ^= h >> 29;
      return std::size_t(h);
    }
  };
};

/// The largest power of two up to 256 that divides an address: what the library may assume of it.
inline unsigned alignment_of(const void* at) {
  const auto bits = reinterpret_cast<std::uintptr_t>(at) | 256u;
  return unsigned(bits & (~bits + 1));
}

constexpr cudaDataType_t blas_type(dtype type) { return type == dtype::fp64 ? CUDA_R_64F : type == dtype::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// Whether the library multiplies these in one call: bf16 into bf16 or fp32, fp32 and fp64 into themselves.
template <class T, class Y>
inline constexpr bool blas_multiplies = std::is_same_v<T, Y> || (std::is_same_v<T, bf16> && std::is_same_v<Y, float>);

/// Kept by a rank's context from its first product on. The workspace is one: products on several streams of a rank are ordered by the
/// caller's events, as all its scratch is.
class blas_library {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what cuBLAS asks for on sm_90
  static constexpr std::size_t most_plans = 4096;  // shapes that change from step to step must not fill the host's memory

  blas_library() { blas_check(cublasLtCreate(&handle_), "cublasLtCreate"); }
  ~blas_library() {
    (void)cublasLtDestroy(handle_);
    device_memory::deallocate(workspace_);
  }
  blas_library(const blas_library&) = delete;
  blas_library& operator=(const blas_library&) = delete;

  static blas_library& of(cuda_exec e) {
    if (!e.context->blas) e.context->blas = std::make_shared<blas_library>();
    return *static_cast<blas_library*>(e.context->blas.get());
  }

  /// Asynchronous on e's stream. The scale is float, for fp64 double; with beta = 0 nothing is read from c.
  template <class Scale>
  void multiply(cuda_exec e, const char* op, const blas_product& p, Scale alpha, const void* a, const void* b, Scale beta, void* c) {
    plan& how = plan_of(op, p);
    if (how.workspace > 0 && workspace_ == nullptr) workspace_ = device_memory::allocate(workspace_bytes);
    blas_check(cublasLtMatmul(handle_, &how.product, &alpha, b, &how.a, a, &how.b, &beta, c, &how.c, c, &how.c, &how.algorithm, workspace_,
                              how.workspace, e.stream),
               "cublasLtMatmul for ", p.words(op));
  }
  std::size_t plans() const { return plans_.size(); }

 private:
  struct plan {
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, c;  // the library's A and B: b and a
    cublasLtMatmulAlgo_t algorithm;
    std::size_t workspace;
  };

  plan& plan_of(const char* op, const blas_product& p) {
    if (const auto known = plans_.find(p); known != plans_.end()) return known->second;
    if (plans_.size() >= most_plans) plans_.clear();
    return plans_.emplace(p, made(op, p)).first->second;
  }

  plan made(const char* op, const blas_product& p) const {
    plan out;
    const bool wide = p.operand == dtype::fp64;
    const cudaDataType_t operand = blas_type(p.operand);
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& of, cudaDataType_t type, extent_t rows, extent_t cols, extent_t stride) {
      blas_check(cublasLtMatrixLayoutInit(&of, type, std::uint64_t(rows), std::uint64_t(cols), stride), "cublasLtMatrixLayoutInit for ",
                 p.words(op));
    };
    const auto transposed = [&](cublasLtMatmulDescAttributes_t which, bool yes) {
      const cublasOperation_t value = yes ? CUBLAS_OP_T : CUBLAS_OP_N;
      blas_check(cublasLtMatmulDescSetAttribute(&out.product, which, &value, sizeof value), "cublasLtMatmulDescSetAttribute for ",
                 p.words(op));
    };
    // fp32 is multiplied in fp32, never in TF32: the device agrees with the host to 1e-5.
    blas_check(cublasLtMatmulDescInit(&out.product, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, wide ? CUDA_R_64F : CUDA_R_32F),
               "cublasLtMatmulDescInit for ", p.words(op));
    transposed(CUBLASLT_MATMUL_DESC_TRANSA, p.tb);
    transposed(CUBLASLT_MATMUL_DESC_TRANSB, p.ta);
    layout(out.a, operand, p.tb ? p.k : p.n, p.tb ? p.n : p.k, p.ldb);
    layout(out.b, operand, p.ta ? p.m : p.k, p.ta ? p.k : p.m, p.lda);
    layout(out.c, blas_type(p.result), p.n, p.m, p.ldc);

    cublasLtMatmulPreferenceOpaque_t wish;
    blas_check(cublasLtMatmulPreferenceInit(&wish), "cublasLtMatmulPreferenceInit");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
      blas_check(cublasLtMatmulPreferenceSetAttribute(&wish, what, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute for ",
                 p.words(op));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
    // Where k is shared out among blocks, their sums are added in the compute type: other schemes would round each of them to bf16.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{p.align_b});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t{p.align_a});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::uint32_t{p.align_c});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::uint32_t{p.align_c});
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    blas_check(cublasLtMatmulAlgoGetHeuristic(handle_, &out.product, &out.a, &out.b, &out.c, &out.c, &wish, 1, &best, &found),
               "cublasLtMatmulAlgoGetHeuristic for ", p.words(op));
    require<blas_error>(found > 0, "moefold: cuBLASLt knows no algorithm for ", p.words(op), ", aligned to ", p.align_a, ", ", p.align_b,
                        " and ", p.align_c, " bytes; align the matrices to 16 bytes");
    blas_check(best.state, "cublasLtMatmulAlgoGetHeuristic's proposal for ", p.words(op));
    out.algorithm = best.algo;
    out.workspace = best.workspaceSize;
    return out;
  }

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;  // made when an algorithm wants it
  std::unordered_map<blas_product, plan, blas_product::hash> plans_;
};

}  // namespace moefold
