#pragma once
// The CUDA twin of ops/ids.hpp. Bound by latency: one number per token is read.
#include <moefold/core/launch.cuh>
#include <moefold/ops/ids.hpp>

namespace moefold {

struct ids_tuning {
  int threads = 256;  // sm_80 and sm_90 alike
};

namespace kernel {

template <int Threads>
__global__ void __launch_bounds__(Threads)
    require_tokens(const std::int32_t* __restrict__ ids, std::int64_t count, std::int64_t vocabulary, device_fault* faults) {
  const std::int64_t i = std::int64_t(blockIdx.x) * Threads + threadIdx.x;
  if (i < count && (ids[i] < 0 || ids[i] >= vocabulary)) report(faults, fault_kind::token, i, ids[i], vocabulary);
}

}  // namespace kernel

template <ids_tuning Tune = ids_tuning{}>
void require_tokens(cuda_exec e, std::span<const std::int32_t> ids, std::int64_t vocabulary) {
  const auto count = std::int64_t(ids.size());
  launch(e, "require_tokens", kernel::require_tokens<Tune.threads>, blocks_for("require_tokens", count, Tune.threads), Tune.threads, 0,
         ids.data(), count, vocabulary, e.context->faults.device());
}

}  // namespace moefold
