#pragma once
// The CUDA twin of ops/top_k.hpp: a warp for a row. The k best are found one after the other, each as the best of those behind the last: no list is kept,
// so k and the width may be anything, and the order is the host's to the bit.
//
//   lane l looks at columns l, l + 32, ..   the warp agrees on the best by shuffles   k rounds of width / 32 looks
#include <moefold/core/warp.cuh>
#include <moefold/ops/top_k.hpp>

namespace moefold {

namespace kernel {

/// The best column behind `last` (index -1: the best of all), on all lanes of the warp.
template <class A>
__device__ inline detail::ranked<A> warp_best(const A* score, int width, detail::ranked<A> last) {
  detail::ranked<A> best;
  for (int c = int(threadIdx.x) % warp_lanes; c < width; c += warp_lanes) {
    const detail::ranked<A> here{score[c], c};
    if ((last.index < 0 || last.before(here)) && here.before(best)) best = here;
  }
#pragma unroll
  for (int away = warp_lanes / 2; away > 0; away /= 2) {
    detail::ranked<A> other;
    other.value = __shfl_xor_sync(whole_warp, best.value, away);
    other.index = __shfl_xor_sync(whole_warp, best.index, away);
    if (other.before(best)) best = other;
  }
  return best;
}

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    top_k(const A* __restrict__ scores, extent_t rows, int width, int k, std::int32_t* __restrict__ index, A* __restrict__ value) {
  const extent_t row = (extent_t(blockIdx.x) * Threads + threadIdx.x) / warp_lanes;
  if (row >= rows) return;  // a whole warp
  detail::ranked<A> last;
  for (int j = 0; j < k; ++j) {
    last = warp_best(scores + row * width, width, last);
    if (threadIdx.x % warp_lanes == 0) index[row * k + j] = last.index, value[row * k + j] = last.value;
  }
}

template <class A, int Threads>
__global__ void __launch_bounds__(Threads) pick(const A* __restrict__ scores, const std::int32_t* __restrict__ index, int width, int k,
                                                extent_t slots, A* __restrict__ value, device_fault* faults) {
  const extent_t s = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (s >= slots) return;
  const std::int32_t c = index[s];
  const bool there = c >= 0 && c < width;
  if (!there) report(faults, fault_kind::expert, s / k, c, width);
  value[s] = there ? scores[s / k * width + c] : A(0);
}

/// A lane owns the columns lane, lane + 32, ..: nobody else writes them.
template <class A, int Threads>
__global__ void __launch_bounds__(Threads) top_k_backward(const A* __restrict__ dvalue, const std::int32_t* __restrict__ index,
                                                          extent_t rows, int width, int k, A* __restrict__ dscores, device_fault* faults) {
  const extent_t row = (extent_t(blockIdx.x) * Threads + threadIdx.x) / warp_lanes;
  if (row >= rows) return;
  const int lane = int(threadIdx.x) % warp_lanes;
  for (int c = lane; c < width; c += warp_lanes) dscores[row * width + c] = A(0);
  for (int j = 0; j < k; ++j) {
    const std::int32_t c = index[row * k + j];
    if (c >= width) {
      if (lane == 0) report(faults, fault_kind::expert, row, c, width);
    } else if (c >= 0 && c % warp_lanes == lane) {
      dscores[row * width + c] += dvalue[row * k + j];
    }
  }
}

}  // namespace kernel

struct top_k_tuning {
  int threads = 128;  // four rows a block: few enough that small batches still reach all multiprocessors
};

template <class A, top_k_tuning Tune = top_k_tuning{}>
void top_k(cuda_exec e, input<A> scores, extent_t k, view<std::int32_t> index, view<A> value) {
  const extent_t n = rows_of(scores), width = cols_of(scores);
  require(k >= 1 && k <= width, "moefold: top_k needs 1 <= k <= ", width, " columns, given k = ", k);
  require_matrix("top_k", "index", index, n, k);
  require_matrix("top_k", "value", value, n, k);
  launch(e, "top_k", kernel::top_k<A, Tune.threads>, dim3(blocks_for("top_k", n, Tune.threads / warp_lanes)), Tune.threads, 0,
         scores.data(), n, int(width), int(k), index.data(), value.data());
}

template <class A, top_k_tuning Tune = top_k_tuning{}>
void pick(cuda_exec e, input<A> scores, view<const std::int32_t> index, view<A> value) {
  const extent_t n = rows_of(scores), width = cols_of(scores), k = cols_of(index);
  require_matrix("pick", "index", index, n, k);
  require_matrix("pick", "value", value, n, k);
  launch(e, "pick", kernel::pick<A, Tune.threads>, dim3(blocks_for("pick", n * k, Tune.threads)), Tune.threads, 0, scores.data(),
         index.data(), int(width), int(k), n * k, value.data(), e.context->faults.device());
}

template <class A, top_k_tuning Tune = top_k_tuning{}>
void top_k_backward(cuda_exec e, input<A> dvalue, view<const std::int32_t> index, view<A> dscores) {
  const extent_t n = rows_of(dscores), width = cols_of(dscores), k = cols_of(index);
  require_matrix("top_k_backward", "index", index, n, k);
  require_matrix("top_k_backward", "dvalue", dvalue, n, k);
  launch(e, "top_k_backward", kernel::top_k_backward<A, Tune.threads>, dim3(blocks_for("top_k_backward", n, Tune.threads / warp_lanes)),
         Tune.threads, 0, dvalue.data(), index.data(), n, int(width), int(k), dscores.data(), e.context->faults.device());
}

}  // namespace moefold
