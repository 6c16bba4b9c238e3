#pragma once
// The CUDA twin of ops/flash.hpp; positions and document starts lie on the device too. Bound by arithmetic: tensor cores make the products of bf16
// (ops/flash_mma.cuh); other types, and a head_dim that is no multiple of 8, go through ops/flash_rows.cuh.
//
//   forward   one block per 128 packed rows of a key head, over the key blocks they see            launches: ranges, forward
//   backward  one block per 64 packed rows makes dq, one block per 64 keys makes dk and dv         launches: ranges, dq, (ranges,) dk and dv
//   No sum is shared by two blocks, so the same bits come out of every launch, at the price of making the scores twice in backward.
#include <moefold/ops/flash_mma.cuh>
#include <moefold/ops/flash_rows.cuh>

namespace moefold {

namespace detail {

/// Whether the tensor-core kernels fit: bf16, rows of whole packs, results on 16 bytes.
template <class T, class... Pointers>
bool on_tensor_cores(const flash_call<T>& c, const Pointers*... results) {
  if constexpr (std::is_same_v<T, bf16>)
    return c.packed && (... && packs<T>(c.shape.d, c.q, results));
  else
    return false;
}
/// Blocks of one launch: `blocks` for each key head of each sequence.
template <class T>
unsigned flash_grid(const char* op, const flash_call<T>& c, int blocks) {
  return blocks_for(op, extent_t(blocks) * c.shape.k_heads * c.shape.batch, 1);
}

/// The tuning of the kernels of flash_rows.cuh, and the widths they are compiled for: most for float, which a run without bf16 uses.
inline constexpr int flash_own_rows = 4, flash_row_warps = 4;
template <class T, class F>
void with_width_of_rows(extent_t d, F f) {
  if constexpr (std::is_same_v<T, float>)
    with_width<64, 128, 256>(d, f);
  else
    with_width<64, 256>(d, f);
}

}  // namespace detail

template <class T, class Out, flash_tuning Tune = flash_tuning{}>
void flash_forward_to(cuda_exec e, view<const T> q, view<const T> k, view<const T> v, std::span<const std::int32_t> q_position,
                      std::span<const std::int32_t> k_position, std::span<const std::int32_t> first, view<Out> out,
                      view<accumulate_t<T>> lse) {
  constexpr const char* op = "flash_forward";
  scratch<cuda_exec> local(e);
  const detail::flash_call<T> c(op, q, k, v, q_position, k_position, first);
  require(out.shape() == q.shape(), "moefold: flash_forward needs out of the shape of q");
  require_matrix(op, "lse", lse, c.shape.batch * c.shape.q_heads, c.shape.sq);
  if (lse.empty()) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (detail::on_tensor_cores(c, out.data()))
      return detail::with_width<64, 128, 256>(c.shape.d, [&]<int D>(std::integral_constant<int, D>) {
        constexpr int M = D > 128 ? 1 : Tune.tiles, keys = D > 64 ? Tune.step / 2 : Tune.step, own = Tune.warps * M * 16;
        const auto blocks = detail::blocks_of(op, e, c, own, keys, local);
        launch(e, op, kernel::flash_forward_mma<Out, D, Tune.warps, M, keys>, detail::flash_grid(op, c, blocks.row_count),
               unsigned(Tune.warps * warp_lanes), std::size_t(own + 2 * keys) * (D + 8) * sizeof(bf16), c, blocks, out.data(), lse.data());
      });
  detail::with_width_of_rows<T>(c.shape.d, [&]<int D>(std::integral_constant<int, D>) {
    using rows = kernel::flash_rows<T, D, detail::flash_own_rows, detail::flash_row_warps>;
    const auto blocks = detail::blocks_of(op, e, c, rows::own, rows::tile, local);
    launch(e, op, kernel::flash_forward_rows<T, Out, D, detail::flash_own_rows, detail::flash_row_warps>,
           detail::flash_grid(op, c, blocks.row_count), unsigned(rows::threads), rows::shared(1), c, blocks, out.data(), lse.data());
  });
}

namespace kernel {

/// One warp per query and head.
template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 2) flash_mean(const T* __restrict__ dout, const T* __restrict__ out,
                                                         accumulate_t<T>* __restrict__ mean, extent_t sq, extent_t lanes, int d) {
  using A = accumulate_t<T>;
  const extent_t row = extent_t(blockIdx.x) * (Threads / warp_lanes) + int(threadIdx.x) / warp_lanes;
  if (row >= sq * lanes) return;
  const int lane = int(threadIdx.x) % warp_lanes;
  A sum = 0;
  for (int c = lane * Lanes; c < d; c += warp_lanes * Lanes) {
    const auto x = load_pack<Lanes>(dout + row * d + c), y = load_pack<Lanes>(out + row * d + c);
#pragma unroll
    for (int l = 0; l < Lanes; ++l) sum += A(x.lane[l]) * A(y.lane[l]);
  }
  sum = warp_sum(sum);
  if (lane == 0) mean[row % lanes * sq + row / lanes] = sum;
}

template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads)
    flash_merge(T* __restrict__ out_a, accumulate_t<T>* __restrict__ lse_a, const T* __restrict__ out_b,
                const accumulate_t<T>* __restrict__ lse_b, extent_t sq, extent_t lanes, int d) {
  using A = accumulate_t<T>;
  const extent_t row = extent_t(blockIdx.x) * (Threads / warp_lanes) + int(threadIdx.x) / warp_lanes;
  if (row >= sq * lanes) return;
  const int lane = int(threadIdx.x) % warp_lanes;
  A* const own = lse_a + (row % lanes * sq + row / lanes);
  const A a = *own, b = lse_b[row % lanes * sq + row / lanes], top = a < b ? b : a;
  if (!(top > -std::numeric_limits<A>::infinity())) return;  // neither sees a key
  const A both = top + std::log(std::exp(a - top) + std::exp(b - top)), keep = std::exp(a - both), join = std::exp(b - both);
  for (int c = lane * Lanes; c < d; c += warp_lanes * Lanes) {
    auto x = load_pack<Lanes>(out_a + row * d + c);
    const auto y = load_pack<Lanes>(out_b + row * d + c);
#pragma unroll
    for (int l = 0; l < Lanes; ++l) x.lane[l] = T(keep * A(x.lane[l]) + join * A(y.lane[l]));
    store_pack(out_a + row * d + c, x);
  }
  __syncwarp();  // every lane has read *own
  if (lane == 0) *own = both;
}

}  // namespace kernel

