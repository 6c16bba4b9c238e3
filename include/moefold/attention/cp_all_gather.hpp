#pragma once
// Context parallelism by gathering keys and values: each rank keeps its own queries (chunks r and 2*CP-1-r, so that causal work is even), gathers
// the keys and values of its whole sequence over cp, and attends by true positions. Backward gathers again and sums their gradients back.
//
//   forward   k, v [S/CP, B, kv, d] -> all-gather -> [S, B, kv, d] in rank order       bytes: 2 (CP-1) * k
//   backward  gather again; dk, dv [S, ...] -> reduce-scatter -> [S/CP, ...]           bytes: 4 (CP-1) * k
//
// A context policy (attention/policy.hpp) has facts, groups<Comm> (what it needs of a cp group, made once, collective over cp) and these two passes.
#include <moefold/attention/sequence_map.hpp>
#include <moefold/comm/communicator.hpp>
#include <moefold/core/context_facts.hpp>
#include <moefold/ops/flash.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

struct cp_all_gather {
  static constexpr const char* name = "cp_all_gather";
  static constexpr context_facts facts{};

  template <class Comm>
  struct groups {
    Comm* cp;
    /// overlap: whether keys and values may travel beside the computation; this policy has nothing to compute meanwhile.
    groups(Comm& all, bool /*overlap*/) : cp(&all) {}
  };

  /// q [S/CP, B, heads, d], k and v [S/CP, B, kv, d] of this rank -> out like q, lse [B, heads, S/CP]. Collective over cp. A policy may leave other
  /// numbers in q, k and v, if they are what its backward wants.
  template <class T, class A, class Exec, class Comm>
  static void forward(Exec e, groups<Comm>& g, const sequence_map& map, view<T> q, view<T> k, view<T> v, view<T> out, view<A> lse) {
    scratch local(e);
    const sequence_map own = map.part(g.cp->rank(), g.cp->size());
    flash_forward_to<T>(e, view<const T>(q), gathered(e, *g.cp, view<const T>(k), local), gathered(e, *g.cp, view<const T>(v), local),
                        own.position, map.position, own.first, out, lse);
  }

  /// Gradients of q, k and v of this rank, assigned. Collective over cp.
  template <class T, class A, class Exec, class Comm>
  static void backward(Exec e, groups<Comm>& g, const sequence_map& map, view<const T> dout, view<const T> q, view<const T> k,
                       view<const T> v, view<const T> out, view<const A> lse, view<T> dq, view<T> dk, view<T> dv) {
    scratch local(e);
    Comm& cp = *g.cp;
    const sequence_map own = map.part(cp.rank(), cp.size());
    view<T> dk_all = cp.size() == 1 ? dk : whole<T>(cp, dk.shape(), local), dv_all = cp.size() == 1 ? dv : whole<T>(cp, dv.shape(), local);
    const view<A> mean = local.template take<A>(lse.shape());
    flash_mean<T>(e, dout, out, mean);
    flash_backward_to<T, T>(e, dout, q, gathered(e, cp, k, local), gathered(e, cp, v, local), lse, view<const A>(mean), own.position,
                            map.position, own.first, dq, dk_all, dv_all);
    if (cp.size() == 1) return;
    cp.reduce_scatter(e, std::span<const T>(dk_all.span()), dk.span(), sum{}).wait(e);
    cp.reduce_scatter(e, std::span<const T>(dv_all.span()), dv.span(), sum{}).wait(e);
  }

 private:
  /// Memory for the parts of all ranks: [S, B, kv, d].
  template <class T, class Exec, class Comm>
  static view<T> whole(const Comm& cp, shape part, scratch<Exec>& local) {
    part[0] *= cp.size();
    return local.template take<T>(part);
  }
  template <class T, class Exec, class Comm>
  static view<const T> gathered(Exec e, Comm& cp, view<const T> part, scratch<Exec>& local) {
    if (cp.size() == 1) return part;
    view<T> all = whole<T>(cp, part.shape(), local);
    cp.all_gather(e, part.span(), all.span()).wait(e);
    return all;
  }
};

}  // namespace moefold
