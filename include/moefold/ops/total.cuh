#pragma once
// The CUDA twin of ops/total.hpp: one block, so that the order of the sum depends on nothing but the number of elements and of threads. Bound by latency:
// it is called for one number per token.
#include <moefold/core/warp.cuh>
#include <moefold/ops/total.hpp>

namespace moefold {

struct total_tuning {
  int threads = 512;  // sm_80 and sm_90 alike: 16 numbers each of 8192 tokens
};

namespace kernel {

template <class T, int Threads>
__global__ void __launch_bounds__(Threads) sum_to(const T* __restrict__ x, extent_t n, double* total) {
  double sum = 0;
  for (extent_t i = int(threadIdx.x); i < n; i += Threads) sum += double(accumulate_t<T>(x[i]));
  sum = block_sum<Threads>(sum);
  if (threadIdx.x == 0) *total += sum;
}

}  // namespace kernel

template <total_tuning Tune = total_tuning{}, class A>
void sum_to(cuda_exec e, view<A> x, view<double> total) {
  require_count("sum_to", "total", total.size(), 1);
  if (x.empty()) return;
  launch(e, "sum_to", kernel::sum_to<std::remove_const_t<A>, Tune.threads>, 1, Tune.threads, 0, x.data(), extent_t(x.size()), total.data());
}

}  // namespace moefold
