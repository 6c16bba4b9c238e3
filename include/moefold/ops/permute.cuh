#pragma once
// The CUDA twin of ops/permute.hpp. Sorting the slots is a counting sort in three launches, stable and without comparisons, and nothing is read back;
// rows are moved by the kernels of ops/row_copy.cuh.
//
//   count   every block counts the choices of its run of slots by expert     part [E, sources, blocks of a source]
//   scan    one block: exclusive sums of part in that order, and counts      which is where the slots of (expert, block) begin
//   place   every block again: a slot goes to what was before it, in the part, in the warps before and in the lanes before
#include <moefold/ops/permute.hpp>
#include <moefold/ops/row_copy.cuh>

namespace moefold {

struct permutation_tuning {
  int threads = 256;     // of count and place
  int per_block = 2048;  // slots of a block: T * k = 65536 makes 32 blocks, and so 32 * E numbers to scan
  int scan_threads = 1024;
};

namespace kernel {

/// What count, scan and place share. rows < 0: rows stand close together; else every (expert, source) has `rows` of them.
struct slot_sort {
  const std::int32_t* index;  // [slots]
  slot_blocks blocks;
  extent_t sources, experts, rows;
  int k;
  std::int32_t* part;  // [E, sources * per_source]

  MOEFOLD_HD extent_t columns() const { return sources * blocks.per_source; }
};

template <int Threads>
__global__ void __launch_bounds__(Threads) count_slots(slot_sort s, std::int32_t* slot_of_row, extent_t rows, device_fault* faults) {
  std::int32_t* const count = dynamic_shared<std::int32_t>();  // [E]
  const int thread = int(threadIdx.x);
  for (extent_t x = thread; x < s.experts; x += Threads) count[x] = 0;
  __syncthreads();
  for (extent_t i = s.blocks.first(blockIdx.x) + thread; i < s.blocks.last(blockIdx.x); i += Threads) {
    const std::int32_t x = s.index[i];
    if (x >= 0 && x < s.experts)
      atomicAdd(&count[x], 1);
    else if (x != -1)
      report(faults, fault_kind::expert, i / s.k, x, s.experts);
  }
  for (extent_t r = extent_t(blockIdx.x) * Threads + thread; r < rows; r += extent_t(gridDim.x) * Threads) slot_of_row[r] = -1;
  __syncthreads();
  for (extent_t x = thread; x < s.experts; x += Threads) s.part[x * s.columns() + blockIdx.x] = count[x];
}

template <int Threads>
__global__ void __launch_bounds__(Threads) scan_slots(slot_sort s, std::int64_t* counts) {
  constexpr int warps = Threads / warp_lanes;
  static_assert(Threads % warp_lanes == 0 && warps <= warp_lanes);
  __shared__ std::int32_t of_warp[warps];
  const int thread = int(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const extent_t entries = s.experts * s.columns(), each = (entries + Threads - 1) / Threads;
  const extent_t first = thread * each < entries ? thread * each : entries, last = first + each < entries ? first + each : entries;
  const auto through = [&](std::int32_t sum) {  // inclusive, over the lanes of a warp
#pragma unroll
    for (int away = 1; away < warp_lanes; away *= 2) {
      const std::int32_t before = __shfl_up_sync(whole_warp, sum, unsigned(away));
      if (lane >= away) sum += before;
    }
    return sum;
  };
  std::int32_t own = 0;
  for (extent_t i = first; i < last; ++i) own += s.part[i];
  const std::int32_t until = through(own);
  if (lane == warp_lanes - 1) of_warp[warp] = until;
  __syncthreads();
  if (warp == 0) {
    const std::int32_t sum = through(lane < warps ? of_warp[lane] : 0);
    if (lane < warps) of_warp[lane] = sum;
  }
  __syncthreads();
  std::int32_t next = until - own + (warp == 0 ? 0 : of_warp[warp - 1]);
  for (extent_t i = first; i < last; ++i) {
    const std::int32_t here = s.part[i];
    s.part[i] = next;
    next += here;
  }
  const std::int32_t all = of_warp[warps - 1];
  __syncthreads();
  for (extent_t x = thread; x < s.experts; x += Threads)
    counts[x] = (x + 1 < s.experts ? s.part[(x + 1) * s.columns()] : all) - s.part[x * s.columns()];
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    place_slots(slot_sort s, int expert_bits, std::int32_t* row_of_slot, std::int32_t* slot_of_row, device_fault* faults) {
  constexpr int warps = Threads / warp_lanes;
  std::int32_t* const next = dynamic_shared<std::int32_t>();  // [warps, E]
  const int thread = int(threadIdx.x), lane = thread % warp_lanes, warp = thread / warp_lanes;
  const extent_t begin = s.blocks.first(blockIdx.x), end = s.blocks.last(blockIdx.x), source = s.blocks.source(blockIdx.x);
  const extent_t run = (s.blocks.per_block + warps - 1) / warps;  // slots of a warp
  const extent_t first = begin + warp * run < end ? begin + warp * run : end, last = first + run < end ? first + run : end;
  std::int32_t* const mine = next + warp * s.experts;
  const auto expert_of = [&](extent_t slot) {
    const std::int32_t x = slot < last ? s.index[slot] : -1;
    return x < s.experts ? x : -1;
  };
  for (extent_t i = thread; i < warps * s.experts; i += Threads) next[i] = 0;
  __syncthreads();
  for (extent_t i = first + lane; i < last; i += warp_lanes)
    if (const std::int32_t x = expert_of(i); x >= 0) atomicAdd(&mine[x], 1);
  __syncthreads();
  for (extent_t x = thread; x < s.experts; x += Threads) {
    const std::int32_t* const part = s.part + x * s.columns();
    std::int32_t sum = part[blockIdx.x] - (s.rows < 0 ? 0 : part[source * s.blocks.per_source]);
    for (int w = 0; w < warps; ++w) {
      const std::int32_t here = next[w * s.experts + x];
      next[w * s.experts + x] = sum;
      sum += here;
    }
  }
  __syncthreads();
  for (extent_t from = first; from < last; from += warp_lanes) {  // the same for all lanes of a warp
    const extent_t slot = from + lane;
    const std::int32_t x = expert_of(slot);
    unsigned same = __ballot_sync(whole_warp, x >= 0);  // lanes with my expert
    for (int bit = 0; bit < expert_bits; ++bit) {
      const bool set = x >= 0 && (x >> bit & 1) != 0;
      const unsigned with = __ballot_sync(whole_warp, set);
      same &= set ? with : ~with;
    }
    const int before = __popc(same & ((1u << lane) - 1));
    const std::int32_t place = x < 0 ? -1 : mine[x] + before;
    __syncwarp();
    if (x >= 0 && before == 0) mine[x] += __popc(same);
    __syncwarp();
    if (slot >= last) continue;
    extent_t row = place;
    if (place >= 0 && s.rows >= 0) {
      row = place < s.rows ? (x * s.sources + source) * s.rows + place : -1;
      if (row < 0) report(faults, fault_kind::capacity, x, place + 1, s.rows);
    }
    row_of_slot[slot] = std::int32_t(row);
    if (row >= 0) slot_of_row[row] = std::int32_t(slot);
  }
}

}  // namespace kernel

namespace detail {

template <permutation_tuning Tune>
void sort_slots(cuda_exec e, const char* op, view<const std::int32_t> index, extent_t experts, extent_t sources, extent_t rows,
                std::span<std::int64_t> counts, view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  static_assert(Tune.threads % warp_lanes == 0 && Tune.per_block % Tune.threads == 0);
  const extent_t slots = extent_t(index.size());
  require(experts <= 4096, "moefold: ", op, " on a device sorts slots of up to 4096 experts, given ", experts);
  if (experts == 0) return;
  scratch<cuda_exec> local(e);
  kernel::slot_sort s{index.data(), slot_blocks(slots, sources, Tune.per_block), sources, experts,
                      rows,         int(std::max<extent_t>(1, cols_of(index))),  nullptr};
  s.part = local.template take<std::int32_t>(experts, s.columns()).data();
  const dim3 blocks(blocks_for(op, s.columns(), 1));
  int bits = 0;
  while ((extent_t{1} << bits) < experts) ++bits;
  const std::size_t shared = std::size_t(experts) * sizeof(std::int32_t);
  launch(e, op, kernel::count_slots<Tune.threads>, blocks, Tune.threads, shared, s, slot_of_row.data(), extent_t(slot_of_row.size()),
         e.context->faults.device());
  launch(e, op, kernel::scan_slots<Tune.scan_threads>, dim3(1), Tune.scan_threads, 0, s, counts.data());
  launch(e, op, kernel::place_slots<Tune.threads>, blocks, Tune.threads, shared * (Tune.threads / warp_lanes), s, bits, row_of_slot.data(),
         slot_of_row.data(), e.context->faults.device());
}

}  // namespace detail

/// Three launches. Returns nothing: the number of rows is the sum of counts, on the device.
template <permutation_tuning Tune = permutation_tuning{}>
void build_permutation(cuda_exec e, view<const std::int32_t> index, extent_t experts, std::span<std::int64_t> counts,
                       view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  detail::require_permutation(index, experts, counts, row_of_slot, slot_of_row);
  detail::sort_slots<Tune>(e, "build_permutation", index, experts, 1, -1, counts, row_of_slot, slot_of_row);
}

/// Three launches. A slot beyond the rows of its expert and source is complained of, and dropped.
template <permutation_tuning Tune = permutation_tuning{}>
void build_padded_permutation(cuda_exec e, view<const std::int32_t> index, extent_t experts, extent_t sources, extent_t rows,
                              std::span<std::int64_t> counts, view<std::int32_t> row_of_slot, view<std::int32_t> slot_of_row) {
  detail::require_padded_permutation(index, experts, sources, rows, counts, row_of_slot, slot_of_row);
  detail::sort_slots<Tune>(e, "build_padded_permutation", index, experts, sources, rows, counts, row_of_slot, slot_of_row);
}

/// With row_of_slot a token is read once and written to the rows of its slots; without it every row reads its token.
template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void permute_rows(cuda_exec e, input<T> x, std::span<const std::int32_t> slot_of_row, extent_t k, view<T> out,
                  view<const std::int32_t> row_of_slot = {}) {
  const detail::row_list from(x), to(out);
  const extent_t width = from.width;
  require(k >= 1, "moefold: permute_rows needs k of at least 1, given ", k);
  detail::require_rows("permute_rows", "out", to, extent_t(slot_of_row.size()), width);
  detail::require_inverse("permute_rows", row_of_slot, from.rows, k);
  const strided_rows<const T> in{x.data(), width};
  const strided_rows<T> rows{out.data(), width};
  detail::spread<T, Tune>(e, "permute_rows", in, from.rows, nullptr, slot_of_row, row_of_slot, k, rows, width);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void combine_rows(cuda_exec e, input<T> rows, view<const std::int32_t> row_of_slot, view<T> y) {
  const detail::row_list from(rows), to(y);
  require_matrix("combine_rows", "row_of_slot", row_of_slot, to.rows, cols_of(row_of_slot));
  require(from.width == to.width, "moefold: combine_rows needs rows of ", to.width, " elements, given ", from.width);
  detail::combine<T, Tune>(e, "combine_rows", {rows.data(), from.width}, from.rows, row_of_slot, {y.data(), to.width}, to.width, {});
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void gather_rows(cuda_exec e, input<T> in, std::span<const std::int32_t> row, view<T> out) {
  const detail::row_list from(in), to(out);
  detail::require_rows("gather_rows", "out", to, extent_t(row.size()), from.width);
  detail::gather<T, Tune>(e, "gather_rows", {in.data(), from.width}, row, 1, from.rows, false, {out.data(), from.width}, from.width);
}

template <class T, row_copy_tuning Tune = row_copy_tuning{}>
void scatter_rows(cuda_exec e, input<T> in, std::span<const std::int32_t> row, view<T> out) {
  const detail::row_list from(in), to(out);
  detail::require_rows("scatter_rows", "in", from, extent_t(row.size()), to.width);
  detail::scatter<T, Tune>(e, "scatter_rows", {in.data(), to.width}, from.rows, row.data(), to.rows, {out.data(), to.width}, to.width);
}

}  // namespace moefold
