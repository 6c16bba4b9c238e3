#pragma once
// The CUDA twin of ops/jitter.hpp: the same generator, so the same factors. One thread for four elements of a row.
//
//   jitter_rows   out = in * factor        add_jittered   y += in * factor, in accumulate_t
#include <moefold/core/launch.cuh>
#include <moefold/ops/jitter.hpp>

namespace moefold {

namespace kernel {

template <class T, class U, bool Add, int Threads>
__global__ void __launch_bounds__(Threads) jitter_rows(const U* in, jitter_rule rule, T* out, extent_t width) {
  using A = accumulate_t<T>;
  const extent_t row = blockIdx.x;
  const std::uint64_t first = rule.first(row, width);
  for (extent_t c = extent_t(blockIdx.y) * Threads + threadIdx.x; c < width; c += extent_t(gridDim.y) * Threads) {
    const extent_t i = row * width + c;
    const A value = A(in[i]) * A(rule.factor(first + std::uint64_t(c)));
    if constexpr (Add)
      out[i] = T(A(out[i]) + value);
    else
      out[i] = T(value);
  }
}

}  // namespace kernel

struct jitter_tuning {
  int threads = 256;
  int each = 4;  // elements of a thread: its generator is a hundred integer instructions for each, nothing else counts
};

namespace detail {

template <bool Add, jitter_tuning Tune, class T, class U>
void jitter(cuda_exec e, const char* op, view<const U> in, const jitter_rule& rule, view<T> out) {
  const extent_t n = rows_of(out), width = cols_of(out), pieces = (width + Tune.threads * Tune.each - 1) / (Tune.threads * Tune.each);
  require_matrix(op, "in", in, n, width);
  require(rule.batch >= 1, "moefold: ", op, " needs at least one sequence, given ", rule.batch);
  launch(e, op, kernel::jitter_rows<T, U, Add, Tune.threads>, dim3(blocks_for(op, n, 1), unsigned(std::min<extent_t>(pieces, 65535))),
         Tune.threads, 0, in.data(), rule, out.data(), width);
}

}  // namespace detail

template <class T, jitter_tuning Tune = jitter_tuning{}>
void jitter_rows(cuda_exec e, input<T> in, const jitter_rule& rule, view<T> out) {
  detail::jitter<false, Tune, T, T>(e, "jitter_rows", in, rule, out);
}

template <class T, jitter_tuning Tune = jitter_tuning{}>
void add_jittered(cuda_exec e, input<accumulate_t<T>> in, const jitter_rule& rule, view<T> y) {
  detail::jitter<true, Tune, T, accumulate_t<T>>(e, "add_jittered", in, rule, y);
}

}  // namespace moefold
