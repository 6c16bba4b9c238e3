#pragma once
// Kernels that move rows: the CUDA side of ops/permute, ops/weighted_rows and ops/choice_rows. Bound by memory; a thread has `each` packs of a row in
// flight, so that eight rows of 4 KiB are under way in a block.
//
//   spread_rows   a token is read once and written to the rows of its slots        combine_rows   the rows of a token's slots are added in slot order
//   gather_rows   to row r from the row that r names, zeros for a filler           scatter_rows   from row r to the row that r names
// A weight beside a row is a number of its own on one side and wide_lanes<T> elements behind the row on the other.
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/row_copy.hpp>
#include <moefold/ops/row_tiles.hpp>

namespace moefold {

struct row_copy_tuning {
  int threads = 256;  // more spill on sm_90 where k rows are added
  int each = 8;       // packs of one thread: 4 KiB of a row for a warp
};

/// Rows of `units` packs that begin every `stride` elements.
template <class T>
struct strided_rows {
  T* data;
  std::int64_t stride;
};

/// Lanes that rows of `width` elements can be moved in: the first of 16 bytes, 4 bytes and one element that fits all widths, strides and addresses.
struct row_lanes {
  std::uintptr_t bits = 0;
  template <class T>
  constexpr void add(extent_t elements) {
    bits |= std::uintptr_t(elements) * sizeof(T);
  }
  template <class T>
  void add(strided_rows<T> rows) {
    bits |= reinterpret_cast<std::uintptr_t>(rows.data);
    add<T>(rows.stride);
  }
  /// f(std::integral_constant<int, lanes>)
  template <class T, class F>
  void choose(F f) const {
    if (bits % 16 == 0) return f(std::integral_constant<int, whole_pack<T>>{});
    if constexpr (sizeof(T) < 4)
      if (bits % 4 == 0) return f(std::integral_constant<int, int(4 / sizeof(T))>{});
    f(std::integral_constant<int, 1>{});
  }
};

namespace kernel {

inline constexpr int in_flight = 4;  // loads of a thread that do not wait for each other

/// copy(first .. last in steps of step): all loads of a group before its stores.
template <int Lanes, class T, class Store>
__device__ inline void load_units(const T* from, row_tiles::place p, int step, Store store) {
  for (std::int64_t u = p.first; u < p.last; u += step * in_flight) {
    pack<T, Lanes> held[in_flight];
#pragma unroll
    for (int i = 0; i < in_flight; ++i)
      if (u + i * step < p.last) held[i] = load_pack<Lanes>(from + (u + i * step) * Lanes);
#pragma unroll
    for (int i = 0; i < in_flight; ++i)
      if (u + i * step < p.last) store((u + i * step) * Lanes, held[i]);
  }
}
template <int Lanes, class T>
__device__ inline void zero_units(T* to, row_tiles::place p, int step) {
  for (std::int64_t u = p.first; u < p.last; u += step) store_pack(to + u * Lanes, pack<T, Lanes>{});
}

/// Blocks below `token_blocks` in x move tokens; those after it look at 256 rows each and fill those without a slot with zeros, weight included.
template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 3)
    spread_rows(row_tiles tiles, unsigned token_blocks, strided_rows<const T> x, const accumulate_t<T>* __restrict__ weight,
                const std::int32_t* __restrict__ row_of_slot, const std::int32_t* __restrict__ slot_of_row, int k, strided_rows<T> out,
                extent_t width, extent_t rows, device_fault* faults) {
  if (blockIdx.x < token_blocks) {
    const row_tiles::place p = tiles.at(blockIdx.x, blockIdx.y, int(threadIdx.x), Threads);
    if (p.row >= tiles.rows) return;
    const std::int32_t* const row = row_of_slot + p.row * k;
    load_units<Lanes>(x.data + p.row * x.stride, p, tiles.lanes(), [&](std::int64_t c, const pack<T, Lanes>& value) {
      for (int j = 0; j < k; ++j) {
        const std::int32_t r = row[j];
        if (r >= 0 && r < rows) store_whole(out.data + r * out.stride + c, value);
      }
    });
    if (p.first != 0) return;  // one thread of a token
    for (int j = 0; j < k; ++j) {
      const std::int32_t r = row[j];
      if (r >= rows) report(faults, fault_kind::row, p.row, r, rows);
      if (weight != nullptr && r >= 0 && r < rows) put_wide<T>(weight[p.row * k + j], out.data + r * out.stride + width);
    }
    return;
  }
  if (blockIdx.y != 0) return;
  const int lane = int(threadIdx.x) % warp_lanes;
  const extent_t begin = extent_t(blockIdx.x - token_blocks) * Threads + extent_t(threadIdx.x) / warp_lanes * warp_lanes;
  unsigned fillers = __ballot_sync(whole_warp, begin + lane < rows && slot_of_row[begin + lane] < 0);
  const extent_t all = weight == nullptr ? width : width + wide_lanes<T>;
  for (; fillers != 0; fillers &= fillers - 1) {
    T* const to = out.data + (begin + __ffs(int(fillers)) - 1) * out.stride;
    for (extent_t c = lane; c < all; c += warp_lanes) to[c] = T(0);
  }
}

/// to[r] = from[index[r] / k]. weight_in: [index], written behind the row. weight_out: [r], read from behind the row at `weight_place` + index % k numbers.
template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 3)
    gather_rows(row_tiles tiles, strided_rows<const T> from, const std::int32_t* __restrict__ index, int k, extent_t limit, bool fillers,
                strided_rows<T> to, extent_t width, const accumulate_t<T>* weight_in, accumulate_t<T>* weight_out, extent_t weight_place,
                device_fault* faults) {
  using A = accumulate_t<T>;
  const row_tiles::place p = tiles.at(blockIdx.x, blockIdx.y, int(threadIdx.x), Threads);
  if (p.row >= tiles.rows) return;
  std::int32_t source = index[p.row];
  if (source >= limit || (source < 0 && !(fillers && source == -1))) {
    if (p.first == 0) report(faults, fillers ? fault_kind::slot : fault_kind::row, p.row, source, limit);
    source = -1;
  }
  T* const out = to.data + p.row * to.stride;
  if (source < 0) {
    zero_units<Lanes>(out, p, tiles.lanes());
    if (p.first == 0 && weight_in != nullptr) put_wide<T>(A(0), out + width);
    if (p.first == 0 && weight_out != nullptr) weight_out[p.row] = A(0);
    return;
  }
  const T* const in = from.data + source / k * from.stride;
  load_units<Lanes>(in, p, tiles.lanes(), [&](std::int64_t c, const pack<T, Lanes>& value) { store_pack(out + c, value); });
  if (p.first == 0 && weight_in != nullptr) put_wide<T>(weight_in[source], out + width);
  if (p.first == 0 && weight_out != nullptr) weight_out[p.row] = get_wide(in + width + (weight_place + source % k) * wide_lanes<T>);
}

