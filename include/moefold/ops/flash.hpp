#pragma once
// Causal grouped-query attention in blocks, by true positions: a query sees the keys whose position is not after its own, wherever context
// parallelism has put them. The scores of one block exist at a time, so memory grows with S, not S^2; the log-sum-exp of every query comes
// out, so that partial results over disjoint sets of keys merge exactly.
//
//   q, out [Sq, B, Hq, d]    k, v [Sk, B, Hk, d]    Hq % Hk == 0: query head h reads key head h / (Hq / Hk)
//   q_position [Sq]  k_position [Sk]                key j is visible to query i  iff  first[i] <= k_position[j] <= q_position[i]
//   first [Sq, B], or empty: 0 everywhere           where the query's document begins: packed documents need nothing of the keys but their positions
//   lse [B, Hq, Sq]                                 log of the sum over visible keys of exp(q k / sqrt(d)); none visible: -inf, out 0
//
//   key blocks ->    #  every pair visible: no mask            queries of one key head are packed as rows (position, head in its group)
//   q  [##.....]     \  some pairs visible: masked             and scaled by 1/sqrt(d); a block of scores is stored [keys, rows], so that
//   |  [#\.....]     .  none visible: skipped                  a query is a vector lane: its maximum and sum need no horizontal step
//   v  [##\....]
//
// Arithmetic is in accumulate_t<T>; a result is rounded once, or left in accumulate_t<T> for whoever merges it with others.
// Source: Dao et al. 2022, "FlashAttention", arXiv 2205.14135; Milakov and Gimelshein 2018, arXiv 1805.02867 (the running sum).
#include <moefold/ops/exp.hpp>
#include <moefold/ops/gemm.hpp>

#include <algorithm>

namespace moefold {

namespace detail {

/// Smallest and largest position of a block.
struct flash_range {
  std::int32_t low, high;
};
enum class flash_seen { none, some, all };

/// How many keys at positions `k` are visible to queries at positions `q` whose documents begin at `first`.
MOEFOLD_HD constexpr flash_seen flash_visible(flash_range q, flash_range k, flash_range first) {
  if (k.low > q.high || k.high < first.low) return flash_seen::none;
  return k.high <= q.low && k.low >= first.high ? flash_seen::all : flash_seen::some;
}
/// Where the documents begin if nothing says so.
inline constexpr flash_range flash_from_the_start{std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::min()};

/// Extents and offsets of one attention call, the same on host and device. A packed row is a query of one head: row r of key head h is
/// query head h * group + r % group at place r / group.
struct flash_shape {
  extent_t sq, sk, batch, q_heads, k_heads, d, group;  // group: query heads per key head
  extent_t q_stride, k_stride;                         // elements from one position to the next

  /// Throws unless the arguments fit each other. The number of documents' beginnings is sq * batch, or 0.
  flash_shape(const char* op, const shape& q, const shape& k, const shape& v, std::size_t q_positions, std::size_t k_positions,
              std::size_t firsts) {
    require(q.rank == 4 && k.rank == 4 && v == k, "moefold: ", op, " needs q [Sq, B, Hq, d] and k, v [Sk, B, Hk, d]");
    sq = q[0], sk = k[0], batch = q[1], q_heads = q[2], k_heads = k[2], d = q[3];
    require(k[1] == batch && k[3] == d, "moefold: ", op, " needs the same batch and head_dim in q [.., ", batch, ", .., ", d,
            "] and k [.., ", k[1], ", .., ", k[3], "]");
    require(k_heads > 0 && q_heads % k_heads == 0, "moefold: ", op, " needs query heads in equal groups per key head, given ", q_heads,
            " and ", k_heads);
    require_count(op, "q_position", q_positions, sq);
    require_count(op, "k_position", k_positions, sk);
    if (firsts > 0) require_count(op, "first", firsts, sq * batch);
    group = q_heads / k_heads, q_stride = q_heads * batch * d, k_stride = k_heads * batch * d;
  }

