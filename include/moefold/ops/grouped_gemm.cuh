#pragma once
// The CUDA twin of ops/grouped_gemm.hpp. Offsets are device memory: one launch finds out on the device who multiplies what (ops/grouped_tiles.hpp), the host
// waits for nothing, and rows of a group need no padding. Sums are made in a fixed order, without atomics: the same bits on every launch.
//
//   bf16 x bf16, rows of whole packs   tensor cores: tiles of 128 x 128 or 64 x 64, copied ahead of their use by cp.async
//   everything else                    tiles of 64 x 64 by multiplication and addition in accumulate_t of the result
#include <moefold/core/mma.cuh>
#include <moefold/core/pack.cuh>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/ops/grouped_tiles.hpp>

namespace moefold {

/// One kernel's tile: a block makes M x N of the result, each of its warps WarpM x WarpN, K deep at a time; Stages tiles are under way; bands of `Band`
/// rows of tiles go through the device's cache together.
template <int M, int N, int K, int WarpM, int WarpN, int Stages, int Band>
struct grouped_tuning {
  static constexpr int m = M, n = N, k = K, warp_m = WarpM, warp_n = WarpN, stages = Stages, band = Band;
  static constexpr int threads = M / WarpM * (N / WarpN) * warp_lanes;
  // Rows of a tile in shared memory end in a gap of 16 bytes, so that the eight rows that load_matrices reads at once lie in different banks.
  static constexpr int stride(bool along_k, int across) { return (along_k ? K : across) + 8; }
  static constexpr int room(bool along_k, int across) { return (along_k ? across : K) * stride(along_k, across); }
};
/// sm_80 and up: two blocks on an SM, each 80 KiB of shared memory; a warp of 64 x 64 reads from it no more than its tensor core takes in.
using grouped_large = grouped_tuning<128, 128, 32, 64, 64, 4, 8>;
/// For groups of few rows, half of whose tile would be empty.
using grouped_small = grouped_tuning<64, 64, 32, 32, 32, 4, 8>;

namespace kernel {

/// Complains of offsets that do not ascend from 0 to rows. For one block.
__device__ inline void check_offsets(const std::int64_t* offsets, std::int64_t groups, std::int64_t rows, device_fault* faults) {
  for (std::int64_t g = threadIdx.x; g <= groups; g += blockDim.x) {
    const std::int64_t least = g == 0 ? 0 : offsets[g - 1];
    if (offsets[g] < least || offsets[g] > rows || (g == 0 && offsets[g] != 0) || (g == groups && offsets[g] != rows))
      report(faults, fault_kind::offset, g, offsets[g], rows);
  }
}

/// Stage `to` of one operand: `Across` rows or columns of it by Tune::k elements of k, zeros where the tile is cut off.
template <class Tune, bool AlongK, int Across>
__device__ inline void copy_tile(bf16* to, const bf16* from, std::int64_t stride, std::int64_t across, std::int64_t k0, std::int64_t k) {
  constexpr int packs = (AlongK ? Tune::k : Across) / 8, rows = AlongK ? Across : Tune::k, room = Tune::stride(AlongK, Across);
  static_assert(packs * rows % Tune::threads == 0, "moefold: every thread copies as many packs as the others");
#pragma unroll
  for (int i = 0; i < packs * rows / Tune::threads; ++i) {
    const int at = i * Tune::threads + int(threadIdx.x), row = at / packs, lane = at % packs * 8;
    const bool valid = AlongK ? row < across && k0 + lane < k : k0 + row < k && lane < across;
    const std::int64_t place = AlongK ? row * stride + k0 + lane : (k0 + row) * stride + lane;
    copy_async<16>(to + row * room + lane, valid ? from + place : from, valid);
  }
}

template <class Tune, grouped_kind Kind, bool Add, class Y>
__global__ void __launch_bounds__(Tune::threads)
    grouped_tensor(const bf16* __restrict__ a, const bf16* __restrict__ b, Y* __restrict__ c, const std::int64_t* __restrict__ offsets,
                   device_fault* faults, grouped_extents all, float beta) {
  constexpr bool a_along_k = Kind != grouped_kind::tn, b_along_k = Kind == grouped_kind::nt;
  constexpr int room_a = Tune::room(a_along_k, Tune::m), room_b = Tune::room(b_along_k, Tune::n), stage = room_a + room_b;
  constexpr int blocks_m = Tune::warp_m / 16, blocks_n = Tune::warp_n / 8;
  bf16* const shared = dynamic_shared<bf16>();
  if (blockIdx.x == 0) check_offsets(offsets, all.groups, all.rows, faults);
  const grouped_tile tile = tile_of_block(Kind, blockIdx.x, offsets, all, Tune::m, Tune::n, Tune::band);
  if (tile.m == 0) return;  // the whole block

  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const int m0 = warp % (Tune::m / Tune::warp_m) * Tune::warp_m, n0 = warp / (Tune::m / Tune::warp_m) * Tune::warp_n;
  const bool busy = m0 < tile.m && n0 < tile.n;  // or nothing of this warp's part is in the group
  const auto copy_stage = [&](std::int64_t step) {
    bf16* const to = shared + step % Tune::stages * stage;
    copy_tile<Tune, a_along_k, Tune::m>(to, a + tile.a, tile.lda, tile.m, step * Tune::k, tile.k);
    copy_tile<Tune, b_along_k, Tune::n>(to + room_a, b + tile.b, tile.ldb, tile.n, step * Tune::k, tile.k);
  };

  const std::int64_t steps = (tile.k + Tune::k - 1) / Tune::k;
#pragma unroll
  for (int s = 0; s < Tune::stages - 1; ++s) {
    if (s < steps) copy_stage(s);
    copy_async_commit();
  }
  float sum[blocks_m][blocks_n][4] = {};
  for (std::int64_t step = 0; step < steps; ++step) {
    copy_async_wait<Tune::stages - 2>();
    __syncthreads();  // this step's tile is there for all, and all are done with the one before, whose place the next copy takes
    if (step + Tune::stages - 1 < steps) copy_stage(step + Tune::stages - 1);
    copy_async_commit();
    if (!busy) continue;
    const bf16* const left = shared + step % Tune::stages * stage;
    const bf16* const right = left + room_a;
#pragma unroll
    for (int k = 0; k < Tune::k; k += 16) {
      unsigned x[blocks_m][4], y[blocks_n / 2][4];  // y: two blocks of columns at a time
      const int low = lane % 8, second = lane / 8 % 2 * 8, third = lane / 16 * 8;
#pragma unroll
      for (int i = 0; i < blocks_m; ++i) {
        constexpr int stride = Tune::stride(a_along_k, Tune::m);
        const int m = m0 + i * 16;
        load_matrices<!a_along_k>(x[i],
                                  left + (a_along_k ? (m + low + second) * stride + k + third : (k + low + third) * stride + m + second));
      }
#pragma unroll
      for (int j = 0; j < blocks_n / 2; ++j) {
        constexpr int stride = Tune::stride(b_along_k, Tune::n);
        const int n = n0 + j * 16;
        load_matrices<!b_along_k>(y[j],
                                  right + (b_along_k ? (n + low + third) * stride + k + second : (k + low + second) * stride + n + third));
      }
#pragma unroll
      for (int i = 0; i < blocks_m; ++i)
#pragma unroll
        for (int j = 0; j < blocks_n; ++j) {
#if defined(MOEFOLD_EMULATED)
          if (m0 + i * 16 >= tile.m || n0 + j * 8 >= tile.n || step * Tune::k + k >= tile.k)
            continue;  // zeros: to the emulator they are work
#endif
          const unsigned columns[2] = {y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16(sum[i][j], x[i], columns);
        }
    }
  }
  if (!busy) return;
#pragma unroll
  for (int i = 0; i < blocks_m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m0 + i * 16 + half * 8 + lane / 4;
      if (row >= tile.m) continue;
      Y* const to = c + tile.c + row * tile.ldc;
#pragma unroll
      for (int j = 0; j < blocks_n; ++j) {
        const int column = n0 + j * 8 + lane % 4 * 2;
        if (column >= tile.n) continue;  // widths are whole packs: both of a pair are inside, or none
        pack<Y, 2> out;
        float first = sum[i][j][half * 2], second = sum[i][j][half * 2 + 1];
        if constexpr (Add) {
          out = load_pack<2>(to + column);
          first += beta * float(out.lane[0]), second += beta * float(out.lane[1]);
        }
        out.lane[0] = Y(first), out.lane[1] = Y(second);
        store_pack(to + column, out);
      }
    }
}

/// The same by multiplication and addition: any types, any widths.
inline constexpr int plain_tile = 64, plain_depth = 16, plain_threads = 256;

template <grouped_kind Kind, bool Add, class X, class W, class Y>
__global__ void __launch_bounds__(plain_threads, 2)
    grouped_plain(const X* __restrict__ a, const W* __restrict__ b, Y* __restrict__ c, const std::int64_t* __restrict__ offsets,
                  device_fault* faults, grouped_extents all, accumulate_t<Y> beta) {
  using A = accumulate_t<Y>;
  constexpr bool a_along_k = Kind != grouped_kind::tn, b_along_k = Kind == grouped_kind::nt;
  constexpr int each = 4, across = plain_tile / each;  // a thread makes 4 x 4 elements, `across` apart
  __shared__ A left[plain_depth][plain_tile + 1], right[plain_depth][plain_tile + 1];
  if (blockIdx.x == 0) check_offsets(offsets, all.groups, all.rows, faults);
  const grouped_tile tile = tile_of_block(Kind, blockIdx.x, offsets, all, plain_tile, plain_tile, 8);
  if (tile.m == 0) return;
  const int me = int(threadIdx.x), tx = me % across, ty = me / across;
  A sum[each][each] = {};
  for (std::int64_t k0 = 0; k0 < tile.k; k0 += plain_depth) {
#pragma unroll
    for (int i = me; i < plain_depth * plain_tile; i += plain_threads) {  // neighbours read neighbours
      const int ka = a_along_k ? i % plain_depth : i / plain_tile, ma = a_along_k ? i / plain_depth : i % plain_tile;
      const int kb = b_along_k ? i % plain_depth : i / plain_tile, nb = b_along_k ? i / plain_depth : i % plain_tile;
      const std::int64_t at_a = a_along_k ? ma * tile.lda + k0 + ka : (k0 + ka) * tile.lda + ma;
      const std::int64_t at_b = b_along_k ? nb * tile.ldb + k0 + kb : (k0 + kb) * tile.ldb + nb;
      left[ka][ma] = k0 + ka < tile.k && ma < tile.m ? A(accumulate_t<X>(a[tile.a + at_a])) : A(0);
      right[kb][nb] = k0 + kb < tile.k && nb < tile.n ? A(accumulate_t<W>(b[tile.b + at_b])) : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < plain_depth; ++k) {
      A x[each], y[each];
#pragma unroll
      for (int i = 0; i < each; ++i) x[i] = left[k][ty + i * across], y[i] = right[k][tx + i * across];
#pragma unroll
      for (int i = 0; i < each; ++i)
#pragma unroll
        for (int j = 0; j < each; ++j) sum[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < each; ++i)
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const int row = ty + i * across, column = tx + j * across;
      if (row >= tile.m || column >= tile.n) continue;
      Y& to = c[tile.c + row * tile.ldc + column];
      if constexpr (Add)
        to = Y(sum[i][j] + beta * A(to));
      else
        to = Y(sum[i][j]);
    }
}

}  // namespace kernel

namespace detail {

inline grouped_extents require_groups(const char* op, std::size_t offsets, const shape& w, extent_t rows) {
  require(w.rank == 3, "moefold: ", op, " needs weights [groups, out, in], given ", w.rank, " extents");
  require_count(op, "offsets (groups + 1)", offsets, w[0] + 1);
  return {w[0], rows, w[1], w[2]};
}

template <class Tune, grouped_kind Kind, bool Add, class Y>
void launch_grouped_tensor(cuda_exec e, const char* op, const grouped_extents& all, const bf16* a, const bf16* b,
                           const std::int64_t* offsets, float beta, Y* c) {
  constexpr std::size_t shared = sizeof(bf16) * std::size_t(Tune::stages) *
                                 std::size_t(Tune::room(Kind != grouped_kind::tn, Tune::m) + Tune::room(Kind == grouped_kind::nt, Tune::n));
  launch(e, op, kernel::grouped_tensor<Tune, Kind, Add, Y>, blocks_for(op, grouped_blocks(Kind, all, Tune::m, Tune::n), 1),
         unsigned(Tune::threads), shared, a, b, c, offsets, e.context->faults.device(), all, beta);
}

template <grouped_kind Kind, bool Add, class X, class W, class Y>
void launch_grouped(cuda_exec e, const char* op, const grouped_extents& all, const X* a, const W* b, const std::int64_t* offsets,
                    accumulate_t<Y> beta, Y* c) {
  if (all.rows == 0 || all.groups == 0) return;
  if constexpr (std::is_same_v<X, bf16> && std::is_same_v<W, bf16>) {
    if (packs(all.in, a, b, c) && packs<bf16>(all.out, a)) {
      if (all.rows >= all.groups * grouped_small::m)  // on average a tile is full
        return launch_grouped_tensor<grouped_large, Kind, Add>(e, op, all, a, b, offsets, beta, c);
      return launch_grouped_tensor<grouped_small, Kind, Add>(e, op, all, a, b, offsets, beta, c);
    }
  }
  launch(e, op, kernel::grouped_plain<Kind, Add, X, W, Y>,
         blocks_for(op, grouped_blocks(Kind, all, kernel::plain_tile, kernel::plain_tile), 1), unsigned(kernel::plain_threads), 0, a, b, c,
         offsets, e.context->faults.device(), all, beta);
}

}  // namespace detail

template <class T>
void grouped_gemm_nt(cuda_exec e, input<T> x, input<T> w, std::span<const std::int64_t> offsets, view<T> y) {
  const grouped_extents all = detail::require_groups("grouped_gemm_nt", offsets.size(), w.shape(), rows_of(x));
  require_matrix("grouped_gemm_nt", "x", x, rows_of(y), all.in);
  require_matrix("grouped_gemm_nt", "y", y, rows_of(x), all.out);
  detail::launch_grouped<grouped_kind::nt, false>(e, "grouped_gemm_nt", all, x.data(), w.data(), offsets.data(), accumulate_t<T>(0),
                                                  y.data());
}

template <class T>
void grouped_gemm_nn(cuda_exec e, input<T> dy, input<T> w, std::span<const std::int64_t> offsets, view<T> dx,
                     std::type_identity_t<T> beta = T(0)) {
  const grouped_extents all = detail::require_groups("grouped_gemm_nn", offsets.size(), w.shape(), rows_of(dy));
  require_matrix("grouped_gemm_nn", "dy", dy, rows_of(dx), all.out);
  require_matrix("grouped_gemm_nn", "dx", dx, rows_of(dy), all.in);
  const accumulate_t<T> by(beta);
  if (by == accumulate_t<T>(0))  // what is there is not read
    return detail::launch_grouped<grouped_kind::nn, false>(e, "grouped_gemm_nn", all, dy.data(), w.data(), offsets.data(), by, dx.data());
  detail::launch_grouped<grouped_kind::nn, true>(e, "grouped_gemm_nn", all, dy.data(), w.data(), offsets.data(), by, dx.data());
}

template <class T>
void grouped_gemm_tn(cuda_exec e, input<T> dy, input<T> x, std::span<const std::int64_t> offsets, view<T> dw) {
  const grouped_extents all = detail::require_groups("grouped_gemm_tn", offsets.size(), dw.shape(), rows_of(x));
  require_matrix("grouped_gemm_tn", "dy", dy, rows_of(x), all.out);
  require_matrix("grouped_gemm_tn", "x", x, rows_of(dy), all.in);
  detail::launch_grouped<grouped_kind::tn, true>(e, "grouped_gemm_tn", all, dy.data(), x.data(), offsets.data(), accumulate_t<T>(1),
                                                 dw.data());
}

/// The same with the gradient in a type of its own: it is accumulated there, never rounded to that of x.
template <class X, class D, class G>
  requires(!detail::one_type<X, D, G>)
void grouped_gemm_tn(cuda_exec e, view<D> dy, view<X> x, std::span<const std::int64_t> offsets, view<G> dw) {
  const grouped_extents all = detail::require_groups("grouped_gemm_tn", offsets.size(), dw.shape(), rows_of(x));
  require_matrix("grouped_gemm_tn", "dy", dy, rows_of(x), all.out);
  require_matrix("grouped_gemm_tn", "x", x, rows_of(dy), all.in);
  detail::launch_grouped<grouped_kind::tn, true, std::remove_const_t<D>, std::remove_const_t<X>>(
      e, "grouped_gemm_tn", all, dy.data(), x.data(), offsets.data(), accumulate_t<G>(1), dw.data());
}

}  // namespace moefold
