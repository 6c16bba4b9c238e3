#pragma once
// Attention kernels on tensor cores: bf16 in, sums in fp32, for a head_dim that is a multiple of 8, up to 256. What ops/flash.cuh launches where it can.
// A warp owns 16 (or 32) rows and all their sums; tiles of the other side stream through shared memory, the next one arriving while this one is used.
//
//   s = a b^T   rows_by_rows     a, b as they lie             o += p b   scores_by_rows     p: the scores as they lie in registers,
//                                                                                            b transposed as it is loaded
//   forward     own queries   s = q k^T               out += exp2(s) v        scores never leave registers: the layout in which a product ends
//   dq          own queries   s = q k^T, dout v^T     dq  += ds k             is the one in which the next product wants its left side
//   dk, dv      own keys      s = k q^T, v dout^T     dv  += p dout, dk += ds q
//
// Source: Dao 2023, "FlashAttention-2", arXiv 2307.08691.
#include <moefold/core/mma.cuh>
#include <moefold/ops/flash_call.cuh>

namespace moefold {

struct flash_tuning {
  int warps = 4;  // of 16 tiles rows each
  int tiles =
      2;  // forward, up to a head_dim of 128: 32 rows per warp halve what shared memory must deliver; sums and scores fill the registers
  int step = 64;  // keys or queries that arrive at once, up to a head_dim of 64; half of it beyond, so that nothing spills
};

namespace kernel {

inline constexpr float log2_of_e = 1.44269504088896341f;

template <int D, int Warps>
struct flash_mma {
  static constexpr int threads = Warps * warp_lanes, stride = D + 8;  // of tiles: rows fall on different banks

