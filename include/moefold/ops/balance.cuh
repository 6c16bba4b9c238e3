#pragma once
// The CUDA twin of ops/balance.hpp. All of it is a few hundred numbers: one block each, bound by the launch. Sums are made in a fixed tree.
#include <moefold/core/launch.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/balance.hpp>

namespace moefold {

struct balance_tuning {
  int threads = 256;  // one block: sequences x experts are rarely more than a few thousand numbers
};

namespace kernel {

template <int Threads>
__global__ void __launch_bounds__(Threads) sum_sequences(const std::int64_t* __restrict__ counts, extent_t batch, extent_t columns,
                                                         std::int64_t* __restrict__ load, extent_t experts) {
  for (extent_t x = threadIdx.x; x < experts; x += Threads) {
    std::int64_t sum = 0;
    for (extent_t b = 0; b < batch; ++b) sum += counts[b * columns + x];
    load[x] = sum;
  }
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    add_running(const std::int64_t* before, std::int64_t* running, std::int64_t* now, extent_t experts) {
  for (extent_t x = threadIdx.x; x < experts; x += Threads) {
    const std::int64_t sum = running[x] + (before ? before[x] : 0);
    running[x] = sum, now[x] = sum;
  }
}

template <int Threads>
__global__ void __launch_bounds__(Threads) add_counts(const std::int64_t* __restrict__ from, double* __restrict__ to, extent_t count) {
  const extent_t i = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (i < count) to[i] += double(from[i]);
}

/// What balance_inputs names, as a kernel takes it.
struct balance_numbers {
  const std::int64_t* counts;
  const double *score_sum, *squares, *previous;  // previous: or null
  const std::int64_t* running;                   // or null
  extent_t batch, experts, top_k;
  double loss_weight;
};

template <class A, int Threads>
__global__ void __launch_bounds__(Threads)
    balance_pull(balance_losses balance, balance_numbers in, A* __restrict__ pull, double* __restrict__ losses) {
  const extent_t batch = in.batch, experts = in.experts, columns = experts + 1;
  const double k = double(in.top_k), ratio = double(experts) / k;
  double tokens = 0, chosen = 0;
  for (extent_t b = threadIdx.x; b < batch; b += Threads) tokens += double(in.counts[b * columns + experts]);
  for (extent_t x = threadIdx.x; in.running && x < experts; x += Threads) chosen += double(in.running[x]);
  tokens = block_sum<Threads>(tokens), chosen = block_sum<Threads>(chosen);
  double sums[4] = {};
  for (extent_t x = threadIdx.x; x < experts; x += Threads) {
    double whole = 0;
    for (extent_t b = 0; b < batch; ++b) whole += double(in.counts[b * columns + x]);
    const double previous = in.previous ? in.previous[x] : k / double(experts), running = in.running ? double(in.running[x]) : 0;
    for (extent_t b = 0; b < batch; ++b) {
      const detail::load_terms terms = detail::load_terms_of(balance, k, whole, tokens, double(in.counts[b * columns + x]),
                                                             double(in.counts[b * columns + experts]), previous, running, chosen);
      const double score = in.score_sum[b * experts + x];
      for (int i = 0; i < 4; ++i) sums[i] += ratio * terms.of[i] * score;
      pull[b * experts + x] = A(in.loss_weight * ratio * terms.all());
    }
  }
  for (int i = 0; i < 4; ++i) {
    const double sum = block_sum<Threads>(sums[i]);
    if (threadIdx.x == 0) losses[i] = sum;
  }
  if (threadIdx.x == 0) losses[4] = balance.z * in.squares[0];
}

}  // namespace kernel

template <balance_tuning Tune = balance_tuning{}>
void sum_sequences(cuda_exec e, view<const std::int64_t> counts, view<std::int64_t> load) {
  detail::require_sequences(counts, load);
  if (load.empty()) return;
  launch(e, "sum_sequences", kernel::sum_sequences<Tune.threads>, {1}, Tune.threads, 0, counts.data(), counts.extent(0), counts.extent(1),
         load.data(), extent_t(load.size()));
}

template <balance_tuning Tune = balance_tuning{}>
void add_running(cuda_exec e, view<const std::int64_t> before, view<std::int64_t> running, view<std::int64_t> now) {
  detail::require_running(before, running, now);
  if (running.empty()) return;
  launch(e, "add_running", kernel::add_running<Tune.threads>, {1}, Tune.threads, 0, before.empty() ? nullptr : before.data(),
         running.data(), now.data(), extent_t(running.size()));
}

template <balance_tuning Tune = balance_tuning{}>
void add_counts(cuda_exec e, view<const std::int64_t> from, view<double> to) {
  require_count("add_counts", "from", from.size(), extent_t(to.size()));
  launch(e, "add_counts", kernel::add_counts<Tune.threads>, {blocks_for("add_counts", extent_t(to.size()), Tune.threads)}, Tune.threads, 0,
         from.data(), to.data(), extent_t(to.size()));
}

template <balance_tuning Tune = balance_tuning{}, class A>
void balance_pull(cuda_exec e, const balance_losses& balance, extent_t top_k, double loss_weight, const balance_inputs& in, view<A> pull,
                  view<double> losses) {
  detail::require_balance(balance, in, pull.shape(), losses.size());
  const kernel::balance_numbers numbers{in.counts.data(),
                                        in.score_sum.data(),
                                        in.squares.data(),
                                        in.previous.empty() ? nullptr : in.previous.data(),
                                        balance.global_running > 0 ? in.running.data() : nullptr,
                                        in.counts.extent(0),
                                        in.counts.extent(1) - 1,
                                        top_k,
                                        loss_weight};
  launch(e, "balance_pull", kernel::balance_pull<A, Tune.threads>, {1}, Tune.threads, 0, balance, numbers, pull.data(), losses.data());
}

}  // namespace moefold
