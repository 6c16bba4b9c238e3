#pragma once
// The CUDA twin of ops/head_exchange.hpp: one thread per pack of 16 bytes, which lies wherever the map of the message says. Bound by memory: every
// element is read and written once.
//
//   transpose   a block turns a tile of 32 x 32 in shared memory, so that reads and writes both run along rows
#include <moefold/core/launch.cuh>
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/head_exchange.hpp>

namespace moefold {

struct head_exchange_tuning {
  int threads = 256;   // sm_80 and sm_90 alike
  int tile_rows = 32;  // of a transposed tile, each warp_lanes wide; a block has threads / warp_lanes rows of threads
};

namespace kernel {

/// ByHeads: the tensor is the one by heads; else the one by sequence. Out: tensor -> messages; else messages -> tensor.
template <class T, int Lanes, bool ByHeads, bool Out, int Threads>
__global__ void __launch_bounds__(Threads) exchange_heads(head_message m, const T* __restrict__ from, T* __restrict__ to) {
  const extent_t i = (extent_t(blockIdx.x) * Threads + threadIdx.x) * Lanes;
  if (i >= m.elements()) return;
  const extent_t at = ByHeads ? m.of_heads(i) : m.of_sequence(i);
  store_pack(to + (Out ? at : i), load_pack<Lanes>(from + (Out ? i : at)));
}

template <class T, int Rows, int Threads>
__global__ void __launch_bounds__(Threads) transpose(const T* __restrict__ in, T* __restrict__ out, extent_t rows, extent_t columns) {
  __shared__ T tile[Rows][warp_lanes + 1];
  const int lane = int(threadIdx.x) % warp_lanes, line = int(threadIdx.x) / warp_lanes;
  const extent_t across = (columns + warp_lanes - 1) / warp_lanes;
  const extent_t row = blockIdx.x / across * Rows, column = blockIdx.x % across * warp_lanes;
  for (int r = line; r < Rows; r += Threads / warp_lanes)
    if (row + r < rows && column + lane < columns) tile[r][lane] = in[(row + r) * columns + column + lane];
  __syncthreads();
  for (int c = line; c < warp_lanes; c += Threads / warp_lanes)
    for (int r = lane; r < Rows; r += warp_lanes)
      if (row + r < rows && column + c < columns) out[(column + c) * rows + row + r] = tile[r][c];
}

}  // namespace kernel

namespace detail {

template <head_exchange_tuning Tune, bool ByHeads, bool Out, class T>
void exchange_heads(cuda_exec e, const char* op, const head_message& m, view<const T> from, view<T> to) {
  require_count(op, "tensor", Out ? from.size() : to.size(), m.elements());
  require_count(op, "messages", Out ? to.size() : from.size(), m.ranks * m.message);
  constexpr int lanes = whole_pack<T>;
  if (packs(m.run(), from.data(), to.data()) && m.message % lanes == 0 && m.before % lanes == 0)
    launch(e, op, kernel::exchange_heads<T, lanes, ByHeads, Out, Tune.threads>, blocks_for(op, m.elements() / lanes, Tune.threads),
           Tune.threads, 0, m, from.data(), to.data());
  else
    launch(e, op, kernel::exchange_heads<T, 1, ByHeads, Out, Tune.threads>, blocks_for(op, m.elements(), Tune.threads), Tune.threads, 0, m,
           from.data(), to.data());
}

}  // namespace detail

template <head_exchange_tuning Tune = head_exchange_tuning{}, class T>
void pack_heads(cuda_exec e, const head_message& m, input<T> in, view<T> messages) {
  detail::exchange_heads<Tune, true, true, T>(e, "pack_heads", m, in, messages);
}
template <head_exchange_tuning Tune = head_exchange_tuning{}, class T>
void unpack_heads(cuda_exec e, const head_message& m, input<T> messages, view<T> out) {
  detail::exchange_heads<Tune, true, false, T>(e, "unpack_heads", m, messages, out);
}
template <head_exchange_tuning Tune = head_exchange_tuning{}, class T>
void pack_sequence(cuda_exec e, const head_message& m, input<T> in, view<T> messages) {
  detail::exchange_heads<Tune, false, true, T>(e, "pack_sequence", m, in, messages);
}
template <head_exchange_tuning Tune = head_exchange_tuning{}, class T>
void unpack_sequence(cuda_exec e, const head_message& m, input<T> messages, view<T> out) {
  detail::exchange_heads<Tune, false, false, T>(e, "unpack_sequence", m, messages, out);
}

template <head_exchange_tuning Tune = head_exchange_tuning{}, class T>
void transpose(cuda_exec e, extent_t rows, extent_t columns, input<T> in, view<T> out) {
  require_count("transpose", "in", in.size(), rows * columns);
  require_count("transpose", "out", out.size(), rows * columns);
  const extent_t tiles = (rows + Tune.tile_rows - 1) / Tune.tile_rows * ((columns + warp_lanes - 1) / warp_lanes);
  launch(e, "transpose", kernel::transpose<T, Tune.tile_rows, Tune.threads>, blocks_for("transpose", tiles, 1), Tune.threads, 0, in.data(),
         out.data(), rows, columns);
}

}  // namespace moefold
