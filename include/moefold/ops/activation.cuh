#pragma once
// The CUDA twin of ops/activation.hpp: the same names, the same mathematics of one element, launched on the exec's stream.
// Bound by memory: forward reads two elements and writes one, backward reads three and writes two.
//
//   one block per row, `threads` threads along it      T: float, double, bf16; arithmetic in accumulate_t<T>
//   dp: every thread sums its columns, the block sums its threads in a fixed tree: the same bits on every launch
#include <moefold/core/exec.cuh>
#include <moefold/ops/activation.hpp>

namespace moefold {

namespace kernel {

/// *to = the sum over the block's threads, in a fixed tree.
template <int Threads, class A>
__device__ inline void sum_of_block(A sum, A* to) {
  static_assert((Threads & (Threads - 1)) == 0, "moefold: the tree of sums halves the threads; use a power of two");
  __shared__ A partial[Threads];
  partial[threadIdx.x] = sum;
  for (int half = Threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + unsigned(half)];
  }
  if (threadIdx.x == 0) *to = partial[0];
}

template <class T, int Threads>
__global__ void __launch_bounds__(Threads) swiglu_forward(const T* __restrict__ gate, const T* __restrict__ up,
                                                          const accumulate_t<T>* __restrict__ p, T* __restrict__ out, int width) {
  using A = accumulate_t<T>;
  const std::size_t row = blockIdx.x;
  const A weight = p[row];
  for (int c = int(threadIdx.x); c < width; c += Threads) {  // coalesced along the row
    const std::size_t i = row * std::size_t(width) + std::size_t(c);
    out[i] = T(swiglu_value(A(gate[i]), A(up[i]), weight));
  }
}

/// No __restrict__ on the outputs: they may be the memory of gate and up, each element read before it is written by the same thread.
template <class T, int Threads>
__global__ void __launch_bounds__(Threads) swiglu_backward(const T* __restrict__ dout, const T* gate, const T* up, const accumulate_t<T>* p,
                                                           T* dgate, T* dup, accumulate_t<T>* dp, int width) {
  using A = accumulate_t<T>;
  const std::size_t row = blockIdx.x;
  const A weight = p[row];
  A sum = 0;
  for (int c = int(threadIdx.x); c < width; c += Threads) {
    const std::size_t i = row * std::size_t(width) + std::size_t(c);
    const auto grad = swiglu_gradient_of(A(dout[i]), A(gate[i]), A(up[i]), weight);
    dgate[i] = T(grad.gate);
    dup[i] = T(grad.up);
    sum += grad.p;
  }
  sum_of_block<Threads>(sum, dp + row);
}

template <class T, int Threads>
__global__ void __launch_bounds__(Threads)
    gelu_forward(const T* __restrict__ up, const accumulate_t<T>* __restrict__ p, T* __restrict__ out, int width) {
  using A = accumulate_t<T>;
  const std::size_t row = blockIdx.x;
  const A weight = p[row];
  for (int c = int(threadIdx.x); c < width; c += Threads) {
    const std::size_t i = row * std::size_t(width) + std::size_t(c);
    out[i] = T(gelu_value(A(up[i]), weight));
  }
}

/// No __restrict__ on dup: it may be the memory of up.
template <class T, int Threads>
__global__ void __launch_bounds__(Threads)
    gelu_backward(const T* __restrict__ dout, const T* up, const accumulate_t<T>* p, T* dup, accumulate_t<T>* dp, int width) {
  using A = accumulate_t<T>;
  const std::size_t row = blockIdx.x;
  const A weight = p[row];
  A sum = 0;
  for (int c = int(threadIdx.x); c < width; c += Threads) {
    const std::size_t i = row * std::size_t(width) + std::size_t(c);
    const auto grad = gelu_gradient_of(A(dout[i]), A(up[i]), weight);
    dup[i] = T(grad.up);
    sum += grad.p;
  }
  sum_of_block<Threads>(sum, dp + row);
}

}  // namespace kernel

