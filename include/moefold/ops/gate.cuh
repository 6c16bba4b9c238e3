#pragma once
// The CUDA twin of ops/gate.hpp. Bound by memory: a row is read for its sum and, from cache, once more for what is written.
//
//   forward 3 T H, scale_rows 2 T H, backward 5 T H elements moved; dw by shares of blocks (ops/rows.cuh): the same bits on every launch
#include <moefold/ops/gate.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

namespace kernel {

/// y may be the memory of z: each element is written by the thread that has read it.
template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads) row_gate_forward(const T* __restrict__ x, const T* __restrict__ w, const T* z,
                                                            accumulate_t<T>* __restrict__ opening, T* y, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;  // a whole warp of it
  const std::int64_t at = row * width;
  A sum = 0;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    const pack<T, Lanes> in = load_pack<Lanes>(x + at + c), along = load_pack<Lanes>(w + c);
    for (int l = 0; l < Lanes; ++l) sum += A(in.lane[l]) * A(along.lane[l]);
  });
  const A open = logistic(row_sum<Group>(sum));
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> out = load_pack<Lanes>(z + at + c);
    for (int l = 0; l < Lanes; ++l) out.lane[l] = T(open * A(out.lane[l]));
    store_pack(y + at + c, out);
  });
  if (int(threadIdx.x) % Group == 0) opening[row] = open;
}

/// out may be the memory of in.
template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads)
    scale_rows(const T* in, const accumulate_t<T>* __restrict__ opening, T* out, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A open = opening[row];
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> x = load_pack<Lanes>(in + at + c);
    for (int l = 0; l < Lanes; ++l) x.lane[l] = T(open * A(x.lane[l]));
    store_pack(out + at + c, x);
  });
}

/// Also its block's share of dw.
template <class T, int Lanes, int Group, int Threads, int Cached>
__global__ void __launch_bounds__(Threads, 1)
    row_gate_backward(const T* __restrict__ dy, const T* __restrict__ z, const T* __restrict__ x, const T* __restrict__ w,
                      const accumulate_t<T>* __restrict__ opening, T* __restrict__ dx, accumulate_t<T>* __restrict__ share,
                      std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  constexpr int groups = Threads / Group;
  column_share<Threads, Group, Lanes, Cached, A> dw(share + std::int64_t(blockIdx.x) * width);
  const std::int64_t first = row_of_group<Threads, Group>();
  for (std::int64_t row = first; row < rows; row += std::int64_t(gridDim.x) * groups) {
    const std::int64_t at = row * width;
    A sum = 0;
    each_pack<Lanes, Group, Cached>(width, [&](int c, int) {
      const pack<T, Lanes> d = load_pack<Lanes>(dy + at + c), made = load_pack<Lanes>(z + at + c);
      for (int l = 0; l < Lanes; ++l) sum += A(d.lane[l]) * A(made.lane[l]);
    });
    const A slope = row_gate_slope(row_sum<Group>(sum), opening[row]);
    each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
      const pack<T, Lanes> gate = load_pack<Lanes>(w + c), in = load_pack<Lanes>(x + at + c);
      pack<T, Lanes> out = load_pack<Lanes>(dx + at + c);
      for (int l = 0; l < Lanes; ++l) {
        out.lane[l] = T(A(out.lane[l]) + slope * A(gate.lane[l]));
        dw.add(c, j, l, slope * A(in.lane[l]), row == first);
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
  require_matrix("row_gate_forward", "z", z, rows, width);
  require_count("row_gate_forward", "w", w.size(), width);
  require_count("row_gate_forward", "opening", opening.size(), rows);
  detail::require_width("row_gate_forward", width);
  detail::by_row<Tune, T>(width, packs(width, x.data(), w.data(), z.data(), y.data()), [&](auto lanes, auto group) {
    launch(e, "row_gate_forward", kernel::row_gate_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("row_gate_forward", rows, Tune.threads, group)}, Tune.threads, 0, x.data(), w.data(), z.data(),
           opening.data(), y.data(), rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T>
void scale_rows(cuda_exec e, input<T> in, input<accumulate_t<T>> opening, view<T> out) {
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("scale_rows", "in", in, rows, width);
  require_count("scale_rows", "opening", opening.size(), rows);
  detail::require_width("scale_rows", width);
  if (out.empty()) return;
  detail::by_row<Tune, T>(width, packs(width, in.data(), out.data()), [&](auto lanes, auto group) {
    launch(e, "scale_rows", kernel::scale_rows<T, lanes, group, Tune.threads>,
           {detail::row_blocks("scale_rows", rows, Tune.threads, group)}, Tune.threads, 0, in.data(), opening.data(), out.data(), rows,
           width);
  });
}

template <row_tuning Tune = row_tuning{}, class T, class G>
void row_gate_backward(cuda_exec e, input<T> dy, input<T> z, input<T> x, input<T> w, input<accumulate_t<T>> opening, view<T> dx,
                       view<G> dw) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_matrix("row_gate_backward", "dy", dy, rows, width);
  require_matrix("row_gate_backward", "z", z, rows, width);
  require_matrix("row_gate_backward", "x", x, rows, width);
  require_count("row_gate_backward", "w", w.size(), width);
  require_count("row_gate_backward", "opening", opening.size(), rows);
  require_count("row_gate_backward", "dw", dw.size(), width);
  detail::require_width("row_gate_backward", width);
  if (dx.empty()) return;
  scratch<cuda_exec> local(e);
  detail::by_row<Tune, T>(width, packs(width, dy.data(), z.data(), x.data(), w.data(), dx.data()), [&](auto lanes, auto group) {
    const unsigned blocks = detail::sharing_blocks<Tune>(rows, group);
    A* const share = local.take<A>(blocks, width).data();
    launch(e, "row_gate_backward", kernel::row_gate_backward<T, lanes, group, Tune.threads, Tune.cached>, {blocks}, Tune.threads, 0,
           dy.data(), z.data(), x.data(), w.data(), opening.data(), dx.data(), share, rows, width);
    detail::column_sums<Tune>(e, "row_gate_backward: dw", share, blocks, width, dw.data());
  });
}

}  // namespace moefold
