#pragma once
// Sums and maxima over the threads of a warp or of a block, in a fixed tree: the same bits on every launch. All threads call them.
//
//   warp_sum    lane i adds lane i ^ 16, i ^ 8, ..: every lane has the sum        block_sum    warps first, then warp 0 over the warps: every thread has it
#include <moefold/core/launch.cuh>

namespace moefold {

inline constexpr int warp_lanes = 32;
inline constexpr unsigned whole_warp = 0xffffffffu;

template <class A, class Merge>
__device__ inline A warp_merge(A value, Merge merge) {
#pragma unroll
  for (int away = warp_lanes / 2; away > 0; away /= 2) value = merge(value, __shfl_xor_sync(whole_warp, value, away));
  return value;
}
template <class A>
__device__ inline A warp_sum(A value) {
  return warp_merge(value, [](A a, A b) { return a + b; });
}
template <class A>
__device__ inline A warp_max(A value) {
  return warp_merge(value, [](A a, A b) { return a < b ? b : a; });
}

/// Over all `Threads` threads of the block, a multiple of 32. Safe to call again at once.
template <int Threads, class A, class Merge>
__device__ inline A block_merge(A value, A nothing, Merge merge) {
  static_assert(Threads % warp_lanes == 0 && Threads <= 1024, "moefold: a block of whole warps, 1024 threads at most");
  value = warp_merge(value, merge);
  if constexpr (Threads > warp_lanes) {
    constexpr int warps = Threads / warp_lanes;
    __shared__ A of_warp[warps];
    const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
    if (lane == 0) of_warp[warp] = value;
    __syncthreads();
    value = warp_merge(lane < warps ? of_warp[lane] : nothing, merge);
    __syncthreads();  // of_warp may be written again
  }
  return value;
}
template <int Threads, class A>
__device__ inline A block_sum(A value) {
  return block_merge<Threads>(value, A(0), [](A a, A b) { return a + b; });
}
template <int Threads, class A>
__device__ inline A block_max(A value) {
  return block_merge<Threads>(value, -std::numeric_limits<A>::infinity(), [](A a, A b) { return a < b ? b : a; });
}

}  // namespace moefold
