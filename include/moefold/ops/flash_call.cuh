#pragma once
// What the attention kernels of ops/flash_rows.cuh and ops/flash_mma.cuh share: their arguments, and which blocks of keys a block of queries sees at all.
// Positions are arbitrary but usually ascend, so most of what a causal mask hides is hidden in whole blocks.
//
//   flash_blocks   smallest and largest position of every block of packed rows and of keys, made by one small launch before the kernel
//   next_visible   32 blocks are asked at once, one per lane; hidden ones cost no more than that
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/flash.hpp>

namespace moefold {

namespace detail {

/// Positions of a block of packed rows, and where its documents begin.
struct flash_row_range {
  flash_range at, first;
};

/// One attention call, all pointers to device memory.
template <class T>
struct flash_call {
  flash_shape shape;
  const T *q, *k, *v;
  const std::int32_t *q_at, *k_at, *first;  // first: null if no document begins anywhere but at 0
  accumulate_t<T> scale;
  bool packed;  // q, k and v may be read 16 bytes at a time

  flash_call(const char* op, view<const T> q_, view<const T> k_, view<const T> v_, std::span<const std::int32_t> q_position,
             std::span<const std::int32_t> k_position, std::span<const std::int32_t> first_)
      : shape(op, q_.shape(), k_.shape(), v_.shape(), q_position.size(), k_position.size(), first_.size()), q(q_.data()), k(k_.data()),
        v(v_.data()), q_at(q_position.data()), k_at(k_position.data()), first(first_.empty() ? nullptr : first_.data()),
        scale(accumulate_t<T>(1 / std::sqrt(double(shape.d)))), packed(packs(shape.d, q, k, v)) {
    constexpr extent_t most = std::numeric_limits<int>::max() / 2;
    require(shape.d <= 256, "moefold: ", op, " has kernels for a head_dim of up to 256, given ", shape.d);
    require(shape.rows() <= most && shape.sk <= most, "moefold: ", op, " counts positions in 32 bits, given ", shape.sq,
            " queries in groups of ", shape.group, " and ", shape.sk, " keys; use more context parallelism");
  }

  __device__ int rows() const { return int(shape.rows()); }
  __device__ int keys() const { return int(shape.sk); }
  __device__ const T* q_row(const T* in, int r, const flash_shape::place& at) const {
    return r < rows() ? in + shape.row_offset(r, at.b, at.head) : nullptr;
  }
  __device__ const T* k_row(const T* in, int j, const flash_shape::place& at) const {
    return j < keys() ? in + shape.k_offset(j, at.b, at.head) : nullptr;
  }
  /// The positions that packed row r sees, first and last; none for a row that is not there.
  __device__ flash_range sight(int r, extent_t b) const {
    constexpr std::int32_t low = std::numeric_limits<std::int32_t>::min(), high = std::numeric_limits<std::int32_t>::max();
    if (r >= rows()) return {high, low};
    const int i = r / int(shape.group);
    return {first ? first[i * shape.batch + b] : low, q_at[i]};
  }
  __device__ bool sees(flash_range sight, int j) const { return j < keys() && k_at[j] >= sight.low && k_at[j] <= sight.high; }
};

/// Made by blocks_of below.
struct flash_blocks {
  const flash_row_range* row;  // [B, row_count]
  const flash_range* key;      // [key_count]
  int row_block, key_block, row_count, key_count;

  MOEFOLD_HD flash_seen seen(extent_t b, int i, int j) const {
    const flash_row_range& q = row[b * row_count + i];
    return flash_visible(q.at, key[j], q.first);
  }
};

}  // namespace detail

namespace kernel {

/// One warp per block: first those of packed rows, sequence after sequence, then those of keys.
template <class T, int Threads>
__global__ void __launch_bounds__(Threads)
    flash_ranges(detail::flash_call<T> c, int row_block, int key_block, detail::flash_row_range* row, detail::flash_range* key) {
  const int lane = int(threadIdx.x) % warp_lanes;
  const extent_t row_count = (c.shape.rows() + row_block - 1) / row_block, key_count = (c.shape.sk + key_block - 1) / key_block;
  extent_t w = extent_t(blockIdx.x) * (Threads / warp_lanes) + int(threadIdx.x) / warp_lanes;
  const auto range_of = [&](extent_t from, extent_t to, auto position) {  // [from, to)
    std::int32_t low = position(from), high = low;
    for (extent_t i = from + lane; i < to; i += warp_lanes) {
      const std::int32_t at = position(i);
      low = at < low ? at : low, high = high < at ? at : high;
    }
    return detail::flash_range{warp_merge(low, [](std::int32_t a, std::int32_t b) { return b < a ? b : a; }), warp_max(high)};
  };
  if (w < c.shape.batch * row_count) {
    const extent_t b = w / row_count, r = w % row_count * row_block, end = r + row_block < c.shape.rows() ? r + row_block : c.shape.rows();
    const extent_t from = r / c.shape.group, to = (end - 1) / c.shape.group + 1;
    detail::flash_row_range own{range_of(from, to, [&](extent_t i) { return c.q_at[i]; }), detail::flash_from_the_start};
    if (c.first) own.first = range_of(from, to, [&](extent_t i) { return c.first[i * c.shape.batch + b]; });
    if (lane == 0) row[w] = own;
    return;
  }
  w -= c.shape.batch * row_count;
  if (w >= key_count) return;
  const extent_t from = w * key_block, to = from + key_block < c.shape.sk ? from + key_block : c.shape.sk;
  const detail::flash_range own = range_of(from, to, [&](extent_t j) { return c.k_at[j]; });
  if (lane == 0) key[w] = own;
}

/// The first of the blocks at, at + 1, .. for which seen_of(block) is not none; `count` if there is none. The same for every warp.
template <class Seen>
__device__ inline int next_visible(int at, int count, Seen seen_of) {
  const int lane = int(threadIdx.x) % warp_lanes;
  for (; at < count; at += warp_lanes) {
    const unsigned some = __ballot_sync(whole_warp, at + lane < count && seen_of(at + lane) != detail::flash_seen::none);
    if (some != 0) return at + __ffs(int(some)) - 1;
  }
  return count;
}

}  // namespace kernel

namespace detail {

/// The ranges of all blocks, in `local`.
template <class T>
flash_blocks blocks_of(const char* op, cuda_exec e, const flash_call<T>& c, int row_block, int key_block, scratch<cuda_exec>& local) {
  constexpr int threads = 128;
  const extent_t row_count = (c.shape.rows() + row_block - 1) / row_block, key_count = (c.shape.sk + key_block - 1) / key_block;
  flash_row_range* const row = local.take<flash_row_range>(c.shape.batch, row_count).data();
  flash_range* const key = local.take<flash_range>(key_count).data();
  launch(e, op, kernel::flash_ranges<T, threads>, blocks_for(op, c.shape.batch * row_count + key_count, threads / warp_lanes), threads, 0,
         c, row_block, key_block, row, key);
  return {row, key, row_block, key_block, int(row_count), int(key_count)};
}

/// f(std::integral_constant<int, D>), D the smallest of the widths that holds d.
template <int Width, int... More, class F>
void with_width(extent_t d, F f) {
  if constexpr (sizeof...(More) == 0)
    f(std::integral_constant<int, Width>{});
  else if (d <= Width)
    f(std::integral_constant<int, Width>{});
  else
    with_width<More...>(d, f);
}

}  // namespace detail

}  // namespace moefold
