#pragma once
// The CUDA twin of ops/pick.hpp. Bound by latency: a handful of elements.
#include <moefold/core/launch.cuh>
#include <moefold/ops/pick.hpp>

namespace moefold {

struct pick_tuning {
  int threads = 32;  // sm_80 and sm_90 alike
};

namespace kernel {

template <class T, int Threads>
__global__ void __launch_bounds__(Threads) pick_elements(const T* __restrict__ x, std::int64_t size, const std::int64_t* __restrict__ at,
                                                         double* __restrict__ out, std::int64_t count) {
  const std::int64_t i = std::int64_t(blockIdx.x) * Threads + threadIdx.x;
  if (i < count) out[i] = picked(x, size, at[i]);
}

}  // namespace kernel

template <pick_tuning Tune = pick_tuning{}, class T>
void pick(cuda_exec e, view<T> x, input<std::int64_t> at, view<double> out) {
  require_count("pick", "at", at.size(), extent_t(out.size()));
  const auto count = std::int64_t(out.size());
  launch(e, "pick", kernel::pick_elements<std::remove_const_t<T>, Tune.threads>, blocks_for("pick", count, Tune.threads), Tune.threads, 0,
         x.data(), std::int64_t(x.size()), at.data(), out.data(), count);
}

}  // namespace moefold
