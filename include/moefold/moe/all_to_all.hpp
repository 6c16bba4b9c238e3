#pragma once
// The AllToAll dispatcher: every row travels straight to the rank that owns its expert (All-to-All-V over ep), is shared by the ranks that
// split that expert (AllGather-V over etp), and comes back the same way (ReduceScatter-V, All-to-All-V).
//
//   x [n, H] -permute-> rows by expert -ep-> own rows [ep][expert] -etp-> exchange rows [etp][ep][expert] -sort-> batch [R, H] by (expert, ep, etp)
//   A row that travels with its weight is H + 1 elements wide: x, then p. One exchange carries both, and both gradients on the way back.
//
// Per call over ep: 1 all_to_all of 8 bytes x local experts (dispatch only) and 1 all_to_all_v of its rows; over etp, when ETP > 1: 1 all_gather of the
// counts (dispatch only) and 1 all_gather_v (dispatch, combine_backward) or reduce_scatter_v (combine, dispatch_backward).
// Source: Liu et al. 2025, arXiv 2504.14960, section 3.3.
#include <moefold/comm/communicator.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/ops/permute.hpp>
#include <moefold/ops/weighted_rows.hpp>

#include <numeric>

namespace moefold {

template <class T, class Comm, class Tokens = dropless>
class all_to_all_dispatcher {
 public:
  using value_type = T;
  using weight_type = accumulate_t<T>;
  using tokens = Tokens;
  using A = weight_type;
  static_assert(std::is_same_v<T, A>, "moefold: a row carries its weight in its own type; use fp32 or fp64 storage");

  struct ticket {
    view<std::int64_t> counts;             // [E] this rank's pairs by expert, before anything travels
    view<std::int32_t> row_of_slot;        // [n, k]
    view<std::int32_t> slot_of_row;        // [n * k]
    view<std::size_t> sent, received;      // [EP] rows to and from each ep peer
    view<std::size_t> shared;              // [ETP] rows that each etp peer received
    view<std::int32_t> exchange_of_batch;  // [R]
    view<std::int64_t> offsets;            // [local experts + 1] rows of the batch by expert
    view<T> batch;                         // [R, H]
    view<A> weight;                        // [R]
  };

  all_to_all_dispatcher(extent_t experts, extent_t top_k, Comm& ep, Comm& etp) : experts_(experts), top_k_(top_k), ep_(&ep), etp_(&etp) {
    require(experts % ep.size() == 0, "moefold: ", experts, " experts cannot be shared equally by ", ep.size(), " ep ranks");
  }

  /// Collective over ep and etp. Throws if an expert index is out of range.
  template <class Exec, class Arena>
  ticket dispatch(Exec e, view<const T> x, const routing<A>& choice, Arena& keep) const {
    const extent_t n = x.extent(0), hidden = x.extent(1), ep = ep_->size(), etp = etp_->size(), own = experts_ / ep;
    ticket t;
    t.counts = keep.template take<std::int64_t>(experts_);
    t.row_of_slot = keep.template take<std::int32_t>(n, top_k_);
    t.slot_of_row = keep.template take<std::int32_t>(n * top_k_);
    build_permutation(e, choice.expert, experts_, t.counts.span(), t.row_of_slot, t.slot_of_row);

    // counts: [ep][own] from every ep peer, then [etp][ep][own] of every etp peer
    view<std::int64_t> all = keep.template take<std::int64_t>(etp, ep, own);
    view<std::int64_t> mine = all.rows(etp_->rank(), 1);
    ep_->all_to_all(e, std::span<const std::int64_t>(t.counts.span()), mine.span()).wait(e);
    if (etp > 1) etp_->all_gather(e, std::span<const std::int64_t>(mine.span()), all.span()).wait(e);
    t.sent = row_counts(keep, t.counts.as({ep, own}));
    t.received = row_counts(keep, mine.as({ep, own}));
    t.shared = row_counts(keep, all.as({etp, ep * own}));
    sort(t, all, keep);

    scratch local(e);
    view<T> rows = local.template take<T>(n * top_k_, hidden + 1);
    permute_weighted(e, x, choice.weight, t.slot_of_row.span(), rows);
    view<const T> exchanged = share(e, exchange(e, rows, t.sent, t.received, local), t, local);
    const extent_t received = t.exchange_of_batch.extent(0);
    t.batch = keep.template take<T>(received, hidden);
    t.weight = keep.template take<A>(received);
    gather_weighted(e, exchanged, t.exchange_of_batch.span(), t.batch, t.weight);
    return t;
  }

  /// Collective over ep and etp. y_batch [R, H] partial over etp -> y [n, H], assigned.
  template <class Exec>
  void combine(Exec e, view<const T> y_batch, view<T> y, const ticket& t) const {
    scratch local(e);
    view<T> exchanged = local.template take<T>(y_batch.extent(0), y.extent(1));
    scatter_rows(e, y_batch, t.exchange_of_batch.span(), exchanged);
    combine_rows(e, exchange(e, reduce_shared(e, exchanged, t, local), t.received, t.sent, local), t.row_of_slot, y);
  }

