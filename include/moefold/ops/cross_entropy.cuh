#pragma once
// The CUDA twin of ops/cross_entropy.hpp; labels lie on the device too. Bound by memory: local reads the logits once (maximum and sum in one pass, the
// sum rescaled when the maximum rises), backward reads and writes them once; everything else is a few numbers per token.
//
//   one block per token, `threads` threads along the vocabulary, 16 bytes each      merge: one thread per token
//   thread: (top, sum of exp(x - top)) of its columns    block: the largest top, then the sums, rescaled to it, in a fixed tree
//
// Source: Milakov and Gimelshein 2018, arXiv 1805.02867 (the running sum).
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/cross_entropy.hpp>

namespace moefold {

struct cross_entropy_tuning {
  int threads = 256;  // sm_80 and sm_90 alike: a vocabulary of 32k in fp32 is 32 loads for each
};

namespace kernel {

template <int Threads>
__global__ void __launch_bounds__(Threads)
    require_labels(const std::int32_t* __restrict__ labels, extent_t n, std::int64_t vocabulary, device_fault* faults) {
  const extent_t t = extent_t(blockIdx.x) * Threads + int(threadIdx.x);
  if (t < n && labels[t] >= vocabulary) report(faults, fault_kind::label, t, labels[t], vocabulary);
}

template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 2)
    cross_entropy_local(const T* __restrict__ logits, const std::int32_t* __restrict__ labels, std::int64_t first_row, extent_t valid_rows,
                        extent_t width, accumulate_t<T>* __restrict__ stats) {
  using A = accumulate_t<T>;
  constexpr A none = -std::numeric_limits<A>::infinity();
  const extent_t t = blockIdx.x;
  const T* const in = logits + t * width;
  const std::int64_t label = labels[t], own = label - first_row;
  A top = none, sum = 0;
  if (label >= 0)
    for (extent_t c = extent_t(int(threadIdx.x)) * Lanes; c < valid_rows; c += extent_t(Threads) * Lanes) {
      const auto x = load_pack<Lanes>(in + c);
      A higher = top;
#pragma unroll
      for (int l = 0; l < Lanes; ++l)
        if (c + l < valid_rows && higher < A(x.lane[l])) higher = A(x.lane[l]);
      const A shift = higher > none ? higher : A(0);
      sum *= exp_of(top - shift);
#pragma unroll
      for (int l = 0; l < Lanes; ++l)
        if (c + l < valid_rows) sum += exp_of(A(x.lane[l]) - shift);
      top = higher;
    }
  const A highest = block_max<Threads>(top);
  // a thread without columns adds nothing; where every logit is -inf or NaN, exp(x - max) is NaN
  const A all = block_sum<Threads>(sum == A(0) ? A(0) : sum * exp_of((top > none ? top : A(0)) - highest));
  if (threadIdx.x != 0) return;
  A* const out = stats + 3 * t;
  const bool counts = label >= 0 && valid_rows > 0;
  out[0] = highest;
  out[1] = !counts ? A(0) : highest > none ? all : std::numeric_limits<A>::quiet_NaN();
  out[2] = counts && own >= 0 && own < valid_rows ? A(in[own]) : A(0);
}

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    cross_entropy_merge(const A* __restrict__ parts, extent_t shards, extent_t n, A* __restrict__ stats, A* __restrict__ loss) {
  const extent_t t = extent_t(blockIdx.x) * Threads + int(threadIdx.x);
  if (t >= n) return;
  A top = -std::numeric_limits<A>::infinity(), sum = 0, target = 0;
  for (extent_t s = 0; s < shards; ++s) {
    const A one = parts[(s * n + t) * 3];
    top = top < one ? one : top;
  }
  for (extent_t s = 0; s < shards; ++s) {
    const A* const part = parts + (s * n + t) * 3;
    if (part[1] != A(0)) sum += part[1] * std::exp(part[0] - top);
    target += part[2];
  }
  A* const out = stats + 3 * t;
  out[0] = top, out[1] = sum, out[2] = target;
  loss[t] = sum == A(0) ? A(0) : std::log(sum) + top - target;
}

template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads)
    cross_entropy_backward(T* __restrict__ logits, const std::int32_t* __restrict__ labels, std::int64_t first_row, extent_t valid_rows,
                           extent_t width, const accumulate_t<T>* __restrict__ stats) {
  using A = accumulate_t<T>;
  const extent_t t = blockIdx.x;
  T* const x = logits + t * width;
  const std::int64_t label = labels[t], own = label - first_row;
  const A top = stats[3 * t], inverse = A(1) / stats[3 * t + 1];
  for (extent_t c = extent_t(int(threadIdx.x)) * Lanes; c < width; c += extent_t(Threads) * Lanes) {
    pack<T, Lanes> y{};
    if (label >= 0 && c < valid_rows) {
      y = load_pack<Lanes>(x + c);
#pragma unroll
      for (int l = 0; l < Lanes; ++l) {
        y.lane[l] = c + l < valid_rows ? T(exp_of(A(y.lane[l]) - top) * inverse) : T(0);
        if (c + l == own && own < valid_rows) y.lane[l] = T(A(y.lane[l]) - A(1));
      }
    }
    store_pack(x + c, y);
  }
}

}  // namespace kernel

