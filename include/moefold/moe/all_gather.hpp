#pragma once
// The AllGather dispatcher: every rank of etp x ep sees all their tokens, takes those that chose its experts, and the results are summed on
// the way back. Moves more bytes than the AllToAll dispatcher where EP > k, in fewer and larger messages, and needs no counts by expert.
//
//   x [n, H], choices [n, k], p [n, k] -etp, ep-> all [N, H + 2k] in the order [ep][etp][token] -select-> batch [R, H] by (expert, ep, etp, token)
//   y batch [R, H] -sum over slots here-> [N, H] -reduce-scatter over ep, etp-> y [n, H]        the way back carries H + k elements: dx, dp
//
// Per call 1 all_gather_v (dispatch, combine_backward) or reduce_scatter_v (combine, dispatch_backward) over each of etp and ep; dispatch
// also gathers the numbers of tokens (8 bytes over etp, 8 ETP over ep), not when padded, which needs the same number of tokens on every rank: then the
// host of a device never waits; else twice, for the numbers of tokens and for that of the batch's rows.
// A choice travels as a number of accumulate_t<T>: exact for any expert below 2^24 in fp32. In bf16 it is a float in two elements, and so is p
// (H + 4k); on the way back dp, which is added, is reduced apart in fp32: H elements of bf16, then k floats, one reduce_scatter_v each.
// Source: Liu et al. 2025, arXiv 2504.14960, section 3.3.
#include <moefold/moe/dispatcher.hpp>
#include <moefold/ops/choice_rows.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/exchange_order.hpp>
#include <moefold/tensor/copy.hpp>

#include <numeric>

namespace moefold {

template <class T, class Comm>
class all_gather_dispatcher {
 public:
  using value_type = T;
  using weight_type = accumulate_t<T>;
  using A = weight_type;
  static constexpr dispatch_kind kind = dispatch_kind::all_gather;
  static constexpr extent_t lanes = wide_lanes<T>;  // elements of a row that carry one choice or weight

  struct ticket {
    view<std::size_t> inner;         // [ETP] tokens of each etp peer; host memory
    view<std::size_t> outer;         // [EP] tokens of all etp peers of each ep peer; host memory
    view<std::int64_t> counts;       // [local experts] rows by expert, fillers not counted
    view<std::int32_t> row_of_slot;  // [N, k] row of the batch, -1: not here
    view<std::int32_t> slot_of_row;  // [R] -1: filler
    view<std::int64_t> offsets;      // [local experts + 1] rows of the batch by expert
    view<T> batch;                   // [R, H]
    view<A> weight;                  // [R]
  };

  all_gather_dispatcher(extent_t experts, extent_t top_k, Comm& ep, Comm& etp) : experts_(experts), top_k_(top_k), ep_(&ep), etp_(&etp) {
    require(experts % ep.size() == 0, "moefold: ", experts, " experts cannot be shared equally by ", ep.size(), " ep ranks");
    require(experts < (std::int64_t{1} << std::numeric_limits<A>::digits), "moefold: the AllGather dispatcher sends choices as numbers of ",
            std::numeric_limits<A>::digits, " bits, too few for ", experts, " experts; use the AllToAll dispatcher");
  }

  /// Collective over etp and ep. Throws if an expert index is out of range.
  template <class Exec, class Arena, class Meanwhile = idle>
  ticket dispatch(Exec e, view<const T> x, const routing<A>& choice, Arena& keep, Meanwhile&& meanwhile = {}) const {
    const extent_t n = x.extent(0), hidden = x.extent(1), k = top_k_, own = experts_ / ep_->size(), sources = ep_->size() * etp_->size();
    const bool padded = choice.padded_rows >= 0;
    ticket t;
    t.inner = keep.template take_host<std::size_t>(etp_->size());
    t.outer = keep.template take_host<std::size_t>(ep_->size());
    gather_token_counts(e, n, padded, t);
    const extent_t all = total_rows(t.outer);

    scratch local(e);
    const view<T> mine = local.template take<T>(n, hidden + choice_lanes<T>(k));
    pack_choices(e, x, choice.expert, choice.weight, experts_, mine);
    const view<const T> tokens = gather(e, view<const T>(mine), t, local, meanwhile);

    const view<std::int32_t> index = local.template take<std::int32_t>(all, k);
    split_choices(e, tokens, ep_->rank() * own, own, index);
    t.counts = keep.template take<std::int64_t>(own);
    t.offsets = keep.template take<std::int64_t>(own + 1);
    t.row_of_slot = keep.template take<std::int32_t>(all, k);
    if (padded) {
      t.slot_of_row = keep.template take<std::int32_t>(own * sources * choice.padded_rows);
      build_padded_permutation(e, index, own, sources, choice.padded_rows, t.counts.span(), t.row_of_slot, t.slot_of_row);
    } else {
      const view<std::int32_t> slots = local.template take<std::int32_t>(all * k);
      build_permutation(e, index, own, t.counts.span(), t.row_of_slot, slots);
      const view<const std::int64_t> counts = on_host(e, t.counts, local);
      t.slot_of_row = keep.template take<std::int32_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
      copy(e, view<const std::int32_t>(slots.rows(0, t.slot_of_row.extent(0))), t.slot_of_row);
    }
    row_offsets(e, t.counts, padded ? sources * choice.padded_rows : -1, t.offsets);

    t.batch = keep.template take<T>(t.slot_of_row.extent(0), hidden);
    t.weight = keep.template take<A>(t.slot_of_row.extent(0));
    gather_choices(e, tokens, t.slot_of_row.span(), k, t.batch, t.weight);
    return t;
  }

