#pragma once
// The CUDA twin of ops/activation.hpp: the same names, the same mathematics of one element. Bound by memory: forward reads two elements and writes one,
// backward reads three and writes two; gelu one less of each.
//
//   a warp per narrow row, a block per wide one, packs of 16 bytes (ops/rows.cuh)      T: float, double, bf16; arithmetic in accumulate_t<T>
//   dp: every thread sums its columns, the row's threads are summed in a fixed tree: the same bits on every launch
#include <moefold/ops/activation.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

namespace kernel {

/// No __restrict__ on outputs: backward's may be the memory of gate and up, each element read before it is written, by the same thread.
template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2)
    swiglu_forward(const T* __restrict__ gate, const T* __restrict__ up, const accumulate_t<T>* __restrict__ p, T* __restrict__ out,
                   std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A weight = p[row];
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    const pack<T, Lanes> g = load_pack<Lanes>(gate + at + c), u = load_pack<Lanes>(up + at + c);
    pack<T, Lanes> y;
    for (int l = 0; l < Lanes; ++l) y.lane[l] = T(swiglu_value(A(g.lane[l]), A(u.lane[l]), weight));
    store_pack(out + at + c, y);
  });
}

template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2)
    swiglu_backward(const T* __restrict__ dout, const T* gate, const T* up, const accumulate_t<T>* __restrict__ p, T* dgate, T* dup,
                    accumulate_t<T>* __restrict__ dp, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A weight = p[row];
  A sum = 0;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    const pack<T, Lanes> d = load_pack<Lanes>(dout + at + c);
    pack<T, Lanes> g = load_pack<Lanes>(gate + at + c), u = load_pack<Lanes>(up + at + c);
    for (int l = 0; l < Lanes; ++l) {
      const auto grad = swiglu_gradient_of(A(d.lane[l]), A(g.lane[l]), A(u.lane[l]), weight);
      g.lane[l] = T(grad.gate);
      u.lane[l] = T(grad.up);
      sum += grad.p;
    }
    store_pack(dgate + at + c, g);
    store_pack(dup + at + c, u);
  });
  sum = row_sum<Group>(sum);
  if (int(threadIdx.x) % Group == 0) dp[row] = sum;
}

template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2)
    gelu_forward(const T* __restrict__ up, const accumulate_t<T>* __restrict__ p, T* __restrict__ out, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A weight = p[row];
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> u = load_pack<Lanes>(up + at + c);
    for (int l = 0; l < Lanes; ++l) u.lane[l] = T(gelu_value(A(u.lane[l]), weight));
    store_pack(out + at + c, u);
  });
}

template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads, 2) gelu_backward(const T* __restrict__ dout, const T* up, const accumulate_t<T>* __restrict__ p,
                                                         T* dup, accumulate_t<T>* __restrict__ dp, std::int64_t rows, int width) {
  using A = accumulate_t<T>;
  const std::int64_t row = row_of_group<Threads, Group>();
  if (row >= rows) return;
  const std::int64_t at = row * width;
  const A weight = p[row];
  A sum = 0;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    const pack<T, Lanes> d = load_pack<Lanes>(dout + at + c);
    pack<T, Lanes> u = load_pack<Lanes>(up + at + c);
    for (int l = 0; l < Lanes; ++l) {
      const auto grad = gelu_gradient_of(A(d.lane[l]), A(u.lane[l]), weight);
      u.lane[l] = T(grad.up);
      sum += grad.p;
    }
    store_pack(dup + at + c, u);
  });
  sum = row_sum<Group>(sum);
  if (int(threadIdx.x) % Group == 0) dp[row] = sum;
}

}  // namespace kernel

template <row_tuning Tune = row_tuning{}, class T>
void swiglu_forward(cuda_exec e, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("swiglu_forward", "gate", gate, rows, width);
  require_matrix("swiglu_forward", "up", up, rows, width);
  require_count("swiglu_forward", "p", p.size(), rows);
  detail::require_width("swiglu_forward", width);
  detail::by_row<Tune, T>(width, packs(width, gate.data(), up.data(), out.data()), [&](auto lanes, auto group) {
    launch(e, "swiglu_forward", kernel::swiglu_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("swiglu_forward", rows, Tune.threads, group)}, Tune.threads, 0, gate.data(), up.data(), p.data(), out.data(),
           rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T>
void swiglu_backward(cuda_exec e, input<T> dout, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> dgate, output<T> dup,
                     view<accumulate_t<T>> dp) {
  const extent_t rows = rows_of(dgate), width = cols_of(dgate);
  require_matrix("swiglu_backward", "dout", dout, rows, width);
  require_matrix("swiglu_backward", "gate", gate, rows, width);
  require_matrix("swiglu_backward", "up", up, rows, width);
  require_matrix("swiglu_backward", "dup", dup, rows, width);
  require_count("swiglu_backward", "p", p.size(), rows);
  require_count("swiglu_backward", "dp", dp.size(), rows);
  detail::require_width("swiglu_backward", width);
  const bool in_packs = packs(width, dout.data(), gate.data(), up.data(), dgate.data(), dup.data());
  detail::by_row<Tune, T>(width, in_packs, [&](auto lanes, auto group) {
    launch(e, "swiglu_backward", kernel::swiglu_backward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("swiglu_backward", rows, Tune.threads, group)}, Tune.threads, 0, dout.data(), gate.data(), up.data(),
           p.data(), dgate.data(), dup.data(), dp.data(), rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T>
void gelu_forward(cuda_exec e, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("gelu_forward", "up", up, rows, width);
  require_count("gelu_forward", "p", p.size(), rows);
  detail::require_width("gelu_forward", width);
  detail::by_row<Tune, T>(width, packs(width, up.data(), out.data()), [&](auto lanes, auto group) {
    launch(e, "gelu_forward", kernel::gelu_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("gelu_forward", rows, Tune.threads, group)}, Tune.threads, 0, up.data(), p.data(), out.data(), rows, width);
  });
}

template <row_tuning Tune = row_tuning{}, class T>
void gelu_backward(cuda_exec e, input<T> dout, input<T> up, input<accumulate_t<T>> p, view<T> dup, view<accumulate_t<T>> dp) {
  const extent_t rows = rows_of(dup), width = cols_of(dup);
  require_matrix("gelu_backward", "dout", dout, rows, width);
  require_matrix("gelu_backward", "up", up, rows, width);
  require_count("gelu_backward", "p", p.size(), rows);
  require_count("gelu_backward", "dp", dp.size(), rows);
  detail::require_width("gelu_backward", width);
  detail::by_row<Tune, T>(width, packs(width, dout.data(), up.data(), dup.data()), [&](auto lanes, auto group) {
    launch(e, "gelu_backward", kernel::gelu_backward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("gelu_backward", rows, Tune.threads, group)}, Tune.threads, 0, dout.data(), up.data(), p.data(), dup.data(),
           dp.data(), rows, width);
  });
}

}  // namespace moefold
