#pragma once
// Causal grouped-query attention in blocks, by true positions: a query sees the keys whose position is not after its own, wherever context
// parallelism has put them. The scores of one block exist at a time, so memory grows with S, not S^2; the log-sum-exp of every query comes
// out, so that partial results over disjoint sets of keys merge exactly.
//
//   q, out [Sq, B, Hq, d]    k, v [Sk, B, Hk, d]    Hq % Hk == 0: query head h reads key head h / (Hq / Hk)
//   q_position [Sq]  k_position [Sk]                key j is visible to query i  iff  k_position[j] <= q_position[i]
//   lse [B, Hq, Sq]                                 log of the sum over visible keys of exp(q k / sqrt(d)); none visible: -inf, out 0
//
//   key blocks ->    queries of one key head are packed as rows (position, head in its group), scaled by 1/sqrt(d):
//   q  [##.....]     #  every pair visible: no mask
//   |  [.\\....]     \  some pairs visible: masked element by element
//   v  [...     ]       (blank) none visible: skipped
//
// Source: Dao et al. 2022, "FlashAttention", arXiv 2205.14135; Milakov and Gimelshein 2018, arXiv 1805.02867 (the running sum).
#include <moefold/ops/exp.hpp>
#include <moefold/ops/gemm.hpp>

#include <algorithm>

namespace moefold {

namespace detail {

/// Extents, strides and block sizes of one attention call.
template <class T>
struct flash_plan {
  extent_t sq, sk, batch, q_heads, k_heads, d, group;  // group: query heads per key head
  extent_t q_stride, k_stride;                         // elements from one position to the next
  extent_t q_block, k_block;                           // positions per block
  std::span<const std::int32_t> q_position, k_position;
  T scale;

  flash_plan(const char* op, view<const T> q, view<const T> k, view<const T> v, std::span<const std::int32_t> q_at,
             std::span<const std::int32_t> k_at)
      : q_position(q_at), k_position(k_at) {
    require(q.rank() == 4 && k.rank() == 4 && v.shape() == k.shape(), "moefold: ", op,
            " needs q [Sq, B, Hq, d] and k, v [Sk, B, Hk, d]");
    sq = q.extent(0), sk = k.extent(0), batch = q.extent(1), q_heads = q.extent(2), k_heads = k.extent(2), d = q.extent(3);
    require(k.extent(1) == batch && k.extent(3) == d, "moefold: ", op, " needs the same batch and head_dim in q [.., ", batch, ", .., ", d,
            "] and k [.., ", k.extent(1), ", .., ", k.extent(3), "]");
    require(k_heads > 0 && q_heads % k_heads == 0, "moefold: ", op, " needs query heads in equal groups per key head, given ", q_heads,
            " and ", k_heads);
    require_count(op, "q_position", q_at.size(), sq);
    require_count(op, "k_position", k_at.size(), sk);
    group = q_heads / k_heads, q_stride = batch * q_heads * d, k_stride = batch * k_heads * d;
    q_block = std::max(extent_t(1), 64 / group), k_block = 64;
    scale = T(1 / std::sqrt(double(d)));
  }

  extent_t rows(extent_t i0) const { return std::min(q_block, sq - i0) * group; }
  extent_t keys(extent_t j0) const { return std::min(k_block, sk - j0); }

  enum class seen { none, some, all };
  seen visible(extent_t i0, extent_t j0) const {
    const auto [q_low, q_high] = std::ranges::minmax(q_position.subspan(std::size_t(i0), std::size_t(std::min(q_block, sq - i0))));
    const auto [k_low, k_high] = std::ranges::minmax(k_position.subspan(std::size_t(j0), std::size_t(keys(j0))));
    return k_low > q_high ? seen::none : k_high <= q_low ? seen::all : seen::some;
  }
  /// score [rows, keys]: what a query may not see becomes -inf.
  void mask(extent_t i0, extent_t j0, T* score) const {
    const extent_t n = keys(j0);
    const std::int32_t* const at = k_position.data() + j0;
    for (extent_t r = 0; r < rows(i0); ++r) {
      const std::int32_t own = q_position[std::size_t(i0 + r / group)];
      T* const row = score + r * n;
      for (extent_t j = 0; j < n; ++j) row[j] = at[j] <= own ? row[j] : -std::numeric_limits<T>::infinity();
    }
  }

