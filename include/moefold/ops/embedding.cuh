#pragma once
// The CUDA twin of ops/embedding.hpp: ids lie on the device. Backward adds the gradients of a row in token order, without atomics: ids are sorted first,
// each finding its place by comparison with all others, then one block per row of the table and part of its columns adds what belongs to it.
//
//   ids     7 2 7 9 2      place of i = ids before it, by (id, i)     order   1 4 | 0 2 | 3      sorted   2 2 | 7 7 | 9
//   cost: n^2 comparisons (n = 8192: some 10 us; n = 65536: under 1 ms), then n H elements read once. A token that fills the batch is added by one row of
//   blocks alone, a few tokens at a time.
#include <moefold/ops/embedding.hpp>
#include <moefold/ops/rows.cuh>

namespace moefold {

/// Whether token j with its id stands before token i, when tokens are sorted by id and then by place.
MOEFOLD_HD constexpr bool id_before(std::int32_t id_j, int j, std::int32_t id_i, int i) { return id_j < id_i || (id_j == id_i && j < i); }

namespace kernel {

template <class T, int Lanes, int Group, int Threads>
__global__ void __launch_bounds__(Threads)
    embedding_forward(const T* __restrict__ table, std::int64_t rows, const std::int32_t* __restrict__ ids, std::int64_t count,
                      std::int64_t first_row, T* __restrict__ out, int width) {
  const std::int64_t token = row_of_group<Threads, Group>();
  if (token >= count) return;
  const std::int64_t row = ids[token] - first_row;
  const bool here = row >= 0 && row < rows;
  each_pack<Lanes, Group, 0>(width, [&](int c, int) {
    pack<T, Lanes> value{};
    if (here) value = load_pack<Lanes>(table + row * width + c);
    store_pack(out + token * width + c, value);
  });
}

/// A lane has a token, each warp of the block compares it with a part of all.
template <int Lanes, int Threads>
__global__ void __launch_bounds__(Threads)
    sort_ids(const std::int32_t* __restrict__ ids, int count, std::int32_t* __restrict__ order, std::int32_t* __restrict__ sorted) {
  constexpr int warps = Threads / warp_lanes;
  const int lane = int(threadIdx.x) % warp_lanes, warp = int(threadIdx.x) / warp_lanes;
  const int i = int(blockIdx.x) * warp_lanes + lane;
  const std::int32_t own = i < count ? ids[i] : 0;
  int before = 0;
  for (std::int64_t j = std::int64_t(warp) * Lanes; j < count; j += warps * Lanes) {
    if (j + Lanes <= count) {
      const pack<std::int32_t, Lanes> others = load_pack<Lanes>(ids + j);
      for (int l = 0; l < Lanes; ++l) before += id_before(others.lane[l], int(j) + l, own, i);
    } else {
      for (int l = 0; j + l < count; ++l) before += id_before(ids[j + l], int(j) + l, own, i);
    }
  }
  __shared__ int of_warp[warps][warp_lanes];
  of_warp[warp][lane] = before;
  __syncthreads();
  if (warp != 0 || i >= count) return;
  before = 0;
  for (int w = 0; w < warps; ++w) before += of_warp[w][lane];
  order[before] = i;
  sorted[before] = own;
}

/// Block x adds the rows of the tokens with one id, if its place in the order is the first of them; y: its columns.
template <class T, class G, int Lanes, int Threads, int AtOnce>
__global__ void __launch_bounds__(Threads)
    embedding_backward(const T* __restrict__ dout, const std::int32_t* __restrict__ order, const std::int32_t* __restrict__ sorted,
                       int count, std::int64_t first_row, std::int64_t rows, G* __restrict__ dtable, int width) {
  using A = accumulate_t<T>;
  const int place = int(blockIdx.x);
  const std::int32_t id = sorted[place];
  const std::int64_t row = id - first_row;
  if (row < 0 || row >= rows || (place > 0 && sorted[place - 1] == id)) return;
  for (std::int64_t c = (std::int64_t(blockIdx.y) * Threads + int(threadIdx.x)) * Lanes; c < width;
       c += std::int64_t(gridDim.y) * Threads * Lanes) {
    pack<G, Lanes> to = load_pack<Lanes>(dtable + row * width + c);
    A sum[Lanes];
    for (int l = 0; l < Lanes; ++l) sum[l] = A(to.lane[l]);
    for (int at = place; at < count && sorted[at] == id; at += AtOnce) {
      pack<T, Lanes> term[AtOnce];
      bool has[AtOnce];
#pragma unroll
      for (int m = 0; m < AtOnce; ++m) {
        has[m] = m < count - at && sorted[at + m] == id;
        if (has[m]) term[m] = load_pack<Lanes>(dout + std::int64_t(order[at + m]) * width + c);
      }
#pragma unroll
      for (int m = 0; m < AtOnce; ++m)
        if (has[m])
          for (int l = 0; l < Lanes; ++l) sum[l] += A(term[m].lane[l]);
      if (count - at <= AtOnce) break;  // at + AtOnce may be past the largest int
    }
    for (int l = 0; l < Lanes; ++l) to.lane[l] = G(sum[l]);
    store_pack(dtable + row * width + c, to);
  }
}

}  // namespace kernel

template <row_tuning Tune = row_tuning{}, class T>
void embedding_forward(cuda_exec e, input<T> table, std::span<const std::int32_t> ids, std::int64_t first_row, view<T> out) {
  const extent_t rows = rows_of(table), width = cols_of(table), count = extent_t(ids.size());
  require_matrix("embedding_forward", "out", out, count, width);
  detail::require_width("embedding_forward", width);
  detail::by_row<Tune, T>(width, packs(width, table.data(), out.data()), [&](auto lanes, auto group) {
    launch(e, "embedding_forward", kernel::embedding_forward<T, lanes, group, Tune.threads>,
           {detail::row_blocks("embedding_forward", count, Tune.threads, group)}, Tune.threads, 0, table.data(), rows, ids.data(), count,
           first_row, out.data(), width);
  });
}

struct embedding_tuning {
  int threads = 128;
  int at_once = 4;  // rows whose loads are in flight together
};

template <embedding_tuning Tune = embedding_tuning{}, class T, class G>
void embedding_backward(cuda_exec e, view<T> dout, std::span<const std::int32_t> ids, std::int64_t first_row, view<G> dtable) {
  using V = std::remove_const_t<T>;
  const extent_t rows = rows_of(dtable), width = cols_of(dtable), count = extent_t(ids.size());
  require_matrix("embedding_backward", "dout", dout, count, width);
  detail::require_width("embedding_backward", width);
  const unsigned blocks = blocks_for("embedding_backward", count, 1);
  if (dout.empty()) return;
  scratch<cuda_exec> local(e);
  std::int32_t* const order = local.take<std::int32_t>(count).data();
  std::int32_t* const sorted = local.take<std::int32_t>(count).data();
  const auto sort = [&](auto lanes) {
    launch(e, "embedding_backward: sort", kernel::sort_ids<lanes, 256>, {blocks_for("embedding_backward", count, warp_lanes)}, 256, 0,
           ids.data(), count, order, sorted);
  };
  const auto add = [&](auto lanes) {
    const extent_t parts = (width + lanes * Tune.threads - 1) / (lanes * Tune.threads);
    launch(e, "embedding_backward", kernel::embedding_backward<V, G, lanes, Tune.threads, Tune.at_once>,
           {blocks, unsigned(std::min<extent_t>(parts, 65535))}, Tune.threads, 0, dout.data(), order, sorted, count, first_row, rows,
           dtable.data(), width);
  };
  constexpr int lanes = std::min(whole_pack<V>, whole_pack<G>);
  packs(0, ids.data()) ? sort(detail::constant<4>{}) : sort(detail::constant<1>{});
  width % lanes == 0 && packs(0, dout.data(), dtable.data()) ? add(detail::constant<lanes>{}) : add(detail::constant<1>{});
}

}  // namespace moefold
