#pragma once
// Context parallelism by exchanging heads for sequence: before attention each rank trades its tokens of most heads for the whole sequence of a few, attends
// as if alone, and trades back. cp_combined<A> does so in groups of A adjacent ranks, and the groups pass keys and values round a ring.
//
//   q, k, v [S/CP, B, heads, d] -> all_to_all -> [A * S/CP, B, heads/A, d] -> attention (over the ring) -> all_to_all -> out [S/CP, B, heads, d]
//   bytes, per rank    forward (2q + 2k) (A-1)/A       backward the same, and one number per query and head      the ring's: cp_ring with k of all A ranks
//   needs              kv heads/TP a multiple of A     cp_all_to_all: A = CP, no ring
// q, k and v stay traded until backward. Source: Jacobs et al. 2023, "DeepSpeed Ulysses", arXiv 2309.14509; Fang and Zhao 2024, arXiv 2405.07719 (combined).
#include <moefold/attention/cp_ring.hpp>
#include <moefold/ops/head_exchange.hpp>

#include <array>

namespace moefold {

/// Swap: ranks that trade heads; 0: all of cp.
template <extent_t Swap>
struct cp_swap {
  static constexpr context_facts facts{.gathers = false, .swap = Swap};

  template <class Comm>
  struct groups {
    std::vector<Comm> own;
    Comm *swap, *ring;
    /// Collective over cp. Throws config_error unless cp is a multiple of Swap.
    groups(Comm& cp, bool overlap) {
      const int swapping = int(facts.swapping(cp.size()));
      require<config_error>(cp.size() % swapping == 0, "moefold: cp_combined<", swapping, "> needs a CP that is a multiple of ", swapping,
                            " (given ", cp.size(), ")");
      own.reserve(3);
      if (swapping == cp.size()) {
        swap = &cp, ring = nullptr;
        return;
      }
      own.push_back(cp.split(cp.rank() / swapping, cp.rank() % swapping, cp.label()));
      swap = &own.back();
      own.push_back(cp.split(cp.rank() % swapping, cp.rank() / swapping, cp.label()));
      ring = detail::beside(own.back(), overlap, own);
    }
    groups(const groups&) = delete;
    groups& operator=(const groups&) = delete;
  };

  template <class T, class A, class Exec, class Comm>
  static void forward(Exec e, groups<Comm>& g, const sequence_map& map, view<T> q, view<T> k, view<T> v, view<T> out, view<A> lse) {
    scratch local(e);
    const view<A> traded_lse = lse.as(shape{q.extent(1), q.extent(2) / g.swap->size(), q.extent(0) * g.swap->size()});
    const view<T> traded_out = trades(g) ? local.template take<T>(traded_shape(*g.swap, q.shape())) : out;
    if (trades(g)) to_sequence<T, 3>(e, *g.swap, {q, k, v}, {traded(*g.swap, q), traded(*g.swap, k), traded(*g.swap, v)});
    const auto in = [&](view<T> x) { return view<const T>(traded(*g.swap, x)); };
    if (g.ring)
      detail::ring_attention<T, A>::forward(e, *g.ring, map, in(q), in(k), in(v), traded_out, traded_lse);
    else
      flash_forward_to<T>(e, in(q), in(k), in(v), map.position, map.position, map.first, traded_out, traded_lse);
    if (trades(g)) to_heads<T, 1>(e, *g.swap, {traded_out}, {out});
  }

