#pragma once
// Attention kernels that work in accumulate_t<T> throughout, for every type and every head_dim up to 256: what ops/flash.cuh launches where tensor cores
// do not fit. A warp owns a few rows; a tile of 32 rows of the other side streams through shared memory, one row per lane.
//
//   own rows [4 of each warp, D]  x  tile [32, D]        score: lane = tile row, own rows are broadcast
//                                                        sums:  lane = column,  scores come back through shared memory
//   forward, dq: own packed queries, stream keys          dk, dv: own keys, stream packed queries; no sum is made by two blocks
#include <moefold/ops/flash_call.cuh>

namespace moefold {

namespace kernel {

template <class T, int D, int Rows, int Warps>
struct flash_rows {
  using A = accumulate_t<T>;
  static constexpr int own = Rows * Warps, tile = warp_lanes, threads = Warps * warp_lanes;
  static constexpr int lanes = whole_pack<A>, stride = D + lanes;  // of the tile: lanes read its rows at once
  using column_sums = A[Rows][D / warp_lanes];

  static constexpr std::size_t shared(int own_tiles) { return std::size_t(own_tiles * own * D + tile * stride + own * tile) * sizeof(A); }

  /// Rows of d elements, from where place(r) says, as numbers of A; zeros where it says null, and from d to D.
  template <class Place>
  __device__ static void load(A* to, int apart, int count, int d, bool packed, Place place) {
    constexpr int each = whole_pack<T>;
    if (packed) {
      for (int i = int(threadIdx.x); i < count * (D / each); i += threads) {
        const int r = i / (D / each), c = i % (D / each) * each;
        const T* const from = place(r);
        moefold::pack<T> x{};
        if (from != nullptr && c < d) x = load_pack<each>(from + c);
#pragma unroll
        for (int l = 0; l < each; ++l) to[r * apart + c + l] = A(x.lane[l]);
      }
    } else {
      for (int i = int(threadIdx.x); i < count * D; i += threads) {
        const int r = i / D, c = i % D;
        const T* const from = place(r);
        to[r * apart + c] = from != nullptr && c < d ? A(from[c]) : A(0);
      }
    }
  }
  /// s[r] = own row r times the lane's row of the tile.
  __device__ static void dots(A (&s)[Rows], const A* own_rows, const A* tile_rows) {
    tile_rows += int(threadIdx.x) % warp_lanes * stride;
#pragma unroll
    for (int r = 0; r < Rows; ++r) s[r] = 0;
#pragma unroll 4
    for (int c = 0; c < D; c += lanes) {
      const moefold::pack<A> x = load_pack<lanes>(tile_rows + c);
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const moefold::pack<A> y = load_pack<lanes>(own_rows + r * D + c);
#pragma unroll
        for (int l = 0; l < lanes; ++l) s[r] += x.lane[l] * y.lane[l];
      }
    }
  }
  /// sum[r][i] += the sum over the tile's rows j of s[r] of lane j times element lane + 32 i of row j. `room` [Rows, 32] is the warp's own.
  __device__ static void add_products(column_sums& sum, const A (&s)[Rows], A* room, const A* tile_rows) {
    const int lane = int(threadIdx.x) % warp_lanes;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < Rows; ++r) room[r * tile + lane] = s[r];
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < tile; j += lanes) {
      moefold::pack<A> factor[Rows];
#pragma unroll
      for (int r = 0; r < Rows; ++r) factor[r] = load_pack<lanes>(room + r * tile + j);
#pragma unroll
      for (int l = 0; l < lanes; ++l)
#pragma unroll
        for (int i = 0; i < D / warp_lanes; ++i) {
          const A x = tile_rows[(j + l) * stride + lane + warp_lanes * i];
#pragma unroll
          for (int r = 0; r < Rows; ++r) sum[r][i] += factor[r].lane[l] * x;
        }
    }
  }
  template <class Out>
  __device__ static void store(Out* to, const A (&sum)[D / warp_lanes], A factor, int d) {
#pragma unroll
    for (int i = 0; i < D / warp_lanes; ++i)
      if (const int c = int(threadIdx.x) % warp_lanes + warp_lanes * i; c < d) to[c] = Out(sum[i] * factor);
  }
};