  struct place {
    extent_t block, head, b;
  };
  /// The work of block `index` of a launch with `blocks` blocks for each key head of each sequence. The last block comes first: under a causal mask it
  /// sees most keys, and what is long should not begin last.
  MOEFOLD_HD constexpr place place_of(unsigned index, unsigned blocks) const {
    const unsigned head = index / blocks, heads = unsigned(k_heads);
    return {blocks - 1 - index % blocks, head % heads, head / heads};
  }

  MOEFOLD_HD extent_t rows() const { return sq * group; }  // packed rows of one key head
  MOEFOLD_HD extent_t q_offset(extent_t i, extent_t b, extent_t head) const { return i * q_stride + (b * q_heads + head) * d; }
  MOEFOLD_HD extent_t k_offset(extent_t j, extent_t b, extent_t head) const { return j * k_stride + (b * k_heads + head) * d; }
  /// Integer: extent_t, or int where that is faster and wide enough.
  template <class Integer>
  MOEFOLD_HD extent_t row_offset(Integer r, extent_t b, extent_t head) const {
    const Integer i = r / Integer(group);
    return q_offset(i, b, head * group + (r - i * Integer(group)));
  }
  template <class Integer>
  MOEFOLD_HD extent_t lse_offset(Integer r, extent_t b, extent_t head) const {
    const Integer i = r / Integer(group);
    return (b * q_heads + head * group + (r - i * Integer(group))) * sq + i;
  }
};

/// Blocks of one attention call on the host; its tables live in the caller's scratch.
template <class T>
struct flash_plan : flash_shape {
  using A = accumulate_t<T>;
  static constexpr A none = -std::numeric_limits<A>::infinity();
  using seen = flash_seen;
  using range = flash_range;

  extent_t q_block, key_block;  // positions of a query block, keys of a key block
  A scale;
  const std::int32_t* k_position;
  std::span<const std::int32_t> first;  // [Sq, B] or empty
  std::int32_t* row_position;           // [Sq * group] of a packed row
  range *q_range, *k_range;             // per block
  range* first_range;                   // [B, query blocks], with `first`

  flash_plan(const char* op, view<const T> q, view<const T> k, view<const T> v, std::span<const std::int32_t> q_at,
             std::span<const std::int32_t> k_at, std::span<const std::int32_t> first_at, scratch<host_exec>& local)
      : flash_shape(op, q.shape(), k.shape(), v.shape(), q_at.size(), k_at.size(), first_at.size()), k_position(k_at.data()),
        first(first_at) {
    const bool lengthy = sk > 512;  // short sequences: small blocks waste less on the diagonal; long ones: larger products
    q_block = std::max(extent_t(1), (lengthy ? 128 : 64) / group), key_block = lengthy ? 64 : 32;
    scale = A(1 / std::sqrt(double(d)));
    row_position = local.take<std::int32_t>(rows()).data();
    for (extent_t r = 0; r < rows(); ++r) row_position[r] = q_at[std::size_t(r / group)];
    q_range = ranges(q_at, q_block, local), k_range = ranges(k_at, key_block, local);
    if (first.empty()) return;
    first_range = local.take<range>(batch, (sq + q_block - 1) / q_block).data();
    for (extent_t i = 0; i < sq; ++i)
      for (extent_t b = 0; b < batch; ++b) {
        range& r = first_range[first_block(i, b)];
        const std::int32_t own = first[std::size_t(i * batch + b)];
        r = i % q_block == 0 ? range{own, own} : range{std::min(r.low, own), std::max(r.high, own)};
      }
  }