  /// Collective over ep and etp. y_batch [R, H] partial over etp -> y [n, H], assigned.
  template <class Exec>
  void combine(Exec e, view<const T> y_batch, view<T> y, const ticket& t) const {
    require_matrix("combine", "y_batch", y_batch, t.batch.extent(0), t.batch.extent(1));
    require_matrix("combine", "y", y, own_tokens(t), t.batch.extent(1));
    scratch local(e);
    const view<T> all = local.template take<T>(t.row_of_slot.extent(0), y.extent(1));
    combine_rows(e, y_batch, t.row_of_slot, all);
    reduce(e, view<const T>(all), y, t, local);
  }

  /// Collective over etp and ep. dy [n, H] -> dy_batch [R, H], assigned.
  template <class Exec, class Meanwhile = idle>
  void combine_backward(Exec e, view<const T> dy, view<T> dy_batch, const ticket& t, Meanwhile&& meanwhile = {}) const {
    require_matrix("combine_backward", "dy", dy, own_tokens(t), t.batch.extent(1));
    scratch local(e);
    permute_rows(e, gather(e, dy, t, local, meanwhile), t.slot_of_row.span(), top_k_, dy_batch, t.row_of_slot);
  }

  /// Collective over ep and etp. dbatch [R, H] and dweight [R], both partial over etp -> dx [n, H] and dchoice [n, k], assigned.
  template <class Exec>
  void dispatch_backward(Exec e, view<const T> dbatch, view<const A> dweight, view<T> dx, view<A> dchoice, const ticket& t) const {
    const extent_t n = own_tokens(t), hidden = t.batch.extent(1), width = hidden + choice_gradient_lanes<T>(top_k_);
    require_matrix("dispatch_backward", "dbatch", dbatch, t.batch.extent(0), hidden);
    require_count("dispatch_backward", "dweight", dweight.size(), t.batch.extent(0));
    require_matrix("dispatch_backward", "dx", dx, n, hidden);
    require_matrix("dispatch_backward", "dchoice", dchoice, n, top_k_);
    scratch local(e);
    const view<T> all = local.template take<T>(t.row_of_slot.extent(0), width), mine = local.template take<T>(n, width);
    const view<A> dp = local.template take<A>(lanes == 1 ? 0 : all.extent(0), top_k_);
    combine_choices(e, dbatch, dweight, t.row_of_slot, all, dp);
    reduce(e, view<const T>(all), mine, t, local);
    split_gradients(e, view<const T>(mine), dx, dchoice);
    if constexpr (lanes > 1) reduce(e, view<const A>(dp), dchoice, t, local);
  }

 private:
  extent_t own_tokens(const ticket& t) const { return extent_t(t.inner(etp_->rank())); }

  template <class Exec>
  void gather_token_counts(Exec e, extent_t n, bool padded, ticket& t) const {
    const extent_t etp = etp_->size(), ep = ep_->size();
    std::fill(t.inner.begin(), t.inner.end(), std::size_t(n));
    std::fill(t.outer.begin(), t.outer.end(), std::size_t(etp * n));
    if (padded) return;
    scratch local(e);
    const view<std::int64_t> own = local.template take<std::int64_t>(1);
    const view<std::int64_t> all = local.template take<std::int64_t>(etp + ep * etp), inner = all.rows(0, etp),
                             outer = all.rows(etp, ep * etp);
    fill(e, own, n);
    etp_->all_gather(e, std::span<const std::int64_t>(own.span()), inner.span()).wait(e);
    ep_->all_gather(e, std::span<const std::int64_t>(inner.span()), outer.span()).wait(e);
    const view<const std::int64_t> tokens = on_host(e, all, local);
    std::copy_n(tokens.begin(), etp, t.inner.begin());
    for (extent_t r = 0; r < ep; ++r) {
      const auto* const peers = tokens.data() + etp + r * etp;
      t.outer(r) = std::size_t(std::accumulate(peers, peers + etp, std::int64_t{0}));
    }
  }

  /// Rows of all ranks, in the order [ep][etp]; groups of one rank move nothing.
  template <class Exec, class Meanwhile>
  view<const T> gather(Exec e, view<const T> rows, const ticket& t, scratch<Exec>& local, Meanwhile&& meanwhile) const {
    const extent_t width = rows.extent(1);
    bool met = false;
    for (Comm* comm : {etp_, ep_}) {
      if (comm->size() == 1) continue;
      const view<const std::size_t> counts = comm == etp_ ? t.inner : t.outer;
      const view<T> out = local.template take<T>(total_rows(counts), width);
      const auto travelling = comm->all_gather_v(e, rows.span(), elements_of_rows(counts, width, local), out.span());
      if (!std::exchange(met, true)) meanwhile();
      travelling.wait(e);
      rows = out;
    }
    if (!met) meanwhile();
    return rows;
  }
  /// The sum over all ranks of their partial rows, this rank's part: the reverse of gather.
  template <class Exec, class U>
  void reduce(Exec e, view<const U> rows, view<U> out, const ticket& t, scratch<Exec>& local) const {
    const extent_t width = rows.extent(1);
    for (Comm* comm : {ep_, etp_}) {
      if (comm->size() == 1) continue;
      const view<const std::size_t> counts = comm == etp_ ? t.inner : t.outer;
      const view<U> part = local.template take<U>(extent_t(counts(comm->rank())), width);
      comm->reduce_scatter_v(e, rows.span(), elements_of_rows(counts, width, local), part.span(), sum{}).wait(e);
      rows = part;
    }
    copy(e, rows, out);
  }

  extent_t experts_;
  extent_t top_k_;
  Comm* ep_;
  Comm* etp_;
};

}  // namespace moefold