  /// Begins to copy rows of d elements, from where place(r) says, to `to`; zeros where it says null, and from d to D.
  template <class Place>
  __device__ static void load(bf16* to, int count, int d, const bf16* valid, Place place) {
    constexpr int packs = D / 8;
#pragma unroll 1  // sums and scores leave no registers for more addresses
    for (int i = int(threadIdx.x); i < count * packs; i += threads) {
      const int r = i / packs, c = i % packs * 8;
      const bf16* const from = place(r);
      const bool real = from != nullptr && c < d;
      copy_async<16>(to + r * stride + c, real ? from + c : valid, real);
    }
  }
  /// s [16 M, N] = a [16 M, D] b [N, D]^T.
  template <int M, int N>
  __device__ static void rows_by_rows(float (&s)[M][N / 8][4], const bf16* a, const bf16* b) {
    const int lane = int(threadIdx.x) % warp_lanes;
    a += lane % 16 * stride + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      unsigned left[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices<false>(left[m], a + m * 16 * stride + k);
#pragma unroll
      for (int n = 0; n < N; n += 16) {
        unsigned right[4];
        load_matrices<false>(right, b + n * stride + k);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          mma_m16n8k16(s[m][n / 8], left[m], {right[0], right[1]});
          mma_m16n8k16(s[m][n / 8 + 1], left[m], {right[2], right[3]});
        }
      }
    }
  }
  /// o [16 M, C] += s [16 M, N], rounded to bf16, times C columns of b [N, D].
  template <int M, int N, int C>
  __device__ static void scores_by_rows(float (&o)[M][C / 8][4], const float (&s)[M][N / 8][4], const bf16* b) {
    const int lane = int(threadIdx.x) % warp_lanes;
    b += lane % 16 * stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < N; k += 16) {
      unsigned left[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) left[m][i] = pair_of_bf16(s[m][k / 8 + i / 2][i % 2 * 2], s[m][k / 8 + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int c = 0; c < C; c += 16) {
        unsigned right[4];
        load_matrices<true>(right, b + k * stride + c);
#pragma unroll
        for (int m = 0; m < M; ++m) {
          mma_m16n8k16(o[m][c / 8], left[m], {right[0], right[1]});
          mma_m16n8k16(o[m][c / 8 + 1], left[m], {right[2], right[3]});
        }
      }
    }
  }
  /// Row 8 half + lane / 4 of a warp's sums, times factor, to where the row begins; `width` of its columns are real.
  template <int C, class Out>
  __device__ static void store(Out* to, const float (&o)[C / 8][4], int half, float factor, int width) {
    const int t = int(threadIdx.x) % 4;
#pragma unroll
    for (int n = 0; n < C / 8; ++n)
      if (const int c = n * 8 + 2 * t; c < width) {
        const float x = o[n][2 * half] * factor, y = o[n][2 * half + 1] * factor;
        if constexpr (std::is_same_v<Out, bf16>)
          *reinterpret_cast<unsigned*>(to + c) = pair_of_bf16(x, y);
        else
          store_pack(to + c, moefold::pack<Out, 2>{{Out(x), Out(y)}});
      }
  }
};

/// Over the four lanes that hold one row.
template <class Merge>
__device__ inline float quad_merge(float x, Merge merge) {
  x = merge(x, __shfl_xor_sync(whole_warp, x, 1));
  return merge(x, __shfl_xor_sync(whole_warp, x, 2));
}

template <class Out, int D, int Warps, int M, int Keys>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_forward_mma(detail::flash_call<bf16> c, detail::flash_blocks blocks, Out* out, float* lse) {
  using mma = flash_mma<D, Warps>;
  constexpr int own = Warps * M * 16;
  constexpr float none = -std::numeric_limits<float>::infinity();
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, g = lane / 4, t = lane % 4, d = int(c.shape.d);
  bf16* const q_rows = dynamic_shared<bf16>();
  bf16 *const k_tile = q_rows + own * mma::stride, *const v_tile = k_tile + Keys * mma::stride;
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.row_count));
  const int block = int(at.block), first_row = block * own, own_row = first_row + warp * M * 16 + g;  // and own_row + 8, + 16, ..
  const float scale = c.scale * log2_of_e;
  const auto load_keys = [&](const bf16* from, bf16* tile, int j) {
    mma::load(tile, Keys, d, c.k, [&](int r) { return c.k_row(from, j * Keys + r, at); });
  };
  const auto next = [&](int j) { return next_visible(j, blocks.key_count, [&](int k) { return blocks.seen(at.b, block, k); }); };

  mma::load(q_rows, own, d, c.k, [&](int r) { return c.q_row(c.q, first_row + r, at); });
  int j = next(0);
  if (j < blocks.key_count) load_keys(c.k, k_tile, j);
  copy_async_commit();
  float top[M][2], weight[M][2], sum[M][D / 8][4] = {};  // top: of the scores before scaling; weight: this lane's part
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) top[m][half] = none, weight[m][half] = 0;

  while (j < blocks.key_count) {
    copy_async_wait<0>();
    __syncthreads();  // these keys are here; all are done with the last values
    load_keys(c.v, v_tile, j);
    copy_async_commit();
    float s[M][Keys / 8][4];
    mma::template rows_by_rows<M, Keys>(s, q_rows + warp * M * 16 * mma::stride, k_tile);
    const int after = next(j + 1);
    __syncthreads();  // all are done with these keys
    if (after < blocks.key_count) load_keys(c.k, k_tile, after);
    copy_async_commit();

    if (blocks.seen(at.b, block, j) != detail::flash_seen::all || (j + 1) * Keys > c.keys()) {
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const detail::flash_range sight = c.sight(own_row + m * 16 + half * 8, at.b);
#pragma unroll
          for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if (const int key = j * Keys + n * 8 + 2 * t + i; !c.sees(sight, key)) s[m][n][2 * half + i] = none;
        }
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = top[m][half];
#pragma unroll
        for (int n = 0; n < Keys / 8; ++n) most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        most = quad_merge(most, [](float a, float b) { return fmaxf(a, b); });
        const float shift = most > none ? most * scale : 0.0f, shrink = exp2_of(top[m][half] * scale - shift);
        float part = 0;
#pragma unroll
        for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) part += s[m][n][2 * half + i] = exp2_of(s[m][n][2 * half + i] * scale - shift);
        top[m][half] = most, weight[m][half] = weight[m][half] * shrink + part;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) sum[m][n][2 * half] *= shrink, sum[m][n][2 * half + 1] *= shrink;
      }
    copy_async_wait<1>();
    __syncthreads();  // the values are here
    mma::template scores_by_rows<M, Keys, D>(sum, s, v_tile);
    j = after;
  }
  copy_async_wait<0>();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_merge(weight[m][half], [](float a, float b) { return a + b; });
      const int r = own_row + m * 16 + half * 8;
      if (r >= c.rows()) continue;
      mma::template store<D>(out + c.shape.row_offset(r, at.b, at.head), sum[m], half, total > 0 ? 1 / total : 0.0f, d);
      if (t == 0) lse[c.shape.lse_offset(r, at.b, at.head)] = total > 0 ? c.scale * top[m][half] + std::log(total) : none;
    }
}