/// to[index[r]] = from[r], weight_in [r] behind it. index may be null: r itself.
template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 3)
    scatter_rows(row_tiles tiles, strided_rows<const T> from, const std::int32_t* __restrict__ index, extent_t limit, strided_rows<T> to,
                 extent_t width, const accumulate_t<T>* weight_in, device_fault* faults) {
  const row_tiles::place p = tiles.at(blockIdx.x, blockIdx.y, int(threadIdx.x), Threads);
  if (p.row >= tiles.rows) return;
  const extent_t r = index == nullptr ? p.row : index[p.row];
  if (r < 0 || r >= limit) {
    if (p.first == 0) report(faults, fault_kind::row, p.row, r, limit);
    return;
  }
  T* const out = to.data + r * to.stride;
  load_units<Lanes>(from.data + p.row * from.stride, p, tiles.lanes(),
                    [&](std::int64_t c, const pack<T, Lanes>& value) { store_pack(out + c, value); });
  if (p.first == 0 && weight_in != nullptr) put_wide<T>(weight_in[p.row], out + width);
}

/// Where a token's k weights come from and go to: by row, or behind the row where `in` is null.
template <class A>
struct slot_weights {
  const A* in = nullptr;
  A* out = nullptr;  // null: no weights
  std::int64_t stride = 0;
};

/// y[t] = sum over j in order of rows[row_of_slot[t, j]], in accumulate_t.
template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads, 3)
    combine_rows(row_tiles tiles, strided_rows<const T> rows, const std::int32_t* __restrict__ row_of_slot, int k, extent_t limit,
                 strided_rows<T> y, extent_t width, slot_weights<accumulate_t<T>> weight, device_fault* faults) {
  using A = accumulate_t<T>;
  const row_tiles::place p = tiles.at(blockIdx.x, blockIdx.y, int(threadIdx.x), Threads);
  if (p.row >= tiles.rows) return;
  const std::int32_t* const row = row_of_slot + p.row * k;
  for (std::int64_t u = p.first; u < p.last; u += tiles.lanes()) {
    A sum[Lanes] = {};
    for (int j = 0; j < k; j += in_flight) {
      std::int32_t r[in_flight];
      pack<T, Lanes> held[in_flight];
#pragma unroll
      for (int i = 0; i < in_flight; ++i) {
        r[i] = j + i < k ? row[j + i] : -1;
        if (r[i] >= limit) r[i] = -1;
        if (r[i] >= 0) held[i] = load_pack<Lanes>(rows.data + r[i] * rows.stride + u * Lanes);
      }
#pragma unroll
      for (int i = 0; i < in_flight; ++i)
        if (r[i] >= 0)
#pragma unroll
          for (int l = 0; l < Lanes; ++l) sum[l] += A(held[i].lane[l]);
    }
    pack<T, Lanes> out;
#pragma unroll
    for (int l = 0; l < Lanes; ++l) out.lane[l] = T(sum[l]);
    store_pack(y.data + p.row * y.stride + u * Lanes, out);
  }
  if (p.first != 0) return;  // one thread of a token
  for (int j = 0; j < k; ++j) {
    const std::int32_t r = row[j];
    if (r >= limit) report(faults, fault_kind::row, p.row, r, limit);
    if (weight.out == nullptr) continue;
    A value = A(0);
    if (r >= 0 && r < limit) value = weight.in != nullptr ? weight.in[r] : get_wide(rows.data + r * rows.stride + width);
    weight.out[p.row * weight.stride + j] = value;
  }
}

}  // namespace kernel

