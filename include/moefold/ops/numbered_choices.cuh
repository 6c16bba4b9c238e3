#pragma once
// The CUDA twin of ops/numbered_choices.hpp: one thread for each number. Bound by memory, and small beside the tokens themselves.
#include <moefold/core/launch.cuh>
#include <moefold/ops/numbered_choices.hpp>

namespace moefold {

struct numbered_choices_tuning {
  int threads = 256;
};

namespace kernel {

template <int Threads>
__global__ void __launch_bounds__(Threads)
    number_choices(batch_place place, const std::int32_t* __restrict__ expert, std::int32_t* __restrict__ rows, extent_t count, int k) {
  const extent_t i = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (i >= count) return;
  const extent_t token = i / (1 + k);
  const int column = int(i % (1 + k));
  rows[i] = column == 0 ? std::int32_t(place.number(token)) : expert[token * k + column - 1];
}

template <int Threads>
__global__ void __launch_bounds__(Threads) split_numbers(const std::int32_t* __restrict__ rows, std::int32_t* __restrict__ number,
                                                         std::int32_t* __restrict__ expert, extent_t count, int k) {
  const extent_t i = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (i >= count) return;
  const extent_t token = i / (1 + k);
  const int column = int(i % (1 + k));
  (column == 0 ? number[token] : expert[token * k + column - 1]) = rows[i];
}

template <int Threads>
__global__ void __launch_bounds__(Threads) count_up(std::int32_t* __restrict__ number, extent_t count) {
  const extent_t i = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (i < count) number[i] = std::int32_t(i);
}

}  // namespace kernel

template <numbered_choices_tuning Tune = numbered_choices_tuning{}>
void number_choices(cuda_exec e, const batch_place& place, view<const std::int32_t> expert, view<std::int32_t> rows) {
  require_matrix("number_choices", "rows", rows, rows_of(expert), 1 + cols_of(expert));
  const extent_t count = extent_t(rows.size());
  launch(e, "number_choices", kernel::number_choices<Tune.threads>, {blocks_for("number_choices", count, Tune.threads)}, Tune.threads, 0,
         place, expert.data(), rows.data(), count, cols_of(expert));
}

template <numbered_choices_tuning Tune = numbered_choices_tuning{}>
void split_numbers(cuda_exec e, view<const std::int32_t> rows, view<std::int32_t> number, view<std::int32_t> expert) {
  require_matrix("split_numbers", "rows", rows, rows_of(expert), 1 + cols_of(expert));
  require_count("split_numbers", "number", number.size(), rows_of(expert));
  const extent_t count = extent_t(rows.size());
  launch(e, "split_numbers", kernel::split_numbers<Tune.threads>, {blocks_for("split_numbers", count, Tune.threads)}, Tune.threads, 0,
         rows.data(), number.data(), expert.data(), count, cols_of(expert));
}

template <numbered_choices_tuning Tune = numbered_choices_tuning{}>
void count_up(cuda_exec e, view<std::int32_t> number) {
  const extent_t count = extent_t(number.size());
  launch(e, "count_up", kernel::count_up<Tune.threads>, {blocks_for("count_up", count, Tune.threads)}, Tune.threads, 0, number.data(),
         count);
}

}  // namespace moefold