/// lse in powers of two, or +inf where no key is visible: exp2(score - shift) gives 0.
__device__ inline float flash_shift2(float lse) {
  constexpr float infinite = std::numeric_limits<float>::infinity();
  return lse == -infinite ? infinite : lse * log2_of_e;
}

template <class Out, int D, int Warps, int Keys>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_dq_mma(detail::flash_call<bf16> c, detail::flash_blocks blocks, const bf16* dout, const float* lse, const float* mean, Out* dq) {
  using mma = flash_mma<D, Warps>;
  constexpr int own = Warps * 16, tile = Keys * mma::stride;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, g = lane / 4, t = lane % 4, d = int(c.shape.d);
  bf16* const q_rows = dynamic_shared<bf16>();
  bf16 *const dout_rows = q_rows + own * mma::stride, *const stages = dout_rows + own * mma::stride;  // two, each of keys and values
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.row_count));
  const int block = int(at.block), first_row = block * own, own_row = first_row + warp * 16 + g;
  const float scale = c.scale * log2_of_e;
  const auto load_stage = [&](int stage, int j) {
    mma::load(stages + stage * 2 * tile, Keys, d, c.k, [&](int r) { return c.k_row(c.k, j * Keys + r, at); });
    mma::load(stages + stage * 2 * tile + tile, Keys, d, c.k, [&](int r) { return c.k_row(c.v, j * Keys + r, at); });
  };
  const auto next = [&](int j) { return next_visible(j, blocks.key_count, [&](int k) { return blocks.seen(at.b, block, k); }); };

  mma::load(q_rows, own, d, c.k, [&](int r) { return c.q_row(c.q, first_row + r, at); });
  mma::load(dout_rows, own, d, c.k, [&](int r) { return c.q_row(dout, first_row + r, at); });
  int j = next(0), stage = 0;
  if (j < blocks.key_count) load_stage(0, j);
  copy_async_commit();
  detail::flash_range sight[2];
  float shift[2], middle[2], sum[1][D / 8][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = own_row + half * 8;
    const bool real = r < c.rows();
    const extent_t place = real ? c.shape.lse_offset(r, at.b, at.head) : 0;
    sight[half] = c.sight(r, at.b), shift[half] = real ? flash_shift2(lse[place]) : 0.0f, middle[half] = real ? mean[place] : 0.0f;
  }
  while (j < blocks.key_count) {
    const int after = next(j + 1);
    if (after < blocks.key_count) load_stage(1 - stage, after);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();  // this stage is here
    const bf16 *const keys = stages + stage * 2 * tile, *const values = keys + tile;
    float s[1][Keys / 8][4], dprob[1][Keys / 8][4];
    mma::template rows_by_rows<1, Keys>(s, q_rows + warp * 16 * mma::stride, keys);
    mma::template rows_by_rows<1, Keys>(dprob, dout_rows + warp * 16 * mma::stride, values);
    const bool masked = blocks.seen(at.b, block, j) != detail::flash_seen::all || (j + 1) * Keys > c.keys();
#pragma unroll
    for (int n = 0; n < Keys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int key = j * Keys + n * 8 + 2 * t + i;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& x = s[0][n][2 * half + i];
          x = exp2_of(x * scale - shift[half]) * (dprob[0][n][2 * half + i] - middle[half]);
          if (masked && !c.sees(sight[half], key)) x = 0;
        }
      }
    mma::template scores_by_rows<1, Keys, D>(sum, s, keys);
    __syncthreads();  // all are done with this stage
    stage = 1 - stage, j = after;
  }
  copy_async_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (const int r = own_row + half * 8; r < c.rows())
      mma::template store<D>(dq + c.shape.row_offset(r, at.b, at.head), sum[0], half, c.scale, d);
}