  using flash_shape::rows;
  extent_t most_rows() const { return q_block * group; }
  extent_t rows(extent_t i0) const { return std::min(q_block, sq - i0) * group; }
  extent_t keys(extent_t j0) const { return std::min(key_block, sk - j0); }
  seen visible(extent_t i0, extent_t j0, extent_t b) const {
    return flash_visible(q_range[i0 / q_block], k_range[j0 / key_block],
                         first.empty() ? flash_from_the_start : first_range[first_block(i0, b)]);
  }
  /// score [keys, rows]: what a query may not see becomes -inf.
  void mask(extent_t i0, extent_t j0, extent_t b, A* score) const {
    const extent_t n = rows(i0);
    const std::int32_t* const own = row_position + i0 * group;
    for (extent_t j = 0; j < keys(j0); ++j)
      for (extent_t r = 0; r < n; ++r) score[j * n + r] = k_position[j0 + j] <= own[r] ? score[j * n + r] : none;
    if (first.empty()) return;
    for (extent_t r = 0; r < n; ++r) {
      const std::int32_t from = first[std::size_t((i0 + r / group) * batch + b)];
      for (extent_t j = 0; j < keys(j0); ++j) score[j * n + r] = k_position[j0 + j] >= from ? score[j * n + r] : none;
    }
  }
  /// The keys (or values) of block j0 for (b, key head) as numbers of A, and how far apart they stand: in place, or copied to `room`.
  const A* keys_of(const T* in, extent_t b, extent_t head, extent_t j0, A* room) const {
    const T* const from = in + k_offset(j0, b, head);
    if constexpr (std::is_same_v<T, A>) {
      return from;
    } else {
      for (extent_t j = 0; j < keys(j0); ++j)
        for (extent_t c = 0; c < d; ++c) room[j * d + c] = A(from[j * k_stride + c]);
      return room;
    }
  }
  extent_t key_stride() const { return std::is_same_v<T, A> ? k_stride : d; }

  /// The rows of block i0 that belong to (b, key head), times factor: transposed to [d, rows], and as [rows, d] unless that is null.
  void pack(const T* in, extent_t b, extent_t head, extent_t i0, A factor, A* across, A* along) const {
    const extent_t n = rows(i0);
    for (extent_t r = 0; r < n; ++r) {
      const T* const from = in + row_offset(i0 * group + r, b, head);
      for (extent_t c = 0; c < d; ++c) across[c * n + r] = factor * A(from[c]);
      if (along)
        for (extent_t c = 0; c < d; ++c) along[r * d + c] = factor * A(from[c]);
    }
  }