  template <class T, class A, class Exec, class Comm>
  static void backward(Exec e, groups<Comm>& g, const sequence_map& map, view<const T> dout, view<const T> q, view<const T> k,
                       view<const T> v, view<const T> out, view<const A> lse, view<T> dq, view<T> dk, view<T> dv) {
    scratch local(e);
    Comm& swap = *g.swap;
    const extent_t sq = q.extent(0), batch = q.extent(1), heads = q.extent(2);
    const shape traded_rows{batch, heads / swap.size(), sq * swap.size()};
    const view<const A> traded_lse = lse.as(traded_rows);
    view<A> mean = local.template take<A>(lse.shape());
    flash_mean<T>(e, dout, out, mean);
    view<const T> traded_dout = dout;
    view<T> traded_dq = dq, traded_dk = dk, traded_dv = dv;
    if (trades(g)) {
      const auto room = [&](const shape& s) { return local.template take<T>(traded_shape(swap, s)); };
      const view<T> arrived = room(q.shape());
      to_sequence<T, 1>(e, swap, {dout}, {arrived});
      traded_dout = arrived, traded_dq = room(q.shape()), traded_dk = room(k.shape()), traded_dv = room(v.shape());
      // one number per query and head: [B, heads, Sq] is a run of Sq for every (b, head)
      const view<A> by_token = local.template take<A>(sq, batch, heads, 1),
                    arrived_mean = local.template take<A>(sq * swap.size(), batch, heads / swap.size(), 1);
      transpose(e, batch * heads, sq, mean, by_token);
      to_sequence<A, 1>(e, swap, {view<const A>(by_token)}, {arrived_mean});
      mean = local.template take<A>(traded_rows);
      transpose(e, sq * swap.size(), batch * heads / swap.size(), arrived_mean, mean);
    }
    const auto in = [&](view<const T> x) { return x.as(traded_shape(swap, x.shape())); };
    if (g.ring)
      detail::ring_attention<T, A>::backward(e, *g.ring, map, traded_dout, in(q), in(k), in(v), traded_lse, view<const A>(mean), traded_dq,
                                             traded_dk, traded_dv);
    else
      flash_backward_to<T, T>(e, traded_dout, in(q), in(k), in(v), traded_lse, view<const A>(mean), map.position, map.position, map.first,
                              traded_dq, traded_dk, traded_dv);
    if (trades(g)) to_heads<T, 3>(e, swap, {traded_dq, traded_dk, traded_dv}, {dq, dk, dv});
  }

 private:
  template <class Groups>
  static bool trades(const Groups& g) {
    return g.swap->size() > 1;
  }
  template <class Comm>
  static shape traded_shape(const Comm& swap, const shape& s) {
    return {s[0] * swap.size(), s[1], s[2] / swap.size(), s[3]};
  }
  template <class T, class Comm>
  static view<T> traded(const Comm& swap, view<T> x) {
    return x.as(traded_shape(swap, x.shape()));
  }
  template <class T, std::size_t N>
  static std::array<head_message, N> messages_of(const std::array<view<T>, N>& by_heads, extent_t ranks) {
    std::array<shape, N> shapes;
    for (std::size_t i = 0; i < N; ++i) shapes[i] = by_heads[i].shape();
    return head_messages(shapes, ranks);
  }

  /// in [S/CP, B, heads, d] of this rank -> out [A * S/CP, B, heads/A, d]: tokens of rank after rank. in may be out's memory. One all_to_all.
  template <class T, std::size_t N, class Exec, class Comm>
  static void to_sequence(Exec e, Comm& swap, const std::array<view<const T>, N>& in, const std::array<view<T>, N>& out) {
    scratch local(e);
    const std::array<head_message, N> at = messages_of(in, swap.size());
    const extent_t elements = at[0].ranks * at[0].message;
    const view<T> sent = local.template take<T>(elements), received = local.template take<T>(elements);
    for (std::size_t i = 0; i < N; ++i) pack_heads(e, at[i], in[i], sent);
    swap.all_to_all(e, std::span<const T>(sent.span()), received.span()).wait(e);
    for (std::size_t i = 0; i < N; ++i) unpack_sequence(e, at[i], received, out[i]);
  }
  /// The way back: in [A * S/CP, B, heads/A, d] -> out [S/CP, B, heads, d].
  template <class T, std::size_t N, class Exec, class Comm>
  static void to_heads(Exec e, Comm& swap, const std::array<view<T>, N>& in, const std::array<view<T>, N>& out) {
    scratch local(e);
    const std::array<head_message, N> at = messages_of(out, swap.size());
    const extent_t elements = at[0].ranks * at[0].message;
    const view<T> sent = local.template take<T>(elements), received = local.template take<T>(elements);
    for (std::size_t i = 0; i < N; ++i) pack_sequence(e, at[i], in[i], sent);
    swap.all_to_all(e, std::span<const T>(sent.span()), received.span()).wait(e);
    for (std::size_t i = 0; i < N; ++i) unpack_heads(e, at[i], received, out[i]);
  }
};

struct cp_all_to_all : cp_swap<0> {
  static constexpr const char* name = "cp_all_to_all";
};
/// cp_all_to_all over A adjacent ranks x cp_ring over CP / A groups of them.
template <extent_t A>
struct cp_combined : cp_swap<A> {
  static_assert(A > 1, "moefold: cp_combined<A> exchanges heads over A > 1 ranks; cp_ring exchanges none");
  static constexpr const char* name = "cp_combined";
};

}  // namespace moefold