template <class T>
void flash_mean(cuda_exec e, view<const T> dout, view<const T> out, view<accumulate_t<T>> mean) {
  constexpr int threads = 128;
  require(out.rank() == 4 && out.shape() == dout.shape(), "moefold: flash_mean needs dout and out [Sq, B, heads, d] of one shape");
  const extent_t sq = out.extent(0), lanes = out.extent(1) * out.extent(2), d = out.extent(3);
  require_matrix("flash_mean", "mean", mean, lanes, sq);
  const unsigned blocks = blocks_for("flash_mean", sq * lanes, threads / warp_lanes);
  const auto with = [&](auto kernel) {
    launch(e, "flash_mean", kernel, blocks, threads, 0, dout.data(), out.data(), mean.data(), sq, lanes, int(d));
  };
  packs(d, dout.data(), out.data()) ? with(kernel::flash_mean<T, whole_pack<T>, threads>) : with(kernel::flash_mean<T, 1, threads>);
}

template <class T>
void flash_merge(cuda_exec e, view<T> out_a, view<accumulate_t<T>> lse_a, input<T> out_b, input<accumulate_t<T>> lse_b) {
  constexpr int threads = 128;
  require(out_a.rank() == 4 && out_a.shape() == out_b.shape(), "moefold: flash_merge needs two results [Sq, B, heads, d] of one shape");
  const extent_t sq = out_a.extent(0), lanes = out_a.extent(1) * out_a.extent(2), d = out_a.extent(3);
  require_matrix("flash_merge", "lse_a", lse_a, lanes, sq);
  require_matrix("flash_merge", "lse_b", lse_b, lanes, sq);
  const unsigned blocks = blocks_for("flash_merge", sq * lanes, threads / warp_lanes);
  const auto with = [&](auto kernel) {
    launch(e, "flash_merge", kernel, blocks, threads, 0, out_a.data(), lse_a.data(), out_b.data(), lse_b.data(), sq, lanes, int(d));
  };
  packs(d, out_a.data(), out_b.data()) ? with(kernel::flash_merge<T, whole_pack<T>, threads>) : with(kernel::flash_merge<T, 1, threads>);
}

