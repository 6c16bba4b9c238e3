#pragma once
// Vocabulary-parallel head and cross-entropy. Each tp rank computes its slice of the logits for all tokens of the CP part; one all-gather of
// three numbers per token (max, sum of exponentials, target logit) gives every rank the same loss, and the gradient replaces the logits in place.
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/linear.hpp>
#include <moefold/layers/sequence.hpp>
#include <moefold/ops/cross_entropy.hpp>
#include <moefold/ops/total.hpp>

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
};

}  // namespace moefold