namespace detail {

/// launch_rows<T>(e, op, rows, width, {what is moved}, [&](auto lanes, row_tiles tiles, dim3 blocks) { .. }): in the widest packs that fit.
template <class T, row_copy_tuning Tune, class F>
void with_row_tiles(const char* op, extent_t rows, extent_t width, row_lanes lanes, F f) {
  lanes.add<T>(width);
  lanes.choose<T>([&](auto n) {
    const row_tiles tiles(rows, width / n, Tune.each);
    const extent_t chunks = std::max<extent_t>(1, tiles.chunks());
    require(chunks <= 65535, "moefold: ", op, " moves rows of up to ", 65535 * extent_t(n) * Tune.each * warp_lanes, " elements, given ",
            width);
    f(n, tiles, dim3(blocks_for(op, rows, tiles.rows_per_block(Tune.threads)), unsigned(chunks)));
  });
}

/// Lanes of all the rows that an operation moves.
template <class... Rows>
row_lanes lanes_of(Rows... rows) {
  row_lanes lanes;
  (lanes.add(rows), ...);
  return lanes;
}

/// to[r] = from[index[r] / k] for r below index.size(); `limit` is beyond the largest index.
template <class T, row_copy_tuning Tune>
void gather(cuda_exec e, const char* op, strided_rows<const T> from, std::span<const std::int32_t> index, extent_t k, extent_t limit,
            bool fillers, strided_rows<T> to, extent_t width, const accumulate_t<T>* weight_in = nullptr,
            accumulate_t<T>* weight_out = nullptr, extent_t weight_place = 0) {
  with_row_tiles<T, Tune>(op, extent_t(index.size()), width, lanes_of(from, to), [&](auto lanes, row_tiles tiles, dim3 blocks) {
    launch(e, op, kernel::gather_rows<T, lanes(), Tune.threads>, blocks, Tune.threads, 0, tiles, from, index.data(), int(k), limit, fillers,
           to, width, weight_in, weight_out, weight_place, e.context->faults.device());
  });
}

/// to[index[r]] = from[r] for r below rows; a null index is r itself.
template <class T, row_copy_tuning Tune>
void scatter(cuda_exec e, const char* op, strided_rows<const T> from, extent_t rows, const std::int32_t* index, extent_t limit,
             strided_rows<T> to, extent_t width, const accumulate_t<T>* weight_in = nullptr) {
  with_row_tiles<T, Tune>(op, rows, width, lanes_of(from, to), [&](auto lanes, row_tiles tiles, dim3 blocks) {
    launch(e, op, kernel::scatter_rows<T, lanes(), Tune.threads>, blocks, Tune.threads, 0, tiles, from, index, limit, to, width, weight_in,
           e.context->faults.device());
  });
}

/// The row of every slot gets the slot's token, and weight [n, k] behind it; the others zeros.
template <class T, row_copy_tuning Tune>
void spread(cuda_exec e, const char* op, strided_rows<const T> x, extent_t tokens, const accumulate_t<T>* weight,
            std::span<const std::int32_t> slot_of_row, view<const std::int32_t> row_of_slot, extent_t k, strided_rows<T> out,
            extent_t width) {
  const extent_t rows = extent_t(slot_of_row.size());
  if (row_of_slot.empty()) return gather<T, Tune>(e, op, x, slot_of_row, k, tokens * k, true, out, width, weight);
  if (rows == 0) return;
  with_row_tiles<T, Tune>(op, tokens, width, lanes_of(x, out), [&](auto lanes, row_tiles tiles, dim3 blocks) {
    const unsigned token_blocks = blocks.x;
    blocks.x += blocks_for(op, rows, Tune.threads);
    launch(e, op, kernel::spread_rows<T, lanes(), Tune.threads>, blocks, Tune.threads, 0, tiles, token_blocks, x, weight,
           row_of_slot.data(), slot_of_row.data(), int(k), out, width, rows, e.context->faults.device());
  });
}

template <class T, row_copy_tuning Tune>
void combine(cuda_exec e, const char* op, strided_rows<const T> rows, extent_t limit, view<const std::int32_t> row_of_slot,
             strided_rows<T> y, extent_t width, kernel::slot_weights<accumulate_t<T>> weight) {
  with_row_tiles<T, Tune>(op, rows_of(row_of_slot), width, lanes_of(rows, y), [&](auto lanes, row_tiles tiles, dim3 blocks) {
    launch(e, op, kernel::combine_rows<T, lanes(), Tune.threads>, blocks, Tune.threads, 0, tiles, rows, row_of_slot.data(),
           int(cols_of(row_of_slot)), limit, y, width, weight, e.context->faults.device());
  });
}

}  // namespace detail

}  // namespace moefold