template <class T, class Out, flash_tuning Tune = flash_tuning{}>
void flash_backward_to(cuda_exec e, view<const T> dout, view<const T> q, view<const T> k, view<const T> v, view<const accumulate_t<T>> lse,
                       view<const accumulate_t<T>> mean, std::span<const std::int32_t> q_position, std::span<const std::int32_t> k_position,
                       std::span<const std::int32_t> first, view<Out> dq, view<Out> dk, view<Out> dv) {
  constexpr const char* op = "flash_backward";
  scratch<cuda_exec> local(e);
  const detail::flash_call<T> c(op, q, k, v, q_position, k_position, first);
  require(dout.shape() == q.shape() && dq.shape() == q.shape(), "moefold: flash_backward needs dout, out and dq of the shape of q");
  require(dk.shape() == k.shape() && dv.shape() == k.shape(), "moefold: flash_backward needs dk and dv of the shape of k");
  require_matrix(op, "lse", lse, c.shape.batch * c.shape.q_heads, c.shape.sq);
  require_matrix(op, "mean", mean, c.shape.batch * c.shape.q_heads, c.shape.sq);
  if constexpr (std::is_same_v<T, bf16>)
    if (detail::on_tensor_cores(c, dout.data(), dq.data(), dk.data(), dv.data()))
      return detail::with_width<64, 128, 256>(c.shape.d, [&]<int D>(std::integral_constant<int, D>) {
        constexpr int step = D > 64 ? Tune.step / 2 : Tune.step, own = Tune.warps * 16, columns = D > 128 ? 128 : D;
        constexpr std::size_t shared = std::size_t(2 * own + 4 * step) * (D + 8) * sizeof(bf16);
        const auto blocks = detail::blocks_of(op, e, c, own, step, local);
        const auto turned = own == step ? blocks : detail::blocks_of(op, e, c, step, own, local);
        launch(e, "flash_backward dq", kernel::flash_dq_mma<Out, D, Tune.warps, step>, detail::flash_grid(op, c, blocks.row_count),
               unsigned(Tune.warps * warp_lanes), shared, c, blocks, dout.data(), lse.data(), mean.data(), dq.data());
        launch(e, "flash_backward dk, dv", kernel::flash_dkv_mma<Out, D, Tune.warps, columns, step>,
               dim3(detail::flash_grid(op, c, turned.key_count), unsigned(D / columns)), unsigned(Tune.warps * warp_lanes),
               shared + 4 * step * sizeof(float), c, turned, dout.data(), lse.data(), mean.data(), dk.data(), dv.data());
      });
  detail::with_width_of_rows<T>(c.shape.d, [&]<int D>(std::integral_constant<int, D>) {
    constexpr int own = detail::flash_own_rows, warps = detail::flash_row_warps;
    using rows = kernel::flash_rows<T, D, own, warps>;
    const bool packed = packs(c.shape.d, dout.data()) && c.packed;
    const auto blocks = detail::blocks_of(op, e, c, rows::own, rows::tile, local);
    const auto turned = detail::blocks_of(op, e, c, rows::tile, rows::own, local);
    launch(e, "flash_backward dq", kernel::flash_dq_rows<T, Out, D, own, warps>, detail::flash_grid(op, c, blocks.row_count),
           unsigned(rows::threads), rows::shared(2), c, blocks, dout.data(), packed, lse.data(), mean.data(), dq.data());
    launch(e, "flash_backward dk, dv", kernel::flash_dkv_rows<T, Out, D, own, warps>, detail::flash_grid(op, c, turned.key_count),
           unsigned(rows::threads), rows::shared(2), c, turned, dout.data(), packed, lse.data(), mean.data(), dk.data(), dv.data());
  });
}

}  // namespace moefold