struct activation_tuning {
  int threads = 128;  // sm_80 and sm_90 alike: expert widths of 128 to a few thousand leave no thread idle
};

namespace detail {
/// Rows and columns as the launch counts them.
template <class T>
inline void require_launchable(const char* op, view<T> x) {
  constexpr extent_t most = std::numeric_limits<int>::max();
  require(rows_of(x) <= most && cols_of(x) <= most, "moefold: ", op, " launches one block per row and counts in 32 bits, given [",
          rows_of(x), ", ", cols_of(x), "]; cut the batch");
}
}  // namespace detail

template <activation_tuning Tune = activation_tuning{}, class T>
void swiglu_forward(cuda_exec e, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("swiglu_forward", "gate", gate, rows, width);
  require_matrix("swiglu_forward", "up", up, rows, width);
  require_count("swiglu_forward", "p", p.size(), rows);
  detail::require_launchable("swiglu_forward", out);
  if (out.empty()) return;  // an empty batch launches nothing
  kernel::swiglu_forward<T, Tune.threads>
      <<<unsigned(rows), Tune.threads, 0, e.stream>>>(gate.data(), up.data(), p.data(), out.data(), int(width));
  cuda_check(cudaGetLastError(), "swiglu_forward launch");
}

template <activation_tuning Tune = activation_tuning{}, class T>
void swiglu_backward(cuda_exec e, input<T> dout, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> dgate, output<T> dup,
                     view<accumulate_t<T>> dp) {
  const extent_t rows = rows_of(dgate), width = cols_of(dgate);
  require_matrix("swiglu_backward", "dout", dout, rows, width);
  require_matrix("swiglu_backward", "gate", gate, rows, width);
  require_matrix("swiglu_backward", "up", up, rows, width);
  require_matrix("swiglu_backward", "dup", dup, rows, width);
  require_count("swiglu_backward", "p", p.size(), rows);
  require_count("swiglu_backward", "dp", dp.size(), rows);
  detail::require_launchable("swiglu_backward", dgate);
  if (rows == 0) return;
  kernel::swiglu_backward<T, Tune.threads><<<unsigned(rows), Tune.threads, 0, e.stream>>>(dout.data(), gate.data(), up.data(), p.data(),
                                                                                          dgate.data(), dup.data(), dp.data(), int(width));
  cuda_check(cudaGetLastError(), "swiglu_backward launch");
}

template <activation_tuning Tune = activation_tuning{}, class T>
void gelu_forward(cuda_exec e, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("gelu_forward", "up", up, rows, width);
  require_count("gelu_forward", "p", p.size(), rows);
  detail::require_launchable("gelu_forward", out);
  if (out.empty()) return;
  kernel::gelu_forward<T, Tune.threads><<<unsigned(rows), Tune.threads, 0, e.stream>>>(up.data(), p.data(), out.data(), int(width));
  cuda_check(cudaGetLastError(), "gelu_forward launch");
}

template <activation_tuning Tune = activation_tuning{}, class T>
void gelu_backward(cuda_exec e, input<T> dout, input<T> up, input<accumulate_t<T>> p, view<T> dup, view<accumulate_t<T>> dp) {
  const extent_t rows = rows_of(dup), width = cols_of(dup);
  require_matrix("gelu_backward", "dout", dout, rows, width);
  require_matrix("gelu_backward", "up", up, rows, width);
  require_count("gelu_backward", "p", p.size(), rows);
  require_count("gelu_backward", "dp", dp.size(), rows);
  detail::require_launchable("gelu_backward", dup);
  if (rows == 0) return;
  kernel::gelu_backward<T, Tune.threads>
      <<<unsigned(rows), Tune.threads, 0, e.stream>>>(dout.data(), up.data(), p.data(), dup.data(), dp.data(), int(width));
  cuda_check(cudaGetLastError(), "gelu_backward launch");
}

}  // namespace moefold
