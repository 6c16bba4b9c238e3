#pragma once
// The CUDA twin of ops/choice_rows.hpp: one launch each (split_gradients two), by the kernels of ops/row_copy.cuh.
//
//   pack_choices      the threads that begin a row write its 2 k numbers      split_choices     one thread for a choice
//   gather_choices    slot -> token slot / k and number k + slot % k behind it
#include <moefold/ops/choice_rows.hpp>
#include <moefold/ops/weighted_rows.cuh>

namespace moefold {

namespace kernel {

template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 3)
    pack_choices(row_tiles tiles, strided_rows<const T> x, const std::int32_t* __restrict__ expert,
                 const accumulate_t<T>* __restrict__ weight, int k, extent_t experts, strided_rows<T> tokens, extent_t width,
                 device_fault* faults) {
  using A = accumulate_t<T>;
  const row_tiles::place p = tiles.at(blockIdx.x, blockIdx.y, int(threadIdx.x), Threads);
  if (p.row >= tiles.rows) return;
  T* const out = tokens.data + p.row * tokens.stride;
  load_units<Lanes>(x.data + p.row * x.stride, p, tiles.lanes(),
                    [&](std::int64_t c, const pack<T, Lanes>& value) { store_pack(out + c, value); });
  if (blockIdx.y != 0) return;
  for (int j = int(p.first); j < k; j += tiles.lanes()) {
    std::int32_t choice = expert[p.row * k + j];
    if (choice < -1 || choice >= experts) {
      report(faults, fault_kind::expert, p.row, choice, experts);
      choice = -1;
    }
    put_wide<T>(A(choice), out + width + j * wide_lanes<T>);
    put_wide<T>(weight[p.row * k + j], out + width + (k + j) * wide_lanes<T>);
  }
}

template <class T, int Threads>
__global__ void __launch_bounds__(Threads) split_choices(const T* __restrict__ tokens, extent_t stride, extent_t width, int k,
                                                         extent_t first, extent_t own, std::int32_t* __restrict__ index, extent_t slots) {
  const extent_t s = extent_t(blockIdx.x) * Threads + threadIdx.x;
  if (s >= slots) return;
  const extent_t here = extent_t(get_wide(tokens + s / k * stride + width + s % k * wide_lanes<T>)) - first;
  index[s] = here >= 0 && here < own ? std::int32_t(here) : -1;
}

}  // namespace kernel

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void pack_choices(cuda_exec e, input<T> x, view<const std::int32_t> expert, input<accumulate_t<T>> weight, extent_t experts,
                  view<T> tokens) {
  const extent_t n = rows_of(x), hidden = cols_of(x), k = cols_of(expert), width = hidden + choice_lanes<T>(k);
  require_matrix("pack_choices", "expert", expert, n, k);
  require_matrix("pack_choices", "weight", weight, n, k);
  require_matrix("pack_choices", "tokens", tokens, n, width);
  const strided_rows<const T> from{x.data(), hidden};
  const strided_rows<T> to{tokens.data(), width};
  detail::with_row_tiles<T, Tune>("pack_choices", n, hidden, detail::lanes_of(from, to), [&](auto lanes, row_tiles tiles, dim3 blocks) {
    launch(e, "pack_choices", kernel::pack_choices<T, lanes(), Tune.threads>, blocks, Tune.threads, 0, tiles, from, expert.data(),
           weight.data(), int(k), experts, to, hidden, e.context->faults.device());
  });
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void split_choices(cuda_exec e, view<T> tokens, extent_t first, extent_t own, view<std::int32_t> index) {
  using U = std::remove_const_t<T>;
  const extent_t n = rows_of(index), k = cols_of(index), width = cols_of(tokens);
  require_matrix("split_choices", "tokens", tokens, n, width);
  launch(e, "split_choices", kernel::split_choices<U, Tune.threads>, dim3(blocks_for("split_choices", n * k, Tune.threads)), Tune.threads,
         0, tokens.data(), width, width - choice_lanes<U>(k), int(k), first, own, index.data(), n * k);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void gather_choices(cuda_exec e, input<T> tokens, std::span<const std::int32_t> slot_of_row, extent_t k, view<T> batch,
                    output<accumulate_t<T>> weight) {
  const extent_t hidden = cols_of(batch), width = hidden + choice_lanes<T>(k), rows = rows_of(batch);
  require_matrix("gather_choices", "tokens", tokens, rows_of(tokens), width);
  require_count("gather_choices", "slot_of_row", slot_of_row.size(), rows);
  require_count("gather_choices", "weight", weight.size(), rows);
  detail::gather<T, Tune>(e, "gather_choices", {tokens.data(), width}, slot_of_row, k, rows_of(tokens) * k, true, {batch.data(), hidden},
                          hidden, nullptr, weight.data(), k);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void combine_choices(cuda_exec e, input<T> dbatch, input<accumulate_t<T>> dweight, view<const std::int32_t> row_of_slot, view<T> rows,
                     output<accumulate_t<T>> dp) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(row_of_slot), k = cols_of(row_of_slot), hidden = cols_of(dbatch), width = hidden + choice_gradient_lanes<T>(k);
  require_matrix("combine_choices", "rows", rows, n, width);
  require_count("combine_choices", "dweight", dweight.size(), rows_of(dbatch));
  require_count("combine_choices", "dp", dp.size(), width == hidden ? n * k : 0);
  kernel::slot_weights<A> weight{dweight.data(), dp.data(), k};
  if constexpr (std::is_same_v<T, A>) weight.out = rows.data() + hidden, weight.stride = width;
  detail::combine<T, Tune>(e, "combine_choices", {dbatch.data(), hidden}, rows_of(dbatch), row_of_slot, {rows.data(), width}, hidden,
                           weight);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void split_gradients(cuda_exec e, input<T> rows, view<T> dx, output<accumulate_t<T>> dchoice) {
  const extent_t n = rows_of(dx), hidden = cols_of(dx), k = cols_of(dchoice), width = hidden + choice_gradient_lanes<T>(k);
  require_matrix("split_gradients", "rows", rows, n, width);
  require_matrix("split_gradients", "dchoice", dchoice, n, k);
  detail::scatter<T, Tune>(e, "split_gradients", {rows.data(), width}, n, nullptr, n, {dx.data(), hidden}, hidden);
  if constexpr (std::is_same_v<T, accumulate_t<T>>)
    detail::scatter<T, Tune>(e, "split_gradients", {rows.data() + hidden, width}, n, nullptr, n, {dchoice.data(), k}, k);
}

}  // namespace moefold
