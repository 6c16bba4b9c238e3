#pragma once
// The CUDA twin of ops/capacity.hpp: the same pairs are kept, by selection and not by sorting. Slots are sorted by expert (ops/permute.cuh); then a block
// for an expert finds the key of the last pair it keeps, eight bits at a time, and drops what is behind it: O(N k) looks for each byte of a key.
//
//   key   bytes of the weight (largest first, NaN last), then of the token's number      no two pairs of an expert have the same
//   byte  histogram of it among the pairs that are as the key so far -> the bin in which the capacity is reached -> one more byte of the key
#include <moefold/ops/capacity.hpp>
#include <moefold/ops/permute.cuh>

namespace moefold {

namespace kernel {

inline constexpr int byte_bins = 256;

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    drop_beyond_capacity(const std::int64_t* __restrict__ counts, const std::int32_t* __restrict__ slot_of_row,
                         const A* __restrict__ weight, const std::int32_t* __restrict__ number, int k, std::int64_t capacity,
                         bool by_position, std::int32_t* __restrict__ keep) {
  using bits = decltype(detail::keep_bits(A(0)));
  constexpr int bin_warps = byte_bins / warp_lanes;
  static_assert(Threads >= byte_bins && Threads % warp_lanes == 0);
  __shared__ std::int32_t bin[byte_bins], of_warp[bin_warps], found_byte, found_before;
  const int thread = int(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const std::int64_t count = counts[blockIdx.x];
  if (count <= capacity) return;  // the whole block
  std::int64_t begin = 0;
  for (int x = thread; x < int(blockIdx.x); x += Threads) begin += counts[x];
  begin = block_sum<Threads>(begin);
  const std::int32_t* const slots = slot_of_row + begin;

  bits last_weight = 0;  // the key of the last pair that is kept, as far as it is known
  std::uint32_t last_number = 0;
  std::int64_t left = capacity;  // pairs to keep among those that are as the key so far
  const auto weight_of = [&](std::int32_t slot) { return by_position ? bits(0) : detail::keep_bits(weight[slot]); };
  const auto number_of = [&](std::int32_t slot) { return std::uint32_t(number[slot / k]) ^ 0x80000000u; };
  // One byte of the key: its histogram over the slots that are as the key so far, and the bin in which `left` is reached.
  const auto next_byte = [&](int shift, auto as_before, auto byte_of) {
    for (int b = thread; b < byte_bins; b += Threads) bin[b] = 0;
    __syncthreads();
    for (std::int64_t i = thread; i < count; i += Threads)
      if (const std::int32_t slot = slots[i]; as_before(slot, shift)) atomicAdd(&bin[byte_of(slot, shift)], 1);
    __syncthreads();
    std::int32_t here = 0, until = 0;
    if (thread < byte_bins) {  // whole warps
      here = until = bin[thread];
#pragma unroll
      for (int away = 1; away < warp_lanes; away *= 2) {
        const std::int32_t before = __shfl_up_sync(whole_warp, until, unsigned(away));
        if (lane >= away) until += before;
      }
      if (lane == warp_lanes - 1) of_warp[warp] = until;
    }
    __syncthreads();
    if (thread < byte_bins) {
      for (int w = 0; w < warp; ++w) until += of_warp[w];
      if (until - here < left && left <= until) found_byte = thread, found_before = until - here;
    }
    __syncthreads();
    left -= found_before;
    return std::uint32_t(found_byte);
  };
  if (capacity > 0) {
    for (int shift = 8 * int(sizeof(A)) - 8; shift >= 0 && !by_position; shift -= 8)
      last_weight |= bits(next_byte(
                         shift, [&](std::int32_t slot, int at) { return (weight_of(slot) ^ last_weight) >> at < byte_bins; },
                         [&](std::int32_t slot, int at) { return int(weight_of(slot) >> at & (byte_bins - 1)); }))
                  << shift;
    for (int shift = 24; shift >= 0; shift -= 8)
      last_number |= next_byte(
                         shift,
                         [&](std::int32_t slot, int at) {
                           return weight_of(slot) == last_weight && (number_of(slot) ^ last_number) >> at < byte_bins;
                         },
                         [&](std::int32_t slot, int at) { return int(number_of(slot) >> at & (byte_bins - 1)); })
                  << shift;
  }
  for (std::int64_t i = thread; i < count; i += Threads) {
    const std::int32_t slot = slots[i];
    const bits w = weight_of(slot);
    if (capacity == 0 || w > last_weight || (w == last_weight && number_of(slot) > last_number)) keep[slot] = -1;
  }
}

template <int Threads>
__global__ void __launch_bounds__(Threads) count_dropped(const std::int32_t* __restrict__ expert, const std::uint8_t* __restrict__ padding,
                                                         extent_t slots, int k, unsigned long long* pairs) {
  const extent_t s = extent_t(blockIdx.x) * Threads + threadIdx.x;
  const int here = s < slots && expert[s] < 0 && (padding == nullptr || padding[s / k] == 0);
  const int all = block_sum<Threads>(here);
  if (threadIdx.x == 0 && all > 0) atomicAdd(pairs, static_cast<unsigned long long>(all));  // integers: any order gives the same sum
}

}  // namespace kernel

struct capacity_tuning {
  int threads = 512;  // of an expert's block: it looks at some thousands of pairs, eight times
};

/// Four launches and a copy. The choices of a token are distinct.
template <class A, capacity_tuning Tune = capacity_tuning{}>
void keep_within_capacity(cuda_exec e, view<const std::int32_t> index, view<const A> weight, view<const std::int32_t> number,
                          extent_t experts, extent_t capacity, bool by_position, view<std::int32_t> keep) {
  detail::require_capacity(index, weight.size(), number.size(), capacity, by_position, keep);
  const extent_t tokens = rows_of(index), k = cols_of(index), slots = tokens * k;
  if (slots == 0) return;
  scratch<cuda_exec> local(e);
  const view<std::int64_t> counts = local.template take<std::int64_t>(experts);
  const view<std::int32_t> row_of_slot = local.template take<std::int32_t>(tokens, k),
                           slot_of_row = local.template take<std::int32_t>(slots);
  build_permutation(e, index, experts, counts, row_of_slot, slot_of_row);
  cuda_check(cudaMemcpyAsync(keep.data(), index.data(), index.bytes(), cudaMemcpyDeviceToDevice, e.stream),
             "keep_within_capacity: copying ", index.bytes(), " bytes");
  launch(e, "keep_within_capacity", kernel::drop_beyond_capacity<A, Tune.threads>, dim3(unsigned(experts)), Tune.threads, 0, counts.data(),
         slot_of_row.data(), weight.data(), number.data(), int(k), capacity, by_position, keep.data());
}

/// A memset and one launch.
template <capacity_tuning Tune = capacity_tuning{}>
void count_dropped(cuda_exec e, view<const std::int32_t> expert, view<const std::uint8_t> padding, view<std::int64_t> pairs) {
  detail::require_dropped(expert, padding, pairs);
  const extent_t slots = extent_t(expert.size());
  cuda_check(cudaMemsetAsync(pairs.data(), 0, pairs.bytes(), e.stream), "count_dropped: clearing its sum");
  launch(e, "count_dropped", kernel::count_dropped<Tune.threads>, dim3(blocks_for("count_dropped", slots, Tune.threads)), Tune.threads, 0,
         expert.data(), padding.empty() ? nullptr : padding.data(), slots, int(std::max<extent_t>(1, cols_of(expert))),
         reinterpret_cast<unsigned long long*>(pairs.data()));
}

}  // namespace moefold