  extent_t q_offset(extent_t i, extent_t b, extent_t head) const { return i * q_stride + (b * q_heads + head) * d; }
  extent_t k_offset(extent_t j, extent_t b, extent_t head) const { return j * k_stride + (b * k_heads + head) * d; }
  /// packed [count * group, d] = factor * the rows of `in` that belong to (b, key head).
  void pack(const T* in, extent_t b, extent_t head, extent_t i0, extent_t count, T factor, T* packed) const {
    for (extent_t i = 0; i < count; ++i) {
      const T* const from = in + q_offset(i0 + i, b, head * group);
      for (extent_t c = 0; c < group * d; ++c) packed[i * group * d + c] = factor * from[c];
    }
  }
  /// lse of packed row r of (b, key head).
  extent_t lse_at(extent_t r, extent_t b, extent_t head) const { return (b * q_heads + head * group + r % group) * sq + r / group; }
};

}  // namespace detail

/// Assigns out and lse. Local; O(Sq Sk d / 2) for causal positions; scratch O(block).
template <class T>
void flash_forward(host_exec e, input<T> q, input<T> k, input<T> v, std::span<const std::int32_t> q_position,
                   std::span<const std::int32_t> k_position, view<T> out, view<accumulate_t<T>> lse) {
  using plan = detail::flash_plan<T>;
  const plan p("flash_forward", q, k, v, q_position, k_position);
  require(out.shape() == q.shape(), "moefold: flash_forward needs out of the shape of q");
  require_matrix("flash_forward", "lse", lse, p.batch * p.q_heads, p.sq);
  constexpr T none = -std::numeric_limits<T>::infinity();
  const extent_t d = p.d, most = p.q_block * p.group;

  scratch<host_exec> local(e);
  T* const packed = local.take<T>(most, d).data();
  T* const sum = local.take<T>(most, d).data();  // of exp(score - top) v
  T* const score = local.take<T>(most, p.k_block).data();
  T* const top = local.take<T>(most).data();
  T* const weight = local.take<T>(most).data();  // sum of exp(score - top)
  for (extent_t b = 0; b < p.batch; ++b)
    for (extent_t head = 0; head < p.k_heads; ++head)
      for (extent_t i0 = 0; i0 < p.sq; i0 += p.q_block) {
        const extent_t rows = p.rows(i0);
        p.pack(q.data(), b, head, i0, rows / p.group, p.scale, packed);
        std::fill_n(sum, rows * d, T(0)), std::fill_n(top, rows, none), std::fill_n(weight, rows, T(0));
        for (extent_t j0 = 0; j0 < p.sk; j0 += p.k_block) {
          const auto seen = p.visible(i0, j0);
          if (seen == plan::seen::none) continue;
          const extent_t n = p.keys(j0);
          gemm_strided(e, false, true, rows, n, d, T(1), packed, d, k.data() + p.k_offset(j0, b, head), p.k_stride, T(0), score, n);
          if (seen == plan::seen::some) p.mask(i0, j0, score);
          for (extent_t r = 0; r < rows; ++r) {
            T* const s = score + r * n;
            const T high = std::max(top[r], lane_max<T>(n, [=](extent_t j) { return s[j]; }));
            const T shift = high == none ? T(0) : high;
            for (extent_t j = 0; j < n; ++j) s[j] = exp_of(s[j] - shift);
            const T shrink = exp_of(top[r] - shift);
            weight[r] = weight[r] * shrink + lane_sum<T>(n, [=](extent_t j) { return s[j]; });
            top[r] = high;
            for (extent_t c = 0; c < d; ++c) sum[r * d + c] *= shrink;
          }
          gemm_strided(e, false, false, rows, d, n, T(1), score, n, v.data() + p.k_offset(j0, b, head), p.k_stride, T(1), sum, d);
        }
        for (extent_t r = 0; r < rows; ++r) {
          const T inverse = weight[r] > T(0) ? T(1) / weight[r] : T(0);
          T* const to = out.data() + p.q_offset(i0 + r / p.group, b, head * p.group + r % p.group);
          for (extent_t c = 0; c < d; ++c) to[c] = sum[r * d + c] * inverse;
          lse.data()[p.lse_at(i0 * p.group + r, b, head)] = weight[r] > T(0) ? top[r] + std::log(weight[r]) : none;
        }
      }
}

/// Assigns dq, dk and dv. Given out and lse of a merge over several sets of keys, a call with one set gives its dk, dv and its part of dq.
template <class T>
void flash_backward(host_exec e, input<T> dout, input<T> q, input<T> k, input<T> v, input<T> out, input<accumulate_t<T>> lse,
                    std::span<const std::int32_t> q_position, std::span<const std::int32_t> k_position, view<T> dq, output<T> dk,
                    output<T> dv) {
  using plan = detail::flash_plan<T>;
  const plan p("flash_backward", q, k, v, q_position, k_position);
  require(dout.shape() == q.shape() && out.shape() == q.shape() && dq.shape() == q.shape(),
          "moefold: flash_backward needs dout, out and dq of the shape of q");
  require(dk.shape() == k.shape() && dv.shape() == k.shape(), "moefold: flash_backward needs dk and dv of the shape of k");
  require_matrix("flash_backward", "lse", lse, p.batch * p.q_heads, p.sq);
  const extent_t d = p.d, all = p.sq * p.group, most = p.q_block * p.group;
  std::fill_n(dk.data(), dk.size(), T(0));
  std::fill_n(dv.data(), dv.size(), T(0));

  scratch<host_exec> local(e);  // packed: the rows of one key head, [Sq * group, d]
  T* const q_packed = local.take<T>(all, d).data();
  T* const dout_packed = local.take<T>(all, d).data();
  T* const dq_packed = local.take<T>(all, d).data();
  T* const row_lse = local.take<T>(all).data();
  T* const along = local.take<T>(all).data();  // sum of dout * out: the softmax's backward needs nothing else of a row
  T* const prob = local.take<T>(most, p.k_block).data();
  T* const dscore = local.take<T>(most, p.k_block).data();
  for (extent_t b = 0; b < p.batch; ++b)
    for (extent_t head = 0; head < p.k_heads; ++head) {
      p.pack(q.data(), b, head, 0, p.sq, p.scale, q_packed);
      p.pack(dout.data(), b, head, 0, p.sq, T(1), dout_packed);
      std::fill_n(dq_packed, all * d, T(0));
      for (extent_t r = 0; r < all; ++r) {
        const T* const y = out.data() + p.q_offset(r / p.group, b, head * p.group + r % p.group);
        const T* const dy = dout_packed + r * d;
        along[r] = lane_sum<T>(d, [=](extent_t c) { return y[c] * dy[c]; });
        const T own = lse.data()[p.lse_at(r, b, head)];
        row_lse[r] = own > -std::numeric_limits<T>::infinity() ? own : std::numeric_limits<T>::infinity();  // sees no key: exp gives 0
      }
      for (extent_t j0 = 0; j0 < p.sk; j0 += p.k_block) {
        const extent_t n = p.keys(j0), at = p.k_offset(j0, b, head);
        for (extent_t i0 = 0; i0 < p.sq; i0 += p.q_block) {
          const auto seen = p.visible(i0, j0);
          if (seen == plan::seen::none) continue;
          const extent_t rows = p.rows(i0), first = i0 * p.group;
          const T* const qb = q_packed + first * d;
          const T* const db = dout_packed + first * d;
          gemm_strided(e, false, true, rows, n, d, T(1), qb, d, k.data() + at, p.k_stride, T(0), prob, n);
          if (seen == plan::seen::some) p.mask(i0, j0, prob);
          gemm_strided(e, false, true, rows, n, d, T(1), db, d, v.data() + at, p.k_stride, T(0), dscore, n);
          for (extent_t r = 0; r < rows; ++r) {
            T* MOEFOLD_RESTRICT const pr = prob + r * n;
            T* MOEFOLD_RESTRICT const ds = dscore + r * n;
            const T shift = row_lse[first + r], mean = along[first + r];
            for (extent_t j = 0; j < n; ++j) {
              pr[j] = exp_of(pr[j] - shift);
              ds[j] = pr[j] * (ds[j] - mean);
            }
          }
          gemm_strided(e, true, false, n, d, rows, T(1), prob, n, db, d, T(1), dv.data() + at, p.k_stride);
          gemm_strided(e, true, false, n, d, rows, T(1), dscore, n, qb, d, T(1), dk.data() + at, p.k_stride);
          gemm_strided(e, false, false, rows, d, n, p.scale, dscore, n, k.data() + at, p.k_stride, T(1), dq_packed + first * d, d);
        }
      }
      for (extent_t i = 0; i < p.sq; ++i)
        std::copy_n(dq_packed + i * p.group * d, p.group * d, dq.data() + p.q_offset(i, b, head * p.group));
    }
}

/// Merges the result over one set of keys (b) into the result over another (a): afterwards a is the result over both.
template <class T>
void flash_merge(host_exec, view<T> out_a, view<accumulate_t<T>> lse_a, input<T> out_b, input<accumulate_t<T>> lse_b) {
  using A = accumulate_t<T>;
  require(out_a.rank() == 4 && out_a.shape() == out_b.shape(), "moefold: flash_merge needs two results [Sq, B, heads, d] of one shape");
  const extent_t sq = out_a.extent(0), lanes = out_a.extent(1) * out_a.extent(2), d = out_a.extent(3);
  require_matrix("flash_merge", "lse_a", lse_a, lanes, sq);
  require_matrix("flash_merge", "lse_b", lse_b, lanes, sq);
  for (extent_t i = 0; i < sq; ++i)
    for (extent_t h = 0; h < lanes; ++h) {
      A& a = lse_a.data()[h * sq + i];
      const A b = lse_b.data()[h * sq + i], top = std::max(a, b);
      if (!(top > -std::numeric_limits<A>::infinity())) continue;  // neither sees a key
      const A both = top + std::log(std::exp(a - top) + std::exp(b - top));
      const A keep = std::exp(a - both), join = std::exp(b - both);
      T* const x = out_a.data() + (i * lanes + h) * d;
      const T* const y = out_b.data() + (i * lanes + h) * d;
      for (extent_t c = 0; c < d; ++c) x[c] = T(keep * A(x[c]) + join * A(y[c]));
      a = both;
    }
}

}  // namespace moefold