/// Labels on the device: the complaint is thrown when the host next waits for the exec.
inline void require_labels(cuda_exec e, std::span<const std::int32_t> labels, std::int64_t vocabulary) {
  constexpr int threads = 256;
  launch(e, "require_labels", kernel::require_labels<threads>, blocks_for("require_labels", extent_t(labels.size()), threads), threads, 0,
         labels.data(), extent_t(labels.size()), vocabulary, e.context->faults.device());
}

template <cross_entropy_tuning Tune = cross_entropy_tuning{}, class T>
void cross_entropy_local(cuda_exec e, view<T> logits, std::span<const std::int32_t> labels, std::int64_t first_row, std::int64_t valid_rows,
                         view<accumulate_t<T>> stats) {
  using V = std::remove_const_t<T>;
  constexpr const char* op = "cross_entropy_local";
  const extent_t n = rows_of(logits), width = cols_of(logits);
  require_count(op, "labels", labels.size(), n);
  require_matrix(op, "stats", stats, n, 3);
  require(valid_rows >= 0 && valid_rows <= width, "moefold: cross_entropy_local has ", width, " columns, of which ", valid_rows,
          " cannot be valid; pass 0 to ", width);
  const auto with = [&](auto kernel) {
    launch(e, op, kernel, blocks_for(op, n, 1), Tune.threads, 0, logits.data(), labels.data(), first_row, valid_rows, width, stats.data());
  };
  packs<V>(width, logits.data()) ? with(kernel::cross_entropy_local<V, whole_pack<V>, Tune.threads>)
                                 : with(kernel::cross_entropy_local<V, 1, Tune.threads>);
}

template <class A>
void cross_entropy_merge(cuda_exec e, input<A> parts, view<A> stats, output<A> loss) {
  constexpr int threads = 128;
  constexpr const char* op = "cross_entropy_merge";
  const extent_t n = rows_of(stats);
  require_matrix(op, "stats", stats, n, 3);
  require_count(op, "loss", loss.size(), n);
  require(parts.rank() == 3 && parts.extent(0) > 0, "moefold: cross_entropy_merge needs parts [shards, tokens, 3] of at least one shard");
  require_matrix(op, "parts", parts, parts.extent(0) * n, 3);
  launch(e, op, kernel::cross_entropy_merge<A, threads>, blocks_for(op, n, threads), threads, 0, parts.data(), parts.extent(0), n,
         stats.data(), loss.data());
}

template <cross_entropy_tuning Tune = cross_entropy_tuning{}, class T>
void cross_entropy_backward(cuda_exec e, view<T> logits, std::span<const std::int32_t> labels, std::int64_t first_row,
                            std::int64_t valid_rows, input<accumulate_t<T>> stats) {
  constexpr const char* op = "cross_entropy_backward";
  const extent_t n = rows_of(logits), width = cols_of(logits);
  require_count(op, "labels", labels.size(), n);
  require_matrix(op, "stats", stats, n, 3);
  require(valid_rows >= 0 && valid_rows <= width, "moefold: cross_entropy_backward has ", width, " columns, of which ", valid_rows,
          " cannot be valid; pass 0 to ", width);
  const auto with = [&](auto kernel) {
    launch(e, op, kernel, blocks_for(op, n, 1), Tune.threads, 0, logits.data(), labels.data(), first_row, valid_rows, width, stats.data());
  };
  packs(width, logits.data()) ? with(kernel::cross_entropy_backward<T, whole_pack<T>, Tune.threads>)
                              : with(kernel::cross_entropy_backward<T, 1, Tune.threads>);
}

}  // namespace moefold
