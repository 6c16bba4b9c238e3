#pragma once
// Vocabulary-parallel embedding: each tp rank looks up the tokens of its CP part in its own rows of the table; the sum over tp is the embedding,
// scattered so that each rank is left with its own tokens.
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/layers/sequence.hpp>
#include <moefold/ops/embedding.hpp>
#include <moefold/ops/ids.hpp>

namespace moefold {

template <class Precision, class Comm>
struct embedding_layer {
  using T = typename Precision::storage;
  parameter<Precision, rows_over_tp> table;  // [V/TP, H] of this rank
  Comm* tp = nullptr;
  extent_t vocabulary = 0;  // V, without padding

  /// ids [T] of the whole CP part -> y [T/TP, H]. Collective over tp: one reduce-scatter.
  template <class Exec>
  void forward(Exec e, std::span<const std::int32_t> ids, view<T> y) const {
    const extent_t rows = table.value.extent(0) * tp->size();
    require(vocabulary <= rows, "moefold: an embedding of ", rows, " rows over tp cannot hold a vocabulary of ", vocabulary,
            "; give each of the ", tp->size(), " ranks an equal share of at least so many rows");
    require_tokens(e, ids, vocabulary);  // no rank would hold it, or as padding: its embedding would be zero without a word
    scratch local(e);
    view<T> partial = partial_rows<T, Exec>(*tp, y, local);
    embedding_forward(e, table.value, ids, first_row(), partial);
    sum_and_scatter_rows<T>(e, *tp, partial, y);
  }
  /// dy [T/TP, H]; the table's gradient is accumulated. Collective over tp: one all-gather.
  template <class Exec>
  void backward(Exec e, view<const T> dy, std::span<const std::int32_t> ids) const {
    scratch local(e);
    embedding_backward(e, gather_rows_of_group<T>(e, *tp, dy, local), ids, first_row(), table.gradient);
  }

 private:
  extent_t first_row() const { return tp->rank() * table.value.extent(0); }
};

}  // namespace moefold
