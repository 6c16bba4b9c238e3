#pragma once
// Context parallelism by a ring: keys and values travel from rank to rank, and each rank attends to the block it has while the next one is on its way.
// Partial results are merged by their log-sum-exp. No rank ever holds more than two blocks, so memory falls with CP.
//
//   step        0        1        2        3            rank 1 of 4 holds the keys and values of rank 1, 0, 3, 2
//   forward     kv ->    kv ->    kv ->                 bytes: (CP-1) * 2k
//   backward    kv ->    kv ->    kv ->                 bytes: (CP-1) * 2k, and CP * 2k of their gradients (in accumulate_t), which travel behind
//                  dkv ->   dkv ->   dkv ->   dkv ->    the block they belong to and arrive at its owner after the last step
// A block that no query may see costs no computation; with two chunks per rank (core/sequence_part.hpp) every rank computes the same.
// Source: Liu et al. 2023, "Ring Attention", arXiv 2310.01889; zigzag chunks as in Megatron-Core.
#include <moefold/attention/cp_all_gather.hpp>
#include <moefold/ops/elementwise.hpp>

namespace moefold {

namespace detail {

/// One ring, over any communicator of equal parts.
template <class T, class A>
struct ring_attention {
  template <class Exec, class Comm>
  static void forward(Exec e, Comm& ring, const sequence_map& map, view<const T> q, view<const T> k, view<const T> v, view<T> out,
                      view<A> lse) {
    const int size = ring.size(), rank = ring.rank(), next = (rank + 1) % size, before = (rank + size - 1) % size;
    const sequence_map own = map.part(rank, size);
    if (size == 1) return flash_forward_to<T>(e, q, k, v, own.position, own.position, own.first, out, lse);
    scratch local(e);
    block<T> here(k, local), arriving(k, local);
    here.fill(e, k, v);
    const view<A> total = sums_of<A>(out, local), part = local.template take<A>(out.shape()),
                  part_lse = local.template take<A>(lse.shape());
    for (int step = 0; step < size; ++step) {
      const bool more = step + 1 < size;
      typename Comm::ticket sent{}, received{};
      if (more) {
        sent = ring.send(e, std::span<const T>(here.all.span()), next);
        received = ring.recv(e, arriving.all.span(), before);
      }
      const sequence_map theirs = map.part((rank - step + size) % size, size);
      flash_forward_to<T>(e, q, here.keys(), here.values(), own.position, theirs.position, own.first, step == 0 ? total : part,
                          step == 0 ? lse : part_lse);
      if (step > 0) flash_merge<A>(e, total, lse, view<const A>(part), view<const A>(part_lse));
      sent.wait(e), received.wait(e);
      std::swap(here, arriving);
    }
    if constexpr (!std::is_same_v<T, A>) cast(e, total, out);
  }