  /// Collective over ep and etp. dy [n, H] -> dy_batch [R, H], assigned.
  template <class Exec>
  void combine_backward(Exec e, view<const T> dy, view<T> dy_batch, const ticket& t) const {
    scratch local(e);
    view<T> rows = local.template take<T>(t.slot_of_row.extent(0), dy.extent(1));
    permute_rows(e, dy, t.slot_of_row.span(), top_k_, rows);
    gather_rows(e, share(e, exchange(e, rows, t.sent, t.received, local), t, local), t.exchange_of_batch.span(), dy_batch);
  }

  /// Collective over ep and etp. dbatch [R, H] and dweight [R], both partial over etp -> dx [n, H] and dchoice [n, k], assigned.
  template <class Exec>
  void dispatch_backward(Exec e, view<const T> dbatch, view<const A> dweight, view<T> dx, view<A> dchoice, const ticket& t) const {
    scratch local(e);
    view<T> exchanged = local.template take<T>(dbatch.extent(0), dx.extent(1) + 1);
    scatter_weighted(e, dbatch, dweight, t.exchange_of_batch.span(), exchanged);
    combine_weighted(e, exchange(e, reduce_shared(e, exchanged, t, local), t.received, t.sent, local), t.row_of_slot, dx, dchoice);
  }

 private:
  /// [groups, m] counts -> rows of each group.
  template <class Arena>
  static view<std::size_t> row_counts(Arena& keep, view<const std::int64_t> counts) {
    view<std::size_t> rows = keep.template take<std::size_t>(counts.extent(0));
    for (extent_t g = 0; g < counts.extent(0); ++g) {
      const auto group = counts.rows(g, 1);
      rows(g) = std::size_t(std::accumulate(group.begin(), group.end(), std::int64_t{0}));
    }
    return rows;
  }

  /// Where each row of the batch, ordered by (expert, ep source, etp source), stands among the exchange rows [etp][ep][expert].
  template <class Arena>
  static void sort(ticket& t, view<const std::int64_t> counts, Arena& keep) {
    const extent_t etp = counts.extent(0), ep = counts.extent(1), own = counts.extent(2);
    const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
    t.offsets = keep.template take<std::int64_t>(own + 1);
    t.exchange_of_batch = keep.template take<std::int32_t>(total);
    std::int64_t row = 0;
    for (extent_t expert = 0; expert < own; ++expert) {
      t.offsets(expert) = row;
      for (extent_t r = 0; r < ep; ++r)
        for (extent_t q = 0; q < etp; ++q) {
          const std::int64_t* block = &counts(q, r, expert);
          std::int64_t from = std::accumulate(counts.data(), block, std::int64_t{0});
          for (std::int64_t i = 0; i < *block; ++i) t.exchange_of_batch[std::size_t(row++)] = std::int32_t(from++);
        }
    }
    t.offsets(own) = row;
  }

  /// All-to-All-V over ep of whole rows.
  template <class Exec>
  view<const T> exchange(Exec e, view<const T> rows, view<const std::size_t> sent, view<const std::size_t> received,
                         scratch<Exec>& local) const {
    const extent_t width = rows.extent(1);
    view<T> out = local.template take<T>(extent_t(std::accumulate(received.begin(), received.end(), std::size_t{0})), width);
    ep_->all_to_all_v(e, rows.span(), elements(sent, width, local), out.span(), elements(received, width, local)).wait(e);
    return out;
  }
  /// AllGather-V over etp; one rank: the rows themselves.
  template <class Exec>
  view<const T> share(Exec e, view<const T> rows, const ticket& t, scratch<Exec>& local) const {
    if (etp_->size() == 1) return rows;
    view<T> out = local.template take<T>(t.exchange_of_batch.extent(0), rows.extent(1));
    etp_->all_gather_v(e, rows.span(), elements(t.shared, rows.extent(1), local), out.span()).wait(e);
    return out;
  }
  /// ReduceScatter-V over etp; one rank: the rows themselves.
  template <class Exec>
  view<const T> reduce_shared(Exec e, view<const T> rows, const ticket& t, scratch<Exec>& local) const {
    if (etp_->size() == 1) return rows;
    view<T> out = local.template take<T>(extent_t(t.shared(etp_->rank())), rows.extent(1));
    etp_->reduce_scatter_v(e, rows.span(), elements(t.shared, rows.extent(1), local), out.span(), sum{}).wait(e);
    return out;
  }
  template <class Exec>
  static std::span<const std::size_t> elements(view<const std::size_t> rows, extent_t width, scratch<Exec>& local) {
    view<std::size_t> counts = local.template take<std::size_t>(rows.extent(0));
    for (extent_t i = 0; i < rows.extent(0); ++i) counts(i) = rows(i) * std::size_t(width);
    return counts.span();
  }

  extent_t experts_;
  extent_t top_k_;
  Comm* ep_;
  Comm* etp_;
};

}  // namespace moefold
