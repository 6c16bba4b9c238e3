#pragma once
// The CUDA twin of ops/norm.hpp. Bound by memory: a row is read once and kept in registers while its sum is made; what is too wide for them is read
// again, from cache.
//
//   forward 2 T H, with the residual 4 T H, backward 3 T H elements moved; dgain by shares of blocks (ops/rows.cuh): the same bits on every launch
#include <moefold/ops/norm.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

namespace kernel {

/// y may be the memory of x, sum that of x or of other: each element is written by the thread that has read it.
template <class T, int Lanes, int Group, int Threads, int Cached, bool Residual>
__global__ void __launch_bounds__(Threads, 2)
    rms_norm_forward(const T* x, const T* other, const T* __restrict__ gain, accumulate_t<T> eps, T* sum, T* y,
                     accumulate_t<T>* __restrict__ rstd, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;  // a whole warp of it
  const std::int64_t at = row * width;
  pack<T, Lanes> kept[Cached];
  A squares = 0;
  each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
    pack<T, Lanes> in = load_pack<Lanes>(x + at + c);
    if constexpr (Residual) {
      const pack<T, Lanes> more = load_pack<Lanes>(other + at + c);
      for (int l = 0; l < Lanes; ++l) in.lane[l] = T(A(in.lane[l]) + A(more.lane[l]));
      store_pack(sum + at + c, in);
    }
    for (int l = 0; l < Lanes; ++l) squares += A(in.lane[l]) * A(in.lane[l]);
    if (j < Cached) kept[j] = in;
  });
  const A s = rms_norm_rstd(row_sum<Group>(squares), width, eps);
  each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
    const pack<T, Lanes> g = load_pack<Lanes>(gain + c);
    pack<T, Lanes> in = j < Cached ? kept[j] : load_pack<Lanes>((Residual ? sum : x) + at + c);
    for (int l = 0; l < Lanes; ++l) in.lane[l] = T(rms_norm_value(A(in.lane[l]), s, A(g.lane[l])));
    store_pack(y + at + c, in);
  });
  if (int(threadIdx.x) % Group == 0) rstd[row] = s;
}

/// Also its block's share of dgain. dx may be the memory of dy.
template <class T, int Lanes, int Group, int Threads, int Cached>
__global__ void __launch_bounds__(Threads, 2)
    rms_norm_backward(const T* dy, const T* __restrict__ x, const T* __restrict__ gain, const accumulate_t<T>* __restrict__ rstd, T* dx,
                      accumulate_t<T>* __restrict__ share, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  constexpr int groups = Threads / Group;
  column_share<Threads, Group, Lanes, Cached, A> dgain(share + std::int64_t(blockIdx.x) * width);
  const std::int64_t first = row_of_group<Threads, Group>();
  for (std::int64_t row = first; row < rows; row += std::int64_t(gridDim.x) * groups) {
    const std::int64_t at = row * width;
    const A s = rstd[row];
    pack<T, Lanes> kept_d[Cached], kept_in[Cached];
    A sum = 0;
    each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
      const pack<T, Lanes> d = load_pack<Lanes>(dy + at + c), in = load_pack<Lanes>(x + at + c), g = load_pack<Lanes>(gain + c);
      for (int l = 0; l < Lanes; ++l) sum += A(d.lane[l]) * A(g.lane[l]) * A(in.lane[l]);
      if (j < Cached) kept_d[j] = d, kept_in[j] = in;
    });
    const A along = rms_norm_along(row_sum<Group>(sum), s, width);
    each_pack<Lanes, Group, Cached>(width, [&](int c, int j) {
      const pack<T, Lanes> g = load_pack<Lanes>(gain + c);
      const pack<T, Lanes> d = j < Cached ? kept_d[j] : load_pack<Lanes>(dy + at + c);
      const pack<T, Lanes> in = j < Cached ? kept_in[j] : load_pack<Lanes>(x + at + c);
      pack<T, Lanes> out;
      for (int l = 0; l < Lanes; ++l) {
        out.lane[l] = T(rms_norm_slope(A(d.lane[l]), A(in.lane[l]), A(g.lane[l]), s, along));
        dgain.add(c, j, l, A(d.lane[l]) * A(in.lane[l]) * s, row == first);
      }
      store_pack(dx + at + c, out);
    });
  }
  dgain.store(width);
}

}  // namespace kernel