  template <class Exec, class Comm>
  static void backward(Exec e, Comm& ring, const sequence_map& map, view<const T> dout, view<const T> q, view<const T> k, view<const T> v,
                       view<const A> lse, view<const A> mean, view<T> dq, view<T> dk, view<T> dv) {
    const int size = ring.size(), rank = ring.rank(), next = (rank + 1) % size, before = (rank + size - 1) % size;
    const sequence_map own = map.part(rank, size);
    if (size == 1) return flash_backward_to<T, T>(e, dout, q, k, v, lse, mean, own.position, own.position, own.first, dq, dk, dv);
    scratch local(e);
    block<T> here(k, local), arriving(k, local);
    block<A> made(k, local), leaving(k, local), coming(k, local);  // gradients of this step's block; on their way out and in
    here.fill(e, k, v);
    const view<A> total = sums_of<A>(dq, local), part = local.template take<A>(dq.shape());
    typename Comm::ticket kv_sent = ring.send(e, std::span<const T>(here.all.span()), next),
                          kv_received = ring.recv(e, arriving.all.span(), before), sent{}, received{};
    const auto finish = [&](typename Comm::ticket& t) { t.wait(e), t = {}; };
    for (int step = 0; step < size; ++step) {
      const sequence_map theirs = map.part((rank - step + size) % size, size);
      flash_backward_to<T, A>(e, dout, q, here.keys(), here.values(), lse, mean, own.position, theirs.position, own.first,
                              step == 0 ? total : part, made.mutable_keys(), made.mutable_values());
      if (step > 0) accumulate(e, part, total);
      finish(kv_sent), finish(kv_received);
      std::swap(here, arriving);
      if (step > 0) {
        finish(sent), finish(received);
        accumulate(e, coming.all, made.all);
      }
      std::swap(made, leaving);
      sent = ring.send(e, std::span<const A>(leaving.all.span()), next);
      const bool more = step + 2 < size;
      if (more) kv_sent = ring.send(e, std::span<const T>(here.all.span()), next);
      received = ring.recv(e, coming.all.span(), before);
      if (more) kv_received = ring.recv(e, arriving.all.span(), before);
    }
    finish(sent), finish(received);
    cast(e, coming.keys(), dk);
    cast(e, coming.values(), dv);
    if constexpr (!std::is_same_v<T, A>) cast(e, total, dq);
  }

 private:
  /// Keys and values of one part, side by side: [2, S/CP, B, kv, d].
  template <class U>
  struct block {
    view<U> all;
    shape one;
    template <class Exec>
    block(view<const T> like, scratch<Exec>& local) : all(local.template take<U>(2, extent_t(like.size()))), one(like.shape()) {}
    template <class Exec>
    void fill(Exec e, view<const U> k, view<const U> v) {
      copy(e, k, mutable_keys());
      copy(e, v, mutable_values());
    }
    view<U> mutable_keys() const { return {all.data(), one}; }
    view<U> mutable_values() const { return {all.data() + one.size(), one}; }
    view<const U> keys() const { return mutable_keys(); }
    view<const U> values() const { return mutable_values(); }
  };
};

/// The communicator itself, or, where it can work beside its caller and shall, one apart over the same ranks, kept in `own`.
template <class Comm>
Comm* beside(Comm& comm, bool overlap, [[maybe_unused]] std::vector<Comm>& own) {
  if constexpr (overlapping<Comm>)
    if (overlap && comm.size() > 1) {
      own.push_back(comm.apart(comm.label()));
      return &own.back();
    }
  return &comm;
}

}  // namespace detail

struct cp_ring {
  static constexpr const char* name = "cp_ring";
  static constexpr context_facts facts{.gathers = false, .swap = 1};

  template <class Comm>
  struct groups {
    std::vector<Comm> own;
    Comm* ring;
    groups(Comm& cp, bool overlap) : ring(detail::beside(cp, overlap, own)) {}
    groups(const groups&) = delete;
    groups& operator=(const groups&) = delete;
  };

  template <class T, class A, class Exec, class Comm>
  static void forward(Exec e, groups<Comm>& g, const sequence_map& map, view<T> q, view<T> k, view<T> v, view<T> out, view<A> lse) {
    detail::ring_attention<T, A>::forward(e, *g.ring, map, view<const T>(q), view<const T>(k), view<const T>(v), out, lse);
  }
  template <class T, class A, class Exec, class Comm>
  static void backward(Exec e, groups<Comm>& g, const sequence_map& map, view<const T> dout, view<const T> q, view<const T> k,
                       view<const T> v, view<const T> out, view<const A> lse, view<T> dq, view<T> dk, view<T> dv) {
    scratch local(e);
    const view<A> mean = local.template take<A>(lse.shape());
    flash_mean<T>(e, dout, out, mean);
    detail::ring_attention<T, A>::backward(e, *g.ring, map, dout, q, k, v, lse, view<const A>(mean), dq, dk, dv);
  }
};

}  // namespace moefold
