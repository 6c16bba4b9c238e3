#pragma once
// Vocabulary-parallel head and cross-entropy. Each tp rank computes its slice of the logits for all tokens of the CP part; one all-gather of
// three numbers per token (max, sum of exponentials, target logit) gives every rank the same loss, and the gradient replaces the logits in place.
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/linear.hpp>
#include <moefold/layers/sequence.hpp>
#include <moefold/ops/cross_entropy.hpp>
#include <moefold/ops/top_k.hpp>
#include <moefold/ops/total.hpp>
#include <moefold/tensor/copy.hpp>

#include <algorithm>

namespace moefold {

template <class Precision, class Comm>
struct loss_layer {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  linear<Precision, rows_over_tp> head;  // [V/TP, H] of this rank
  Comm* tp = nullptr;
  extent_t vocabulary = 0;  // V, without padding

  struct saved {
    view<const T> x;   // [T/TP, H], the caller's
    view<A> gradient;  // [T, V/TP]: logits, then softmax - onehot; in accumulate_t, never rounded to storage
  };

  /// x [T/TP, H], labels [T] of the whole CP part (negative: ignored); adds the summed loss of this tp rank's own T/TP tokens to total [1].
  /// Collective over tp: two all-gathers.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, std::span<const std::int32_t> labels, Arena& keep, saved& s, view<double> total) const {
    const extent_t tokens = x.extent(0) * tp->size(), width = head.weight.value.extent(0);
    require(extent_t(labels.size()) == tokens, "moefold: the loss needs one label for each of the ", tokens,
            " tokens of the CP part, given ", labels.size());
    require_labels(e, labels, vocabulary);  // no rank would hold it, and the loss would be wrong without a word
    s = {x, keep.template take<A>(tokens, width)};
    scratch local(e);
    gemm_nt(e, gather_rows_of_group<T>(e, *tp, x, local), head.weight.value, s.gradient);
    const extent_t first = tp->rank() * width, valid = std::clamp<extent_t>(vocabulary - first, 0, width);
    view<A> mine = local.template take<A>(tokens, 3), stats = local.template take<A>(tokens, 3), loss = local.template take<A>(tokens);
    cross_entropy_local(e, view<const A>(s.gradient), labels, first, valid, mine);
    view<A> parts = mine;
    if (tp->size() > 1) {
      parts = local.template take<A>(tp->size(), tokens, 3);
      tp->all_gather(e, std::span<const A>(mine.span()), parts.span()).wait(e);
    }
    cross_entropy_merge(e, view<const A>(parts.as({tp->size(), tokens, 3})), stats, loss);
    cross_entropy_backward(e, s.gradient, labels, first, valid, view<const A>(stats));
    sum_to(e, view<const A>(loss.rows(tp->rank() * x.extent(0), x.extent(0))), total);
  }
  /// dx [T/TP, H], assigned: the gradient of the summed loss; the head's gradient is accumulated. Collective over tp.
  template <class Exec>
  void backward(Exec e, view<T> dx, const saved& s) const {
    scratch local(e);
    view<const T> x = gather_rows_of_group<T>(e, *tp, s.x, local);
    view<T> partial = partial_rows<T, Exec>(*tp, dx, local);
    weight_gradient(e, view<const A>(s.gradient), x, head.weight.gradient);
    gemm_nn(e, view<const A>(s.gradient), head.weight.value, partial);
    sum_and_scatter_rows<T>(e, *tp, partial, dx);
  }
  /// The likeliest next token behind each of this rank's rows, in place of a backward: the logits are made once more where their gradient was.
  /// ids [T/TP], in host memory; of equal logits the lowest id, padding never. Collective over tp: three all-gathers. Waits.
  template <class Exec>
  void best_tokens(Exec e, const saved& s, view<std::int32_t> ids) const {
    const extent_t rows = s.x.extent(0), tokens = rows * tp->size(), width = head.weight.value.extent(0), first = tp->rank() * width;
    require_count("best_tokens", "ids", ids.size(), rows);
    const extent_t valid = std::clamp<extent_t>(vocabulary - first, 0, width);
    scratch local(e);
    const view<const T> x = gather_rows_of_group<T>(e, *tp, s.x, local);
    const view<A> value = local.template take<A>(tokens, 1);
    const view<std::int32_t> column = local.template take<std::int32_t>(tokens, 1);
    if (valid > 0) {
      const view<A> logits(s.gradient.data(), {tokens, valid});
      gemm_nt(e, x, head.weight.value.rows(0, valid), logits);
      top_k(e, view<const A>(logits), 1, column, value);
    } else {
      fill(e, column, -1), fill(e, value, A(0));  // no column: behind all
    }
    const view<A> values = local.template take<A>(tp->size(), tokens);
    const view<std::int32_t> columns = local.template take<std::int32_t>(tp->size(), tokens);
    tp->all_gather(e, std::span<const A>(value.span()), values.span()).wait(e);
    tp->all_gather(e, std::span<const std::int32_t>(column.span()), columns.span()).wait(e);
    const view<const A> of_rank = on_host(e, view<const A>(values), local);
    const view<const std::int32_t> at_rank = on_host(e, view<const std::int32_t>(columns), local);
    for (extent_t row = 0; row < rows; ++row) {
      const extent_t token = tp->rank() * rows + row;
      detail::ranked<A> best;
      for (extent_t r = 0; r < tp->size(); ++r) {
        const std::int32_t there = at_rank(r, token);
        const detail::ranked<A> one{of_rank(r, token), there < 0 ? -1 : std::int32_t(r * width) + there};
        if (one.before(best)) best = one;
      }
      ids(row) = best.index;
    }
  }
};

}  // namespace moefold