template <class T, class Out, int D, int Rows, int Warps>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_forward_rows(detail::flash_call<T> c, detail::flash_blocks blocks, Out* out, accumulate_t<T>* lse) {
  using A = accumulate_t<T>;
  using rows = flash_rows<T, D, Rows, Warps>;
  constexpr A none = -std::numeric_limits<A>::infinity();
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, d = int(c.shape.d);
  A* const q_rows = dynamic_shared<A>();
  A *const tile = q_rows + rows::own * D, *const room = tile + rows::tile * rows::stride + warp * Rows * rows::tile;
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.row_count));
  const int block = int(at.block), first_row = block * rows::own, own_row = first_row + warp * Rows;
  rows::load(q_rows, D, rows::own, d, c.packed, [&](int r) { return c.q_row(c.q, first_row + r, at); });
  detail::flash_range sight[Rows];
  A top[Rows], weight[Rows];
  typename rows::column_sums sum = {};
#pragma unroll
  for (int r = 0; r < Rows; ++r) sight[r] = c.sight(own_row + r, at.b), top[r] = none, weight[r] = 0;
  const auto next = [&](int j) { return next_visible(j, blocks.key_count, [&](int k) { return blocks.seen(at.b, block, k); }); };
  for (int j = next(0); j < blocks.key_count; j = next(j + 1)) {
    const int key = j * rows::tile + lane;
    __syncthreads();
    rows::load(tile, rows::stride, rows::tile, d, c.packed, [&](int r) { return c.k_row(c.k, j * rows::tile + r, at); });
    __syncthreads();
    A s[Rows];
    rows::dots(s, q_rows + warp * Rows * D, tile);
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const A score = c.sees(sight[r], key) ? s[r] * c.scale : none;
      const A most = warp_max(score), higher = top[r] < most ? most : top[r], shift = higher > none ? higher : A(0);
      const A shrink = exp_of(top[r] - shift);
      s[r] = exp_of(score - shift);
      top[r] = higher, weight[r] = weight[r] * shrink + s[r];
#pragma unroll
      for (int i = 0; i < D / warp_lanes; ++i) sum[r][i] *= shrink;
    }
    __syncthreads();
    rows::load(tile, rows::stride, rows::tile, d, c.packed, [&](int r) { return c.k_row(c.v, j * rows::tile + r, at); });
    __syncthreads();
    rows::add_products(sum, s, room, tile);
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const A total = warp_sum(weight[r]);
    if (own_row + r >= c.rows()) continue;
    rows::store(out + c.shape.row_offset(own_row + r, at.b, at.head), sum[r], total > A(0) ? A(1) / total : A(0), d);
    if (lane == 0) lse[c.shape.lse_offset(own_row + r, at.b, at.head)] = total > A(0) ? top[r] + std::log(total) : none;
  }
}

/// lse, or +inf where no key is visible: exp(score - shift) gives 0.
template <class A>
MOEFOLD_HD inline A flash_shift(A lse) {
  return lse == -std::numeric_limits<A>::infinity() ? std::numeric_limits<A>::infinity() : lse;
}

template <class T, class Out, int D, int Rows, int Warps>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_dq_rows(detail::flash_call<T> c, detail::flash_blocks blocks, const T* dout, bool packed, const accumulate_t<T>* lse,
                  const accumulate_t<T>* mean, Out* dq) {
  using A = accumulate_t<T>;
  using rows = flash_rows<T, D, Rows, Warps>;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, d = int(c.shape.d);
  A* const q_rows = dynamic_shared<A>();
  A *const dout_rows = q_rows + rows::own * D, *const tile = dout_rows + rows::own * D;
  A* const room = tile + rows::tile * rows::stride + warp * Rows * rows::tile;
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.row_count));
  const int block = int(at.block), first_row = block * rows::own, own_row = first_row + warp * Rows;
  rows::load(q_rows, D, rows::own, d, packed, [&](int r) { return c.q_row(c.q, first_row + r, at); });
  rows::load(dout_rows, D, rows::own, d, packed, [&](int r) { return c.q_row(dout, first_row + r, at); });
  detail::flash_range sight[Rows];
  A shift[Rows], middle[Rows];
  typename rows::column_sums sum = {};
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const bool real = own_row + r < c.rows();
    const extent_t place = real ? c.shape.lse_offset(own_row + r, at.b, at.head) : 0;
    sight[r] = c.sight(own_row + r, at.b), shift[r] = real ? flash_shift(lse[place]) : A(0), middle[r] = real ? mean[place] : A(0);
  }
  const auto next = [&](int j) { return next_visible(j, blocks.key_count, [&](int k) { return blocks.seen(at.b, block, k); }); };
  for (int j = next(0); j < blocks.key_count; j = next(j + 1)) {
    const int key = j * rows::tile + lane;
    __syncthreads();
    rows::load(tile, rows::stride, rows::tile, d, packed, [&](int r) { return c.k_row(c.v, j * rows::tile + r, at); });
    __syncthreads();
    A dprob[Rows], s[Rows];
    rows::dots(dprob, dout_rows + warp * Rows * D, tile);
    __syncthreads();
    rows::load(tile, rows::stride, rows::tile, d, packed, [&](int r) { return c.k_row(c.k, j * rows::tile + r, at); });
    __syncthreads();
    rows::dots(s, q_rows + warp * Rows * D, tile);
#pragma unroll
    for (int r = 0; r < Rows; ++r) s[r] = c.sees(sight[r], key) ? exp_of(s[r] * c.scale - shift[r]) * (dprob[r] - middle[r]) : A(0);
    rows::add_products(sum, s, room, tile);
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r)
    if (own_row + r < c.rows()) rows::store(dq + c.shape.row_offset(own_row + r, at.b, at.head), sum[r], c.scale, d);
}

