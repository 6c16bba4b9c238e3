#pragma once
// The AllToAll dispatcher: every row travels straight to the rank that owns its expert (All-to-All-V over ep), is shared by the ranks that
// split that expert (AllGather-V over etp), and comes back the same way (ReduceScatter-V, All-to-All-V).
//
//   x [n, H] -permute-> rows by expert -ep-> own rows [ep][expert] -etp-> exchange rows [etp][ep][expert] -sort-> batch [R, H] by (expert, ep, etp)
//   A row that travels with its weight is H + 1 elements wide: x, then p. One exchange carries both, and both gradients on the way back.
//   In bf16 p stays a float and takes two elements (H + 2), which are moved but cannot be added: over etp dx and dp are then summed apart.
//   Where ranks can fetch from their peers' memory (comm: fetch_v), permute, exchange and sort are one pass: the receiver takes each row from where
//   the sender keeps it and puts it where it belongs; on the way back a token adds up its k rows straight from the experts' memory. Same bytes.
//
// Per call over ep: 1 all_to_all of 8 bytes x local experts (dispatch only, not when padded) and 1 all_to_all_v of its rows; over etp, when ETP > 1:
// 1 all_gather of the counts (likewise) and 1 all_gather_v (dispatch, combine_backward) or reduce_scatter_v (combine, dispatch_backward;
// in bf16 one more for dp).
// Padded routing needs the same number of tokens on every rank: then no count travels, and no shape depends on the routing: on a device the host
// never waits. Else it waits once, in dispatch, for the sizes of what travels.
// Source: Liu et al. 2025, arXiv 2504.14960, section 3.3.
#include <moefold/core/mutant.hpp>
#include <moefold/moe/row_fetch.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/exchange_order.hpp>
#include <moefold/ops/permute.hpp>
#include <moefold/ops/weighted_rows.hpp>
#include <moefold/tensor/copy.hpp>

#include <numeric>

namespace moefold {

template <class T, class Comm>
class all_to_all_dispatcher {
 public:
  using value_type = T;
  using weight_type = accumulate_t<T>;
  using A = weight_type;
  static constexpr dispatch_kind kind = dispatch_kind::all_to_all;
  static constexpr extent_t lanes = wide_lanes<T>;  // elements of a row that carry its weight

  struct ticket {
    view<const std::int32_t> expert;   // [n, k] the caller's choices; -1: dropped
    view<std::int64_t> counts;         // [E] this rank's rows by expert, fillers included, before anything travels
    view<std::int32_t> row_of_slot;    // [n, k] -1: dropped
    view<std::int32_t> slot_of_row;    // [rows of this rank] -1: filler
    view<std::size_t> sent, received;  // [EP] rows to and from each ep peer; host memory
    view<std::size_t> shared;          // [ETP] rows that each etp peer received; host memory
    view<std::int64_t> first;          // [local experts, EP] where (expert, source) begins: in the batch, or with ETP > 1 in the own rows
    view<std::int32_t> exchange_of_batch;  // [R]
    view<std::int64_t> offsets;            // [local experts + 1] rows of the batch by expert
    view<T> batch;                         // [R, H]
    view<A> weight;                        // [R]
  };

  all_to_all_dispatcher(extent_t experts, extent_t top_k, Comm& ep, Comm& etp) : experts_(experts), top_k_(top_k), ep_(&ep), etp_(&etp) {
    require(experts % ep.size() == 0, "moefold: ", experts, " experts cannot be shared equally by ", ep.size(), " ep ranks");
  }