 private:
  std::size_t first_block(extent_t i, extent_t b) const { return std::size_t(b * ((sq + q_block - 1) / q_block) + i / q_block); }
  static range* ranges(std::span<const std::int32_t> at, extent_t block, scratch<host_exec>& local) {
    const extent_t n = extent_t(at.size());
    range* const out = local.take<range>((n + block - 1) / block).data();
    for (extent_t i = 0; i < n; i += block) {
      const auto [low, high] = std::minmax_element(at.begin() + i, at.begin() + std::min(n, i + block));
      out[i / block] = {*low, *high};
    }
    return out;
  }
};

}  // namespace detail

/// Assigns out and lse. Local; 4 d flops per visible pair; scratch O(block) + 4 bytes per packed row.
/// out may be of type T, or of accumulate_t<T>.
template <class T, class Out>
void flash_forward_to(host_exec e, view<const T> q, view<const T> k, view<const T> v, std::span<const std::int32_t> q_position,
                      std::span<const std::int32_t> k_position, std::span<const std::int32_t> first, view<Out> out,
                      view<accumulate_t<T>> lse) {
  using A = accumulate_t<T>;
  using plan = detail::flash_plan<T>;
  scratch<host_exec> local(e);
  const plan p("flash_forward", q, k, v, q_position, k_position, first, local);
  require(out.shape() == q.shape(), "moefold: flash_forward needs out of the shape of q");
  require_matrix("flash_forward", "lse", lse, p.batch * p.q_heads, p.sq);
  const extent_t d = p.d, most = p.most_rows();

  A* MOEFOLD_RESTRICT const packed = local.take<A>(d, most).data();
  A* MOEFOLD_RESTRICT const sum = local.take<A>(most, d).data();  // of exp(score - top) v
  A* MOEFOLD_RESTRICT const score = local.take<A>(p.key_block, most).data();
  A* MOEFOLD_RESTRICT const top = local.take<A>(most).data();
  A* MOEFOLD_RESTRICT const weight = local.take<A>(most).data();                    // sum of exp(score - top)
  A* MOEFOLD_RESTRICT const shift = local.take<A>(most).data();                     // top, or 0 while a query has seen nothing
  A* MOEFOLD_RESTRICT const shrink = local.take<A>(most).data();                    // what a higher top makes of the earlier sums
  A* const room = local.take<A>(std::is_same_v<T, A> ? 0 : p.key_block, d).data();  // of a block of keys or values in another type
  for (extent_t b = 0; b < p.batch; ++b)
    for (extent_t head = 0; head < p.k_heads; ++head)
      for (extent_t i0 = 0; i0 < p.sq; i0 += p.q_block) {
        const extent_t rows = p.rows(i0);
        p.pack(q.data(), b, head, i0, p.scale, packed, nullptr);
        std::fill_n(sum, rows * d, A(0)), std::fill_n(top, rows, plan::none), std::fill_n(weight, rows, A(0));
        for (extent_t j0 = 0; j0 < p.sk; j0 += p.key_block) {
          const auto seen = p.visible(i0, j0, b);
          if (seen == plan::seen::none) continue;
          const extent_t n = p.keys(j0);
          gemm_strided(e, false, false, n, rows, d, A(1), p.keys_of(k.data(), b, head, j0, room), p.key_stride(), packed, rows, A(0), score,
                       rows);
          if (seen == plan::seen::some) p.mask(i0, j0, b, score);
          std::copy_n(top, rows, shrink);
          for (extent_t j = 0; j < n; ++j)
            for (extent_t r = 0; r < rows; ++r) top[r] = top[r] < score[j * rows + r] ? score[j * rows + r] : top[r];
          for (extent_t r = 0; r < rows; ++r) {
            shift[r] = top[r] > plan::none ? top[r] : A(0);
            shrink[r] = exp_of(shrink[r] - shift[r]);
            weight[r] *= shrink[r];
          }
          for (extent_t j = 0; j < n; ++j)
            for (extent_t r = 0; r < rows; ++r) {
              const A s = exp_of(score[j * rows + r] - shift[r]);
              score[j * rows + r] = s;
              weight[r] += s;
            }
          for (extent_t r = 0; r < rows; ++r)
            for (extent_t c = 0; c < d; ++c) sum[r * d + c] *= shrink[r];
          gemm_strided(e, true, false, rows, d, n, A(1), score, rows, p.keys_of(v.data(), b, head, j0, room), p.key_stride(), A(1), sum, d);
        }
        for (extent_t r = 0; r < rows; ++r) {
          const A inverse = weight[r] > A(0) ? A(1) / weight[r] : A(0);
          Out* const to = out.data() + p.row_offset(i0 * p.group + r, b, head);
          for (extent_t c = 0; c < d; ++c) to[c] = Out(sum[r * d + c] * inverse);
          lse.data()[p.lse_offset(i0 * p.group + r, b, head)] = weight[r] > A(0) ? top[r] + std::log(weight[r]) : plan::none;
        }
      }
}
/// The same with T deduced from out, and every sequence one document.
template <class T>
void flash_forward(host_exec e, input<T> q, input<T> k, input<T> v, std::span<const std::int32_t> q_position,
                   std::span<const std::int32_t> k_position, view<T> out, view<accumulate_t<T>> lse,
                   std::span<const std::int32_t> first = {}) {
  flash_forward_to<T>(e, q, k, v, q_position, k_position, first, out, lse);
}

namespace detail {

/// Where sums of A are made that end in `out`: there, if it holds numbers of A.
template <class A, class Out, class Exec>
view<A> sums_of(view<Out> out, scratch<Exec>& local) {
  if constexpr (std::is_same_v<A, Out>)
    return out;
  else
    return local.template take<A>(out.shape());
}
template <class A, class Out>
void rounded(const A* from, extent_t count, Out* to) {
  for (extent_t i = 0; i < count; ++i) to[i] = Out(from[i]);
}

}  // namespace detail

/// What the softmax's backward needs of the result: the sum of dout * out of every query and head, mean [B, Hq, Sq], assigned. Local.
template <class T>
void flash_mean(host_exec, view<const T> dout, view<const T> out, view<accumulate_t<T>> mean) {
  using A = accumulate_t<T>;
  require(out.rank() == 4 && out.shape() == dout.shape(), "moefold: flash_mean needs dout and out [Sq, B, heads, d] of one shape");
  const extent_t sq = out.extent(0), lanes = out.extent(1) * out.extent(2), d = out.extent(3);
  require_matrix("flash_mean", "mean", mean, lanes, sq);
  for (extent_t i = 0; i < sq; ++i)
    for (extent_t h = 0; h < lanes; ++h) {
      const T *const y = out.data() + (i * lanes + h) * d, *const dy = dout.data() + (i * lanes + h) * d;
      mean.data()[h * sq + i] = lane_sum<A>(d, [=](extent_t c) { return A(y[c]) * A(dy[c]); });
    }
}

/// Assigns dq, dk and dv. Given lse and mean (flash_mean) of a merge over several sets of keys, a call with one set gives its dk, dv and its part of dq.
/// Local; 10 d flops per visible pair; scratch O(Sq d Hq / Hk). The gradients may be of type T, or of accumulate_t<T>.
template <class T, class Out>
void flash_backward_to(host_exec e, view<const T> dout, view<const T> q, view<const T> k, view<const T> v, view<const accumulate_t<T>> lse,
                       view<const accumulate_t<T>> mean, std::span<const std::int32_t> q_position, std::span<const std::int32_t> k_position,
                       std::span<const std::int32_t> first, view<Out> dq, view<Out> dk, view<Out> dv) {
  using A = accumulate_t<T>;
  using plan = detail::flash_plan<T>;
  scratch<host_exec> local(e);
  const plan p("flash_backward", q, k, v, q_position, k_position, first, local);
  require(dout.shape() == q.shape() && dq.shape() == q.shape(), "moefold: flash_backward needs dout, out and dq of the shape of q");
  require(dk.shape() == k.shape() && dv.shape() == k.shape(), "moefold: flash_backward needs dk and dv of the shape of k");
  require_matrix("flash_backward", "lse", lse, p.batch * p.q_heads, p.sq);
  require_matrix("flash_backward", "mean", mean, p.batch * p.q_heads, p.sq);
  const extent_t d = p.d, all = p.rows(), most = p.most_rows();
  const view<A> dk_sum = detail::sums_of<A>(dk, local), dv_sum = detail::sums_of<A>(dv, local);
  std::fill_n(dk_sum.data(), dk.size(), A(0));
  std::fill_n(dv_sum.data(), dv.size(), A(0));

  A* const q_along = local.take<A>(all, d).data();  // the rows of one key head
  A* const q_across = local.take<A>(all, d).data();
  A* const dout_along = local.take<A>(all, d).data();
  A* const dout_across = local.take<A>(all, d).data();
  A* const dq_along = local.take<A>(all, d).data();
  A* MOEFOLD_RESTRICT const shift = local.take<A>(all).data();  // lse, or +inf where no key is visible: exp gives 0
  A* MOEFOLD_RESTRICT const own_mean = local.take<A>(all).data();
  A* MOEFOLD_RESTRICT const prob = local.take<A>(p.key_block, most).data();
  A* MOEFOLD_RESTRICT const dscore = local.take<A>(p.key_block, most).data();
  const extent_t copied = std::is_same_v<T, A> ? 0 : p.key_block;
  A* const key_room = local.take<A>(copied, d).data();
  A* const value_room = local.take<A>(copied, d).data();
  for (extent_t b = 0; b < p.batch; ++b)
    for (extent_t head = 0; head < p.k_heads; ++head) {
      for (extent_t i0 = 0; i0 < p.sq; i0 += p.q_block) {
        const extent_t at = i0 * p.group * d;
        p.pack(q.data(), b, head, i0, p.scale, q_across + at, q_along + at);
        p.pack(dout.data(), b, head, i0, A(1), dout_across + at, dout_along + at);
      }
      std::fill_n(dq_along, all * d, A(0));
      for (extent_t r = 0; r < all; ++r) {
        own_mean[r] = mean.data()[p.lse_offset(r, b, head)];
        const A own = lse.data()[p.lse_offset(r, b, head)];
        shift[r] = own > plan::none ? own : -plan::none;
      }
      for (extent_t j0 = 0; j0 < p.sk; j0 += p.key_block) {
        const extent_t n = p.keys(j0), at = p.k_offset(j0, b, head), stride = p.key_stride();
        const A *const keys = p.keys_of(k.data(), b, head, j0, key_room), *const values = p.keys_of(v.data(), b, head, j0, value_room);
        for (extent_t i0 = 0; i0 < p.sq; i0 += p.q_block) {
          const auto seen = p.visible(i0, j0, b);
          if (seen == plan::seen::none) continue;
          const extent_t rows = p.rows(i0), row0 = i0 * p.group;
          gemm_strided(e, false, false, n, rows, d, A(1), keys, stride, q_across + row0 * d, rows, A(0), prob, rows);
          if (seen == plan::seen::some) p.mask(i0, j0, b, prob);
          gemm_strided(e, false, false, n, rows, d, A(1), values, stride, dout_across + row0 * d, rows, A(0), dscore, rows);
          for (extent_t j = 0; j < n; ++j)
            for (extent_t r = 0; r < rows; ++r) {
              const A s = exp_of(prob[j * rows + r] - shift[row0 + r]);
              prob[j * rows + r] = s;
              dscore[j * rows + r] = s * (dscore[j * rows + r] - own_mean[row0 + r]);
            }
          gemm_strided(e, false, false, n, d, rows, A(1), prob, rows, dout_along + row0 * d, d, A(1), dv_sum.data() + at, p.k_stride);
          gemm_strided(e, false, false, n, d, rows, A(1), dscore, rows, q_along + row0 * d, d, A(1), dk_sum.data() + at, p.k_stride);
          gemm_strided(e, true, false, rows, d, n, p.scale, dscore, rows, keys, stride, A(1), dq_along + row0 * d, d);
        }
      }
      for (extent_t r = 0; r < all; ++r) detail::rounded(dq_along + r * d, d, dq.data() + p.row_offset(r, b, head));
    }
  if (static_cast<const void*>(dk_sum.data()) == dk.data()) return;
  detail::rounded(dk_sum.data(), extent_t(dk.size()), dk.data());
  detail::rounded(dv_sum.data(), extent_t(dv.size()), dv.data());
}
/// The same with T deduced from dq, and every sequence one document.
template <class T>
void flash_backward(host_exec e, input<T> dout, input<T> q, input<T> k, input<T> v, input<T> out, input<accumulate_t<T>> lse,
                    std::span<const std::int32_t> q_position, std::span<const std::int32_t> k_position, view<T> dq, output<T> dk,
                    output<T> dv, std::span<const std::int32_t> first = {}) {
  scratch<host_exec> local(e);
  const view<accumulate_t<T>> mean = local.take<accumulate_t<T>>(lse.shape());
  require(out.shape() == q.shape(), "moefold: flash_backward needs dout, out and dq of the shape of q");
  flash_mean<T>(e, dout, out, mean);
  flash_backward_to<T, T>(e, dout, q, k, v, lse, mean, q_position, k_position, first, dq, dk, dv);
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