template <class T, class Out, int D, int Rows, int Warps>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_dkv_rows(detail::flash_call<T> c, detail::flash_blocks blocks, const T* dout, bool packed, const accumulate_t<T>* lse,
                   const accumulate_t<T>* mean, Out* dk, Out* dv) {
  using A = accumulate_t<T>;
  using rows = flash_rows<T, D, Rows, Warps>;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, d = int(c.shape.d);
  A* const k_rows = dynamic_shared<A>();
  A *const v_rows = k_rows + rows::own * D, *const tile = v_rows + rows::own * D;
  A* const room = tile + rows::tile * rows::stride + warp * Rows * rows::tile;
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.key_count));
  const int block = blocks.key_count - 1 - int(at.block), first_key = block * rows::own, own_key = first_key + warp * Rows;
  rows::load(k_rows, D, rows::own, d, packed, [&](int r) { return c.k_row(c.k, first_key + r, at); });
  rows::load(v_rows, D, rows::own, d, packed, [&](int r) { return c.k_row(c.v, first_key + r, at); });
  std::int32_t key_at[Rows];
  typename rows::column_sums dk_sum = {}, dv_sum = {};
#pragma unroll
  for (int r = 0; r < Rows; ++r) key_at[r] = own_key + r < c.keys() ? c.k_at[own_key + r] : 0;
  const auto next = [&](int i) { return next_visible(i, blocks.row_count, [&](int q) { return blocks.seen(at.b, q, block); }); };
  for (int i = next(0); i < blocks.row_count; i = next(i + 1)) {
    const int row = i * rows::tile + lane;
    const bool real = row < c.rows();
    const extent_t place = real ? c.shape.lse_offset(row, at.b, at.head) : 0;
    const detail::flash_range sight = c.sight(row, at.b);
    const A shift = real ? flash_shift(lse[place]) : A(0), middle = real ? mean[place] : A(0);
    const auto load_q = [&] {
      __syncthreads();
      rows::load(tile, rows::stride, rows::tile, d, packed, [&](int r) { return c.q_row(c.q, i * rows::tile + r, at); });
      __syncthreads();
    };
    A s[Rows], dscore[Rows];
    load_q();
    rows::dots(s, k_rows + warp * Rows * D, tile);
#pragma unroll
    for (int r = 0; r < Rows; ++r) s[r] = key_at[r] >= sight.low && key_at[r] <= sight.high ? exp_of(s[r] * c.scale - shift) : A(0);
    __syncthreads();
    rows::load(tile, rows::stride, rows::tile, d, packed, [&](int r) { return c.q_row(dout, i * rows::tile + r, at); });
    __syncthreads();
    rows::dots(dscore, v_rows + warp * Rows * D, tile);
#pragma unroll
    for (int r = 0; r < Rows; ++r) dscore[r] = s[r] * (dscore[r] - middle);
    rows::add_products(dv_sum, s, room, tile);
    load_q();
    rows::add_products(dk_sum, dscore, room, tile);
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r)
    if (own_key + r < c.keys()) {
      const extent_t to = c.shape.k_offset(own_key + r, at.b, at.head);
      rows::store(dk + to, dk_sum[r], c.scale, d);
      rows::store(dv + to, dv_sum[r], A(1), d);
    }
}

}  // namespace kernel

}  // namespace moefold
