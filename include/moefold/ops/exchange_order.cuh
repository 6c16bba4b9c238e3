#pragma once
// The CUDA twin of ops/exchange_order.hpp: one block adds up the counts, in both orders, then one thread per row of the batch finds its segment by halving.
#include <moefold/core/launch.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/exchange_order.hpp>

namespace moefold {

struct exchange_order_tuning {
  int scan = 256;  // threads of the one block that adds up the counts, of which there are a few thousand
  int rows = 256;  // threads of a block, each with one row
};

namespace kernel {

/// The sum of `value` over the threads before this one; total: over all.
template <int Threads>
__device__ inline std::int64_t sum_before(std::int64_t value, std::int64_t& total) {
  constexpr int warps = Threads / warp_lanes;
  __shared__ std::int64_t of_warp[warps];
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  std::int64_t sum = value;  // of the lanes up to this one
  for (int away = 1; away < warp_lanes; away *= 2) {
    const std::int64_t earlier = __shfl_up_sync(whole_warp, sum, unsigned(away));
    if (lane >= away) sum += earlier;
  }
  if (lane == warp_lanes - 1) of_warp[warp] = sum;
  __syncthreads();
  std::int64_t before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += of_warp[w];
    total += of_warp[w];
  }
  __syncthreads();  // of_warp may be written again
  return before + sum - value;
}

/// begin[i] = sum of count(0) .. count(i - 1) for i = 0 .. size, by all threads of one block.
template <int Threads, class Count>
__device__ inline void begins(extent_t size, std::int64_t* begin, Count count) {
  const extent_t each = (size + Threads - 1) / Threads;
  const extent_t from = each * extent_t(threadIdx.x), most = from + each, to = most < size ? most : size;
  std::int64_t own = 0, total = 0;
  for (extent_t i = from; i < to; ++i) own += count(i);
  std::int64_t sum = sum_before<Threads>(own, total);
  for (extent_t i = from; i < to; ++i) begin[i] = sum, sum += count(i);
  if (threadIdx.x == 0) begin[size] = total;
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    exchange_sizes(const std::int64_t* __restrict__ sent, const std::int64_t* __restrict__ counts, detail::exchange_segments s,
                   extent_t etp_rank, std::int64_t* __restrict__ sizes) {
  constexpr int warps = Threads / warp_lanes;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  for (extent_t i = warp; i < 2 * s.ep + s.etp; i += warps) {  // a warp for each sum
    const std::int64_t* from = sent + i * s.experts;
    extent_t count = s.experts;
    if (i >= s.ep) from = counts + (etp_rank * s.ep + i - s.ep) * s.experts;
    if (i >= 2 * s.ep) from = counts + (i - 2 * s.ep) * s.ep * s.experts, count = s.ep * s.experts;
    std::int64_t sum = 0;
    for (extent_t c = lane; c < count; c += warp_lanes) sum += from[c];
    sum = warp_sum(sum);
    if (lane == 0) sizes[i] = sum;
  }
}

/// in_exchange, in_batch [segments + 1]: where each block of rows begins, by its place among the counts and by its segment.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    exchange_offsets(const std::int64_t* __restrict__ counts, detail::exchange_segments s, extent_t etp_rank, std::int64_t* in_exchange,
                     std::int64_t* in_batch, std::int64_t* __restrict__ offsets, std::int64_t* __restrict__ first) {
  begins<Threads>(s.size(), in_exchange, [=](extent_t i) { return counts[i]; });
  begins<Threads>(s.size(), in_batch, [=](extent_t i) { return counts[s.place(i)]; });
  __syncthreads();
  for (extent_t x = threadIdx.x; x <= s.experts; x += Threads) offsets[x] = in_batch[s.segment(x, 0, 0)];
  const std::int64_t own = in_exchange[etp_rank * s.ep * s.experts];
  for (extent_t i = threadIdx.x; i < s.experts * s.ep; i += Threads) {
    const extent_t segment = s.segment(i / s.ep, i % s.ep, etp_rank);
    first[i] = s.etp == 1 ? in_batch[segment] : in_exchange[s.place(segment)] - own;
  }
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    exchange_order(const std::int64_t* __restrict__ in_exchange, const std::int64_t* __restrict__ in_batch, detail::exchange_segments s,
                   std::int32_t* __restrict__ exchange_of_batch, extent_t rows, device_fault* faults) {
  const extent_t row = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (row >= rows) return;
  const std::int64_t total = in_batch[s.size()];
  if (total != rows) {  // the host was told another number
    if (row == 0) report(faults, fault_kind::row, 0, total, rows);
    exchange_of_batch[row] = 0;
    return;
  }
  const extent_t segment = detail::segment_of(in_batch, s.size(), row);
  exchange_of_batch[row] = std::int32_t(in_exchange[s.place(segment)] + (row - in_batch[segment]));
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    row_offsets(const std::int64_t* __restrict__ counts, extent_t experts, extent_t each, std::int64_t* __restrict__ offsets) {
  begins<Threads>(experts, offsets, [=](extent_t x) { return each >= 0 ? each : counts[x]; });
}

}  // namespace kernel

template <exchange_order_tuning Tune = exchange_order_tuning{}>
void exchange_sizes(cuda_exec e, view<const std::int64_t> sent, view<const std::int64_t> counts, extent_t etp_rank,
                    view<std::int64_t> sizes) {
  detail::require_exchange_sizes(sent, counts, etp_rank, sizes);
  const detail::exchange_segments s{counts.extent(0), counts.extent(1), counts.extent(2)};
  launch(e, "exchange_sizes", kernel::exchange_sizes<Tune.scan>, {1}, Tune.scan, 0, sent.data(), counts.data(), s, etp_rank, sizes.data());
}

template <exchange_order_tuning Tune = exchange_order_tuning{}>
void exchange_order(cuda_exec e, view<const std::int64_t> counts, extent_t etp_rank, view<std::int64_t> offsets, view<std::int64_t> first,
                    view<std::int32_t> exchange_of_batch) {
  detail::require_exchange_order(counts, etp_rank, offsets, first, exchange_of_batch);
  const detail::exchange_segments s{counts.extent(0), counts.extent(1), counts.extent(2)};
  const extent_t rows = extent_t(exchange_of_batch.size());
  scratch<cuda_exec> local(e);
  const view<std::int64_t> in_exchange = local.take<std::int64_t>(s.size() + 1), in_batch = local.take<std::int64_t>(s.size() + 1);
  launch(e, "exchange_order", kernel::exchange_offsets<Tune.scan>, {1}, Tune.scan, 0, counts.data(), s, etp_rank, in_exchange.data(),
         in_batch.data(), offsets.data(), first.data());
  launch(e, "exchange_order", kernel::exchange_order<Tune.rows>, {blocks_for("exchange_order", rows, Tune.rows)}, Tune.rows, 0,
         in_exchange.data(), in_batch.data(), s, exchange_of_batch.data(), rows, e.context->faults.device());
}

template <exchange_order_tuning Tune = exchange_order_tuning{}>
void row_offsets(cuda_exec e, view<const std::int64_t> counts, extent_t each, view<std::int64_t> offsets) {
  require_count("row_offsets", "offsets", offsets.size(), extent_t(counts.size()) + 1);
  launch(e, "row_offsets", kernel::row_offsets<Tune.scan>, {1}, Tune.scan, 0, counts.data(), extent_t(counts.size()), each, offsets.data());
}

}  // namespace moefold