  /// Collective over ep and etp. Throws if an expert index is out of range.
  template <class Exec, class Arena, class Meanwhile = idle>
  ticket dispatch(Exec e, view<const T> x, const routing<A>& choice, Arena& keep, Meanwhile&& meanwhile = {}) const {
    const extent_t n = x.extent(0), hidden = x.extent(1), ep = ep_->size(), etp = etp_->size(), own = experts_ / ep;
    ticket t;
    t.expert = choice.expert;
    t.counts = keep.template take<std::int64_t>(experts_);
    t.row_of_slot = keep.template take<std::int32_t>(n, top_k_);
    const bool padded = choice.padded_rows >= 0;
    t.slot_of_row = keep.template take<std::int32_t>(padded ? experts_ * choice.padded_rows : n * top_k_);
    // rows: [ep][own] from every ep peer, then [etp][ep][own] of every etp peer
    view<std::int64_t> all = keep.template take<std::int64_t>(etp, ep, own);
    if (padded) {
      build_padded_permutation(e, choice.expert, experts_, 1, choice.padded_rows, t.counts.span(), t.row_of_slot, t.slot_of_row);
      fill(e, t.counts, choice.padded_rows);
      fill(e, all, choice.padded_rows);
    } else {
      build_permutation(e, choice.expert, experts_, t.counts.span(), t.row_of_slot, t.slot_of_row);
      view<std::int64_t> mine = all.rows(etp_->rank(), 1);
      ep_->all_to_all(e, std::span<const std::int64_t>(t.counts.span()), mine.span()).wait(e);
      if (etp > 1) etp_->all_gather(e, std::span<const std::int64_t>(mine.span()), all.span()).wait(e);
    }
    count_rows(e, t, all, choice.padded_rows, keep);
    const extent_t arriving = total_rows(t.shared);
    if (!padded) t.slot_of_row = t.slot_of_row.rows(0, total_rows(t.sent));
    t.offsets = keep.template take<std::int64_t>(own + 1);
    t.first = keep.template take<std::int64_t>(own, ep);
    t.exchange_of_batch = keep.template take<std::int32_t>(arriving);
    exchange_order(e, all, etp_->rank(), t.offsets, t.first, t.exchange_of_batch);
    t.batch = keep.template take<T>(arriving, hidden);
    t.weight = keep.template take<A>(arriving);

    scratch local(e);
    if constexpr (fetching<Comm, Exec>) {
      if (etp == 1) {
        fetch_rows<T>(
            e, *ep_, t, hidden + lanes, {x.data(), choice.weight.data(), hidden}, local,
            [&](extent_t row, const T* from, A weight) {
              put_row(from, t.batch.data() + row * hidden, hidden);
              t.weight(row) = weight;
            },
            meanwhile);
        return t;
      }
    }
    gather_weighted(e, share(e, weighted_to_experts(e, x, choice.weight, t, local, meanwhile), t, local), t.exchange_of_batch.span(),
                    t.batch, t.weight);
    return t;
  }

  /// Collective over ep and etp. y_batch [R, H] partial over etp -> y [n, H], assigned.
  template <class Exec>
  void combine(Exec e, view<const T> y_batch, view<T> y, const ticket& t) const {
    const extent_t hidden = t.batch.extent(1);
    require_sizes("combine", t, y_batch.extent(0), y.extent(0));
    require_matrix("combine", "y_batch", y_batch, y_batch.extent(0), hidden);
    require_matrix("combine", "y", y, y.extent(0), hidden);
    if (mutated(mutant::early_return_on_no_rows) && y_batch.extent(0) == 0) return;
    scratch local(e);
    if constexpr (fetching<Comm, Exec>) {
      const view<const T> rows = etp_->size() == 1 ? y_batch : own_sums(e, y_batch, t, local);
      sum_from_peers<T>(e, *ep_, t, hidden, {rows.data(), nullptr, t.first.data(), hidden, 0}, local,
                        [&](extent_t token, auto row_of, auto) { sum_rows(hidden, top_k_, row_of, y.data() + token * hidden); });
    } else {
      const view<const T> rows = own_sums(e, y_batch, t, local);
      combine_rows(e, exchange(e, rows, t.received, t.sent, local), t.row_of_slot, y);
    }
  }

  /// Collective over ep and etp. dy [n, H] -> dy_batch [R, H], assigned.
  template <class Exec, class Meanwhile = idle>
  void combine_backward(Exec e, view<const T> dy, view<T> dy_batch, const ticket& t, Meanwhile&& meanwhile = {}) const {
    const extent_t hidden = t.batch.extent(1);
    require_sizes("combine_backward", t, dy_batch.extent(0), dy.extent(0));
    require_matrix("combine_backward", "dy", dy, dy.extent(0), hidden);
    require_matrix("combine_backward", "dy_batch", dy_batch, dy_batch.extent(0), hidden);
    scratch local(e);
    if constexpr (fetching<Comm, Exec>) {
      const bool direct = etp_->size() == 1;
      const view<T> rows = direct ? dy_batch : local.template take<T>(total_rows(t.received), hidden);
      fetch_rows<T>(
          e, *ep_, t, hidden, {dy.data(), nullptr, hidden}, local,
          [&](extent_t row, const T* from, A) { put_row(from, rows.data() + row * hidden, hidden); }, meanwhile);
      if (!direct) gather_rows(e, share(e, view<const T>(rows), t, local), t.exchange_of_batch.span(), dy_batch);
    } else {
      view<T> rows = local.template take<T>(t.slot_of_row.extent(0), hidden);
      permute_rows(e, dy, t.slot_of_row.span(), top_k_, rows, t.row_of_slot);
      gather_rows(e, share(e, exchange(e, rows, t.sent, t.received, local, meanwhile), t, local), t.exchange_of_batch.span(), dy_batch);
    }
  }