namespace detail {

template <row_tuning Tune, bool Residual, class T>
void rms_norm_forward(cuda_exec e, const char* op, view<const T> x, view<const T> other, view<const T> gain, double eps, view<T> sum,
                      view<T> y, view<accumulate_t<T>> rstd) {
  const extent_t rows = rows_of(y), width = cols_of(y);
  require_matrix(op, "x", x, rows, width);
  require_count(op, "gain", gain.size(), width);
  require_count(op, "rstd", rstd.size(), rows);
  require_width(op, width);
  bool in_packs = packs(width, x.data(), gain.data(), y.data());
  if constexpr (Residual) {
    require_matrix(op, "y", other, rows, width);
    require_matrix(op, "sum", sum, rows, width);
    in_packs = in_packs && packs(width, other.data(), sum.data());
  }
  by_row<Tune, T>(width, in_packs, [&](auto lanes, auto group) {
    launch(e, op, kernel::rms_norm_forward<T, lanes, group, Tune.threads, Tune.cached, Residual>,
           {row_blocks(op, rows, Tune.threads, group)}, Tune.threads, 0, x.data(), other.data(), gain.data(), eps, sum.data(), y.data(),
           rstd.data(), rows, width);
  });
}

}  // namespace detail

template <row_tuning Tune = row_tuning{}, class T>
void rms_norm_forward(cuda_exec e, input<T> x, input<T> gain, double eps, view<T> y, view<accumulate_t<T>> rstd) {
  detail::rms_norm_forward<Tune, false, T>(e, "rms_norm_forward", x, {}, gain, eps, {}, y, rstd);
}

template <row_tuning Tune = row_tuning{}, class T>
void residual_rms_norm_forward(cuda_exec e, input<T> x, input<T> y, input<T> gain, double eps, view<T> sum, output<T> normed,
                               view<accumulate_t<T>> rstd) {
  detail::rms_norm_forward<Tune, true, T>(e, "residual_rms_norm_forward", x, y, gain, eps, sum, normed, rstd);
}

template <row_tuning Tune = row_tuning{}, class T, class G>
void rms_norm_backward(cuda_exec e, input<T> dy, input<T> x, input<T> gain, input<accumulate_t<T>> rstd, view<T> dx, view<G> dgain) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dx), width = cols_of(dx);
  require_matrix("rms_norm_backward", "dy", dy, rows, width);
  require_matrix("rms_norm_backward", "x", x, rows, width);
  require_count("rms_norm_backward", "gain", gain.size(), width);
  require_count("rms_norm_backward", "dgain", dgain.size(), width);
  require_count("rms_norm_backward", "rstd", rstd.size(), rows);
  detail::require_width("rms_norm_backward", width);
  if (dx.empty()) return;
  scratch<cuda_exec> local(e);
  detail::by_row<Tune, T>(width, packs(width, dy.data(), x.data(), gain.data(), dx.data()), [&](auto lanes, auto group) {
    const unsigned blocks = detail::sharing_blocks<Tune>(rows, group);
    A* const share = local.take<A>(blocks, width).data();
    launch(e, "rms_norm_backward", kernel::rms_norm_backward<T, lanes, group, Tune.threads, Tune.cached>, {blocks}, Tune.threads, 0,
           dy.data(), x.data(), gain.data(), rstd.data(), dx.data(), share, rows, width);
    detail::column_sums<Tune>(e, "rms_norm_backward: dgain", share, blocks, width, dgain.data());
  });
}

}  // namespace moefold
