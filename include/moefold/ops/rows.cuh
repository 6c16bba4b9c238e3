#pragma once
// How kernels map threads onto rows, for all row-wise operations: a warp per narrow row, a block per wide one, packs of 16 bytes where they fit; and
// sums over rows, for the gradient of whatever all rows share, in two stages of a fixed order.
//
//   row          | pack 0 | pack 1 | .. | pack G-1 | pack G | ..        thread t of the row's group of G threads has packs t, t + G, t + 2 G, ..
//   sum of rows  block b adds rows b, b + blocks, ..  -> share [blocks, width] -> column_sums adds the shares in order to what is there
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/rows.hpp>

namespace moefold {

struct row_tuning {
  int threads =
      256;  // of a block; kernels allow two blocks' registers per multiprocessor: without a bound the compiler spills a few for a third
  int cached =
      4;  // packs of a row that a thread keeps in registers, where an operation goes over a row twice; what is beyond is read again
  int narrow = 4;    // a row of at most so many packs per lane gets a warp, a wider one a block; at most `cached`
  int blocks = 264;  // that share the rows where sums over rows are wanted: two per multiprocessor of the largest device
};

namespace kernel {

/// The row of the calling thread's group, where each group has one row.
template <int Threads, int Group>
__device__ inline std::int64_t row_of_group() {
  return std::int64_t(blockIdx.x) * (Threads / Group) + int(threadIdx.x) / Group;
}

/// body(column, number) for each of the calling thread's packs in a row. The first Cached have their number as a constant, so that arrays indexed by it
/// stay in registers; all others have the number Cached.
template <int Lanes, int Group, int Cached, class Body>
__device__ inline void each_pack(int width, Body body) {
  const int first = int(threadIdx.x) % Group * Lanes;
#pragma unroll
  for (int j = 0; j < Cached; ++j)
    if (const int c = first + j * Group * Lanes; c < width) body(c, j);
#pragma unroll(Cached > 0 ? 1 : 2)
  for (int c = first + Cached * Group * Lanes; c < width; c += Group * Lanes) body(c, Cached);
}

/// The sum over the threads of the group: every one has it.
template <int Group, class A>
__device__ inline A row_sum(A value) {
  if constexpr (Group == warp_lanes)
    return warp_sum(value);
  else
    return block_sum<Group>(value);
}

/// What a block's rows add to each column: in registers for the first Cached packs of a thread, else in the block's row of `share` itself.
/// add(column, number, lane, term) as each_pack calls; all threads call store when the rows are done.
template <int Threads, int Group, int Lanes, int Cached, class A>
struct column_share {
  A* own;  // the block's row of share [blocks, width]
  A kept[Cached][Lanes] = {};

  __device__ explicit column_share(A* row) : own(row) {}

  /// first: of the block's rows.
  __device__ void add(int column, int number, int lane, A term, bool first) {
    if (number < Cached)
      kept[number][lane] += term;
    else
      own[column + lane] = first ? term : own[column + lane] + term;
  }
  __device__ void store(int width) {
    constexpr int groups = Threads / Group;
    const int thread = int(threadIdx.x) % Group;
    if constexpr (groups == 1) {
      each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
        if (j < Cached)
          for (int l = 0; l < Lanes; ++l) own[c + l] = kept[j][l];
      });
    } else {  // warps: one after the other
      __shared__ A of_group[groups][Group * Lanes];
#pragma unroll
      for (int j = 0; j < Cached; ++j) {
        for (int l = 0; l < Lanes; ++l) of_group[int(threadIdx.x) / Group][thread * Lanes + l] = kept[j][l];
        __syncthreads();
        for (int i = int(threadIdx.x); i < Group * Lanes; i += Threads) {
          A sum = 0;
          for (int g = 0; g < groups; ++g) sum += of_group[g][i];
          if (const int column = j * Group * Lanes + i; column < width) own[column] = sum;
        }
        __syncthreads();
      }
    }
  }
};

/// to[c] += the sum of share[., c]. A block has 32 columns; its warps have every so manyth share.
template <int Threads, class A, class G>
__global__ void __launch_bounds__(Threads) column_sums(const A* __restrict__ share, int shares, int width, G* __restrict__ to) {
  constexpr int warps = Threads / warp_lanes;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const std::int64_t column = std::int64_t(blockIdx.x) * warp_lanes + lane;
  __shared__ A of_warp[warps][warp_lanes];
  A sum = 0;
  if (column < width)
    for (std::int64_t s = warp; s < shares; s += warps) sum += share[s * width + column];
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  sum = 0;
  for (int w = 0; w < warps; ++w) sum += of_warp[w][lane];
  to[column] = G(A(to[column]) + sum);
}

}  // namespace kernel

namespace detail {

template <int N>
using constant = std::integral_constant<int, N>;

/// Kernels count columns in 32 bits, a whole sweep of a block beyond the last one included.
inline void require_width(const char* op, extent_t width) {
  require(width <= (extent_t{1} << 30), "moefold: ", op, " takes rows of at most 2^30 columns, given ", width, "; cut them");
}

/// Blocks that have one row for each group of threads.
inline unsigned row_blocks(const char* op, extent_t rows, int threads, int group) { return blocks_for(op, rows, threads / group); }

/// Calls body(lanes, group), both constants: the elements of a pack and the threads of a row.
template <row_tuning Tune, class T, class Body>
void by_row(extent_t width, bool in_packs, Body body) {
  static_assert(Tune.threads % warp_lanes == 0 && Tune.narrow <= Tune.cached);
  const auto grouped = [&](auto lanes) {
    if (width <= extent_t{lanes} * warp_lanes * Tune.narrow)
      body(lanes, constant<warp_lanes>{});
    else
      body(lanes, constant<Tune.threads>{});
  };
  if (in_packs)
    grouped(constant<whole_pack<T>>{});
  else
    grouped(constant<1>{});
}

/// Blocks that share `rows` rows, each of which has at least one.
template <row_tuning Tune>
inline unsigned sharing_blocks(extent_t rows, int group) {
  const extent_t groups = Tune.threads / group;
  return unsigned(std::min<extent_t>(Tune.blocks, (rows + groups - 1) / groups));
}

template <row_tuning Tune, class A, class G>
void column_sums(cuda_exec e, const char* op, const A* share, unsigned shares, extent_t width, G* to) {
  launch(e, op, kernel::column_sums<Tune.threads, A, G>, {blocks_for(op, width, warp_lanes)}, Tune.threads, 0, share, int(shares),
         int(width), to);
}

}  // namespace detail

}  // namespace moefold