  /// Collective over ep and etp. dbatch [R, H] and dweight [R], both partial over etp -> dx [n, H] and dchoice [n, k], assigned.
  template <class Exec>
  void dispatch_backward(Exec e, view<const T> dbatch, view<const A> dweight, view<T> dx, view<A> dchoice, const ticket& t) const {
    const extent_t hidden = t.batch.extent(1);
    require_sizes("dispatch_backward", t, dbatch.extent(0), dx.extent(0));
    require_matrix("dispatch_backward", "dbatch", dbatch, dbatch.extent(0), hidden);
    require_count("dispatch_backward", "dweight", dweight.size(), dbatch.extent(0));
    require_matrix("dispatch_backward", "dx", dx, dx.extent(0), hidden);
    require_matrix("dispatch_backward", "dchoice", dchoice, dx.extent(0), top_k_);
    scratch local(e);
    const bool direct = etp_->size() == 1;
    view<const T> rows = dbatch;
    view<const A> weight = dweight;
    if (lanes > 1 && !direct) {
      rows = own_sums(e, dbatch, t, local);
      weight = own_sums(e, dweight.as({dweight.extent(0), 1}), t, local);
    } else if (!direct || !fetching<Comm, Exec>) {
      view<T> exchanged = local.template take<T>(dbatch.extent(0), hidden + lanes);
      scatter_weighted(e, dbatch, dweight, t.exchange_of_batch.span(), exchanged);
      rows = reduce_shared(e, view<const T>(exchanged), t, local);
    }
    if constexpr (fetching<Comm, Exec>) {
      row_way_back<T> mine{rows.data(), weight.data(), t.first.data(), hidden, 1};
      if constexpr (lanes == 1)
        if (!direct) mine = {rows.data(), rows.data() + hidden, t.first.data(), hidden + 1, hidden + 1};
      sum_from_peers<T>(e, *ep_, t, hidden + lanes, mine, local, [&](extent_t token, auto row_of, auto weight_of) {
        for (extent_t j = 0; j < top_k_; ++j) dchoice(token, j) = weight_of(j);
        sum_rows(hidden, top_k_, row_of, dx.data() + token * hidden);
      });
    } else {
      if (lanes > 1 && !direct) {
        const view<T> packed = local.template take<T>(rows.extent(0), hidden + lanes);
        pack_weighted(e, rows, weight, packed);
        rows = packed;
      }
      combine_weighted(e, exchange(e, rows, t.received, t.sent, local), t.row_of_slot, dx, dchoice);
    }
  }

 private:
  static void put_row(const T* from, T* to, extent_t width) {  // a filler is zeros
    if (from == nullptr)
      zero_row(to, width);
    else
      copy_row(from, to, width);
  }
  /// Rows to and from the peers, where the host can read them: from the counts, or known beforehand. all [ETP, EP, local experts].
  template <class Exec, class Arena>
  void count_rows(Exec e, ticket& t, view<const std::int64_t> all, extent_t padded_rows, Arena& keep) const {
    const extent_t etp = all.extent(0), ep = all.extent(1), own = all.extent(2);
    t.sent = keep.template take_host<std::size_t>(ep);
    t.received = keep.template take_host<std::size_t>(ep);
    t.shared = keep.template take_host<std::size_t>(etp);
    if (padded_rows >= 0) {
      std::fill(t.sent.begin(), t.sent.end(), std::size_t(own * padded_rows));
      std::fill(t.received.begin(), t.received.end(), std::size_t(own * padded_rows));
      std::fill(t.shared.begin(), t.shared.end(), std::size_t(ep * own * padded_rows));
      return;
    }
    scratch local(e);
    const view<std::int64_t> sizes = local.template take<std::int64_t>(2 * ep + etp);
    exchange_sizes(e, t.counts, all, etp_->rank(), sizes);
    const view<const std::int64_t> known = on_host(e, sizes, local);
    std::copy_n(known.begin(), ep, t.sent.begin());
    std::copy_n(known.begin() + ep, ep, t.received.begin());
    std::copy_n(known.begin() + 2 * ep, etp, t.shared.begin());
  }