/// Of the columns of dk and dv a block makes C, from blockIdx.y * C on: for all 256 the registers would not do.
template <class Out, int D, int Warps, int C, int Rows>
__global__ void __launch_bounds__(Warps* warp_lanes, 1)
    flash_dkv_mma(detail::flash_call<bf16> c, detail::flash_blocks blocks, const bf16* dout, const float* lse, const float* mean, Out* dk,
                  Out* dv) {
  using mma = flash_mma<D, Warps>;
  constexpr int own = Warps * 16, tile = Rows * mma::stride;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes, g = lane / 4, t = lane % 4, d = int(c.shape.d);
  bf16* const k_rows = dynamic_shared<bf16>();
  bf16 *const v_rows = k_rows + own * mma::stride, *const stages = v_rows + own * mma::stride;  // two, each of q and dout
  float* const row_numbers = reinterpret_cast<float*>(stages + 4 * tile);                       // two stages, each of lse and mean
  const auto at = c.shape.place_of(blockIdx.x, unsigned(blocks.key_count));
  const int block = blocks.key_count - 1 - int(at.block), first_key = block * own, own_key = first_key + warp * 16 + g;
  const int first_column = int(blockIdx.y) * C;
  const float scale = c.scale * log2_of_e;
  const auto load_stage = [&](int stage, int i) {
    mma::load(stages + stage * 2 * tile, Rows, d, c.k, [&](int r) { return c.q_row(c.q, i * Rows + r, at); });
    mma::load(stages + stage * 2 * tile + tile, Rows, d, c.k, [&](int r) { return c.q_row(dout, i * Rows + r, at); });
    for (int r = int(threadIdx.x); r < Rows; r += mma::threads) {
      const bool real = i * Rows + r < c.rows();
      const extent_t place = real ? c.shape.lse_offset(i * Rows + r, at.b, at.head) : 0;
      copy_async<4>(row_numbers + stage * 2 * Rows + r, lse + place, real);
      copy_async<4>(row_numbers + stage * 2 * Rows + Rows + r, mean + place, real);
    }
  };
  const auto next = [&](int i) { return next_visible(i, blocks.row_count, [&](int q) { return blocks.seen(at.b, q, block); }); };

  mma::load(k_rows, own, d, c.k, [&](int r) { return c.k_row(c.k, first_key + r, at); });
  mma::load(v_rows, own, d, c.k, [&](int r) { return c.k_row(c.v, first_key + r, at); });
  int i = next(0), stage = 0;
  if (i < blocks.row_count) load_stage(0, i);
  copy_async_commit();
  std::int32_t key_at[2];
  float dk_sum[1][C / 8][4] = {}, dv_sum[1][C / 8][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) key_at[half] = own_key + half * 8 < c.keys() ? c.k_at[own_key + half * 8] : 0;
  while (i < blocks.row_count) {
    const int after = next(i + 1);
    if (after < blocks.row_count) load_stage(1 - stage, after);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();  // this stage is here
    const bf16 *const queries = stages + stage * 2 * tile, *const douts = queries + tile;
    const float *const own_lse = row_numbers + stage * 2 * Rows, *const own_mean = own_lse + Rows;
    float s[1][Rows / 8][4];
    mma::template rows_by_rows<1, Rows>(s, k_rows + warp * 16 * mma::stride, queries);
    const bool masked = blocks.seen(at.b, i, block) != detail::flash_seen::all;
#pragma unroll
    for (int n = 0; n < Rows / 8; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int r = n * 8 + 2 * t + k;
        const float shift = flash_shift2(own_lse[r]);
        detail::flash_range sight{};
        if (masked) sight = c.sight(i * Rows + r, at.b);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& x = s[0][n][2 * half + k];
          x = exp2_of(x * scale - shift);
          if (masked && (key_at[half] < sight.low || key_at[half] > sight.high)) x = 0;
        }
      }
    mma::template scores_by_rows<1, Rows, C>(dv_sum, s, douts + first_column);
    float dscore[1][Rows / 8][4];
    mma::template rows_by_rows<1, Rows>(dscore, v_rows + warp * 16 * mma::stride, douts);
#pragma unroll
    for (int n = 0; n < Rows / 8; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float middle = own_mean[n * 8 + 2 * t + k];
#pragma unroll
        for (int half = 0; half < 2; ++half) dscore[0][n][2 * half + k] = s[0][n][2 * half + k] * (dscore[0][n][2 * half + k] - middle);
      }
    mma::template scores_by_rows<1, Rows, C>(dk_sum, dscore, queries + first_column);
    __syncthreads();  // all are done with this stage
    stage = 1 - stage, i = after;
  }
  copy_async_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half)
    if (const int j = own_key + half * 8; j < c.keys()) {
      const extent_t to = c.shape.k_offset(j, at.b, at.head) + first_column;
      mma::template store<C>(dk + to, dk_sum[0], half, c.scale, d - first_column);
      mma::template store<C>(dv + to, dv_sum[0], half, 1.0f, d - first_column);
    }
}

}  // namespace kernel

}  // namespace moefold
