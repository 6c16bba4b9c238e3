#pragma once
// The CUDA twin of ops/bias.hpp. Bound by memory: forward writes T x width elements, backward reads as many; the bias itself stays in cache.
//
//   backward   by shares of blocks (ops/rows.cuh): the same bits on every launch
#include <moefold/ops/bias.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

namespace kernel {

template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2) bias_forward(const T* __restrict__ bias, T* __restrict__ y, std::int64_t rows, int width) {
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;  // a whole warp of it
  each_pack<Lanes, Group, 0>(width, [&](int c, int) { store_pack(y + row * width + c, load_pack<Lanes>(bias + c)); });
}

template <class T, int Lanes, int Group, int Threads, int Cached>
__global__ void __launch_bounds__(Threads, 2)
    bias_backward(const T* __restrict__ dy, accumulate_t<T>* __restrict__ share, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  column_share<Threads, Group, Lanes, Cached, A> sum(share + std::int64_t(blockIdx.x) * width);
  const std::int64_t first = row_of_group<Threads, Group>();
  for (std::int64_t row = first; row < rows; row += std::int64_t(gridDim.x) * (Threads / Group))
    each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
      const pack<T, Lanes> d = load_pack<Lanes>(dy + row * width + c);
      for (int l = 0; l < Lanes; ++l) sum.add(c, j, l, A(d.lane[l]), row == first);
    });
  sum.store(width);
}

}  // namespace kernel

template <row_tuning Tune = row_tuning{}, class T>
void bias_forward(cuda_exec e, input<T> bias, view<T> y) {
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_count("bias_forward", "bias", bias.size(), width);
  detail::require_width("bias_forward", width);
  detail::by_row<Tune, T>(width, packs(width, bias.data(), y.data()), [&](auto lanes, auto group) {
    launch(e, "bias_forward", kernel::bias_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("bias_forward", rows, Tune.threads, group)}, Tune.threads, 0, bias.data(), y.data(), rows, int(width));
  });
}

template <row_tuning Tune = row_tuning{}, class D, class G>
void bias_backward(cuda_exec e, view<D> dy, view<G> dbias) {
  using T = std::remove_const_t<D>;
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dy), width = cols_of(dy);
  require_count("bias_backward", "dbias", dbias.size(), width);
  detail::require_width("bias_backward", width);
  if (dy.empty()) return;
  scratch<cuda_exec> local(e);
  detail::by_row<Tune, T>(width, packs(width, dy.data()), [&](auto lanes, auto group) {
    const unsigned blocks = detail::sharing_blocks<Tune>(rows, group);
    A* const share = local.take<A>(blocks, width).data();
    launch(e, "bias_backward", kernel::bias_backward<T, lanes, group, Tune.threads, Tune.cached>, {blocks}, Tune.threads, 0, dy.data(),
           share, rows, int(width));
    detail::column_sums<Tune>(e, "bias_backward: dbias", share, blocks, width, dbias.data());
  });
}

}  // namespace moefold
