#pragma once
// Cross-entropy over a vocabulary whose columns may be split over ranks: each rank reduces its columns to three numbers per token, the
// numbers of all ranks merge into the loss, and each rank turns its own logits into their gradient.
//
//   logits [n, V_local]   labels [n]   this rank holds columns first_row .. of the vocabulary; those from valid_rows on are padding
//   stats  [n, 3]         max, sum of exp(logit - max), logit of the label (0 on the ranks that do not hold it)
//   loss   [n]            log(sum) + max - target;   a negative label is ignored: sum exactly 0, loss 0, gradient 0
//                         a NaN among the logits is in the sum of its row, and so in its loss and its gradient
//
// Source: Shoeybi et al. 2019, "Megatron-LM", arXiv 1909.08053, section 3.
#include <moefold/ops/exp.hpp>
#include <moefold/ops/rows.hpp>

#include <algorithm>

namespace moefold {

/// Throws if a label is not below `vocabulary`: no rank would hold its column, and the loss would be wrong without a word. Negative labels are ignored
/// ones. On a device the complaint comes when the host next waits.
inline void require_labels(host_exec, std::span<const std::int32_t> labels, std::int64_t vocabulary) {
  for (std::size_t t = 0; t < labels.size(); ++t)
    require(labels[t] < vocabulary, "moefold: label ", labels[t], " is outside the vocabulary of ", vocabulary, " (at place ", t,
            "); use labels below it, negative to ignore");
}

/// valid_rows: how many of this rank's columns are real, 0 <= valid_rows <= V_local.
template <class T>
void cross_entropy_local(host_exec, view<T> logits, std::span<const std::int32_t> labels, std::int64_t first_row, std::int64_t valid_rows,
                         view<accumulate_t<T>> stats) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(logits), width = cols_of(logits);
  require_count("cross_entropy_local", "labels", labels.size(), n);
  require_matrix("cross_entropy_local", "stats", stats, n, 3);
  require(valid_rows >= 0 && valid_rows <= width, "moefold: cross_entropy_local has ", width, " columns, of which ", valid_rows,
          " cannot be valid; pass 0 to ", width);
  for (extent_t t = 0; t < n; ++t) {
    const T* const in = logits.data() + t * width;
    A* const out = stats.data() + 3 * t;
    const std::int64_t label = labels[std::size_t(t)], own = label - first_row;
    out[0] = -std::numeric_limits<A>::infinity(), out[1] = out[2] = A(0);
    if (label < 0 || valid_rows == 0) continue;
    const A top = lane_max<A>(valid_rows, [=](extent_t c) { return in[c]; });
    out[0] = top;
    out[1] = lane_sum<A>(valid_rows, [=](extent_t c) { return exp_of(A(in[c]) - top); });
    if (own >= 0 && own < valid_rows) out[2] = A(in[own]);
  }
}

/// parts [shards, n, 3] -> stats [n, 3] and loss [n], shard after shard.
template <class A>
void cross_entropy_merge(host_exec, input<A> parts, view<A> stats, output<A> loss) {
  const extent_t n = rows_of(stats);
  require_matrix("cross_entropy_merge", "stats", stats, n, 3);
  require_count("cross_entropy_merge", "loss", loss.size(), n);
  require(parts.rank() == 3 && parts.extent(0) > 0, "moefold: cross_entropy_merge needs parts [shards, tokens, 3] of at least one shard");
  require_matrix("cross_entropy_merge", "parts", parts, parts.extent(0) * n, 3);
  for (extent_t t = 0; t < n; ++t) {
    A top = -std::numeric_limits<A>::infinity(), sum = 0, target = 0;
    for (extent_t s = 0; s < parts.extent(0); ++s) top = std::max(top, parts(s, t, 0));
    for (extent_t s = 0; s < parts.extent(0); ++s) {
      if (parts(s, t, 1) != A(0)) sum += parts(s, t, 1) * std::exp(parts(s, t, 0) - top);
      target += parts(s, t, 2);
    }
    A* const out = stats.data() + 3 * t;
    out[0] = top, out[1] = sum, out[2] = target;
    loss.data()[t] = sum == A(0) ? A(0) : std::log(sum) + top - target;  // not `> 0`: NaN is no ignored label
  }
}

/// logits become softmax - onehot, the gradient of the sum of the losses: zero rows where the label is ignored, zero columns of padding.
template <class T>
void cross_entropy_backward(host_exec, view<T> logits, std::span<const std::int32_t> labels, std::int64_t first_row,
                            std::int64_t valid_rows, input<accumulate_t<T>> stats) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(logits), width = cols_of(logits);
  require_count("cross_entropy_backward", "labels", labels.size(), n);
  require_matrix("cross_entropy_backward", "stats", stats, n, 3);
  require(valid_rows >= 0 && valid_rows <= width, "moefold: cross_entropy_backward has ", width, " columns, of which ", valid_rows,
          " cannot be valid; pass 0 to ", width);
  for (extent_t t = 0; t < n; ++t) {
    T* const x = logits.data() + t * width;
    const std::int64_t label = labels[std::size_t(t)], own = label - first_row;
    if (label < 0) {
      std::fill_n(x, width, T(0));
      continue;
    }
    const A top = stats.data()[3 * t], inverse = A(1) / stats.data()[3 * t + 1];
    for (extent_t c = 0; c < valid_rows; ++c) x[c] = T(exp_of(A(x[c]) - top) * inverse);
    std::fill(x + valid_rows, x + width, T(0));
    if (own >= 0 && own < valid_rows) x[own] = T(A(x[own]) - A(1));
  }
}

}  // namespace moefold