  /// x and weights to this rank's own rows [received, H + 1] (bf16: H + 2), in the order [ep][expert].
  template <class Exec, class Meanwhile>
  view<const T> weighted_to_experts(Exec e, view<const T> x, view<const A> weight, const ticket& t, scratch<Exec>& local,
                                    Meanwhile&& meanwhile) const {
    const extent_t hidden = x.extent(1), width = hidden + lanes;
    if constexpr (fetching<Comm, Exec>) {
      const view<T> rows = local.template take<T>(total_rows(t.received), width);
      fetch_rows<T>(
          e, *ep_, t, width, {x.data(), weight.data(), hidden}, local,
          [&](extent_t row, const T* from, A p) {
            put_row(from, rows.data() + row * width, hidden);
            put_wide<T>(p, rows.data() + row * width + hidden);
          },
          meanwhile);
      return rows;
    } else {
      view<T> rows = local.template take<T>(t.slot_of_row.extent(0), width);
      permute_weighted(e, x, weight, t.slot_of_row.span(), rows, t.row_of_slot);
      return exchange(e, rows, t.sent, t.received, local, meanwhile);
    }
  }
  /// Batch rows, partial over etp -> this rank's own rows, summed over etp.
  template <class Exec, class U>
  view<const U> own_sums(Exec e, view<const U> batch, const ticket& t, scratch<Exec>& local) const {
    view<U> exchanged = local.template take<U>(batch.shape());
    scatter_rows(e, batch, t.exchange_of_batch.span(), exchanged);
    return reduce_shared(e, view<const U>(exchanged), t, local);
  }

  /// All-to-All-V over ep of whole rows.
  template <class Exec, class Meanwhile = idle>
  view<const T> exchange(Exec e, view<const T> rows, view<const std::size_t> sent, view<const std::size_t> received, scratch<Exec>& local,
                         Meanwhile&& meanwhile = {}) const {
    const extent_t width = rows.extent(1);
    view<T> out = local.template take<T>(total_rows(received), width);
    const auto travelling =
        ep_->all_to_all_v(e, rows.span(), elements_of_rows(sent, width, local), out.span(), elements_of_rows(received, width, local));
    meanwhile();
    travelling.wait(e);
    return out;
  }
  /// AllGather-V over etp; one rank: the rows themselves.
  template <class Exec>
  view<const T> share(Exec e, view<const T> rows, const ticket& t, scratch<Exec>& local) const {
    if (etp_->size() == 1) return rows;
    view<T> out = local.template take<T>(t.exchange_of_batch.extent(0), rows.extent(1));
    etp_->all_gather_v(e, rows.span(), elements_of_rows(t.shared, rows.extent(1), local), out.span()).wait(e);
    return out;
  }
  /// ReduceScatter-V over etp; one rank: the rows themselves.
  template <class Exec, class U>
  view<const U> reduce_shared(Exec e, view<const U> rows, const ticket& t, scratch<Exec>& local) const {
    if (etp_->size() == 1) return rows;
    view<U> out = local.template take<U>(extent_t(t.shared(etp_->rank())), rows.extent(1));
    etp_->reduce_scatter_v(e, rows.span(), elements_of_rows(t.shared, rows.extent(1), local), out.span(), sum{}).wait(e);
    return out;
  }

  /// What goes in and out of the three later passes has the sizes of the ticket: peers read this memory.
  void require_sizes(const char* pass, const ticket& t, extent_t rows, extent_t tokens) const {
    require(rows == t.exchange_of_batch.extent(0) && tokens == t.row_of_slot.extent(0), "moefold: ", pass, " of a ticket for ",
            t.row_of_slot.extent(0), " tokens and ", t.exchange_of_batch.extent(0), " rows was given ", tokens, " tokens and ", rows,
            " rows");
  }

  extent_t experts_;
  extent_t top_k_;
  Comm* ep_;
  Comm* etp_;
};

}  // namespace moefold
