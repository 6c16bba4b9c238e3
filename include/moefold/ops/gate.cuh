#pragma once
// The CUDA twin of ops/gate.hpp: a warp or a block per row; dw by shares of blocks (ops/rows.cuh): the same bits on every launch.
//
//   moved: forward 3 n H elements, backward 3 n H and then 3 n H
#include <moefold/ops/gate.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

namespace kernel {

/// y may be the memory of z.
template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2) row_gate_forward(const T* __restrict__ x, const T* __restrict__ w, const T* z,
                                                            accumulate_t<T>* __restrict__ opening, T* y, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  A sum = 0;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    const pack<T, Lanes> in = load_pack<Lanes>(x + at + c), gate = load_pack<Lanes>(w + c);
    for (int l = 0; l < Lanes; ++l) sum += A(in.lane[l]) * A(gate.lane[l]);
  });
  const A open = logistic(row_sum<Group>(sum));
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> out = load_pack<Lanes>(z + at + c);
    for (int l = 0; l < Lanes; ++l) out.lane[l] = T(open * A(out.lane[l]));
    store_pack(y + at + c, out);
  });
  if (int(threadIdx.x) % Group == 0) opening[row] = open;
}

/// dz may be the memory of dy.
template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2)
    row_gate_backward(const T* dy, const T* __restrict__ z, const accumulate_t<T>* __restrict__ opening, T* dz,
                      accumulate_t<T>* __restrict__ slope, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A open = opening[row];
  A along = 0;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> d = load_pack<Lanes>(dy + at + c);
    const pack<T, Lanes> in = load_pack<Lanes>(z + at + c);
    for (int l = 0; l < Lanes; ++l) {
      along += A(d.lane[l]) * A(in.lane[l]);
      d.lane[l] = T(open * A(d.lane[l]));
    }
    store_pack(dz + at + c, d);
  });
  along = row_sum<Group>(along);
  if (int(threadIdx.x) % Group == 0) slope[row] = row_gate_slope(along, open);
}

/// Also its block's share of dw.
template <class T, int Lanes, int Group, int Threads, int Cached>
__global__ void __launch_bounds__(Threads, 2)
    row_gate_accumulate(const accumulate_t<T>* __restrict__ slope, const T* __restrict__ x, const T* __restrict__ w, T* __restrict__ dx,
                        accumulate_t<T>* __restrict__ share, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  column_share<Threads, Group, Lanes, Cached, A> dw(share + std::int64_t(blockIdx.x) * width);
  const std::int64_t first = row_of_group<Threads, Group>();
  for (std::int64_t row = first; row < rows; row += std::int64_t(gridDim.x) * (Threads / Group)) {
    const std::int64_t at = row * width;
    const A s = slope[row];
    each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
      const pack<T, Lanes> in = load_pack<Lanes>(x + at + c), gate = load_pack<Lanes>(w + c);
      pack<T, Lanes> out = load_pack<Lanes>(dx + at + c);
      for (int l = 0; l < Lanes; ++l) {
        out.lane[l] = T(A(out.lane[l]) + s * A(gate.lane[l]));
        dw.add(c, j, l, s * A(in.lane[l]), row == first);
      }
      store_pack(dx + at + c, out);
    });
  }
  dw.store(width);
}

}  // namespace kernel

template <row_tuning Tune = row_tuning{}, class T>
void row_gate_forward(cuda_exec e, input<T> x, input<T> w, input<T> z, view<accumulate_t<T>> opening, view<T> y) {
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_matrix("row_gate_forward", "x", x, rows, width);
  require_count("row_gate_forward", "w", w.size(), width);
  require_matrix("row_gate_forward", "z", z, rows, width);
  require_count("row_gate_forward", "opening", opening.size(), rows);
  detail::require_width("row_gate_forward", width);
  detail::by_row<Tune, T>(width, packs(width, x.data(), w.data(), z.data(), y.data()), [&](auto lanes, auto group) {
    launch(e, "row_gate_forward", kernel::row_gate_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("row_gate_forward", rows, Tune.threads, group)}, Tune.threads, 0, x.data(), w.data(), z.data(),
           opening.data(), y.data(), rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T>
void row_gate_backward(cuda_exec e, input<T> dy, input<T> z, input<accumulate_t<T>> opening, view<T> dz, view<accumulate_t<T>> slope) {
  const extent_t rows = rows_of(dz), width = cols_of(dz);
  require_matrix("row_gate_backward", "dy", dy, rows, width);
  require_matrix("row_gate_backward", "z", z, rows, width);
  require_count("row_gate_backward", "opening", opening.size(), rows);
  require_count("row_gate_backward", "slope", slope.size(), rows);
  detail::require_width("row_gate_backward", width);
  detail::by_row<Tune, T>(width, packs(width, dy.data(), z.data(), dz.data()), [&](auto lanes, auto group) {
    launch(e, "row_gate_backward", kernel::row_gate_backward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("row_gate_backward", rows, Tune.threads, group)}, Tune.threads, 0, dy.data(), z.data(), opening.data(),
           dz.data(), slope.data(), rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T, class G>
void row_gate_accumulate(cuda_exec e, input<accumulate_t<T>> slope, input<T> x, input<T> w, view<T> dx, view<G> dw) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_count("row_gate_accumulate", "slope", slope.size(), rows);
  require_matrix("row_gate_accumulate", "x", x, rows, width);
  require_count("row_gate_accumulate", "w", w.size(), width);
  require_count("row_gate_accumulate", "dw", dw.size(), width);
  detail::require_width("row_gate_accumulate", width);
  if (dx.empty()) return;
  scratch<cuda_exec> local(e);
  detail::by_row<Tune, T>(width, packs(width, x.data(), w.data(), dx.data()), [&](auto lanes, auto group) {
    const unsigned blocks = detail::sharing_blocks<Tune>(rows, group);
    A* const share = local.take<A>(blocks, width).data();
    launch(e, "row_gate_accumulate", kernel::row_gate_accumulate<T, lanes, group, Tune.threads, Tune.cached>, {blocks}, Tune.threads, 0,
           slope.data(), x.data(), w.data(), dx.data(), share, rows, width);
    detail::column_sums<Tune>(e, "row_gate_accumulate: dw", share, blocks, width, dw.data());
  });
}

}  // namespace moefold
