#pragma once
// Choices that travel with the place of their token in token order, so that ranks which hold different tokens can agree on whom to drop.
//
//   number_choices   rows[t] = number of token t, then its k experts     [n, 1 + k]
//   split_numbers    rows -> number [N], expert [N, k]                   count_up   number[t] = t
#include <moefold/core/batch_place.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

inline void number_choices(host_exec, const batch_place& place, view<const std::int32_t> expert, view<std::int32_t> rows) {
  const extent_t n = rows_of(expert), k = cols_of(expert);
  require_matrix("number_choices", "rows", rows, n, 1 + k);
  for (extent_t t = 0; t < n; ++t) {
    rows(t, 0) = std::int32_t(place.number(t));
    for (extent_t j = 0; j < k; ++j) rows(t, 1 + j) = expert(t, j);
  }
}

inline void split_numbers(host_exec, view<const std::int32_t> rows, view<std::int32_t> number, view<std::int32_t> expert) {
  const extent_t n = rows_of(expert), k = cols_of(expert);
  require_matrix("split_numbers", "rows", rows, n, 1 + k);
  require_count("split_numbers", "number", number.size(), n);
  for (extent_t t = 0; t < n; ++t) {
    number(t) = rows(t, 0);
    for (extent_t j = 0; j < k; ++j) expert(t, j) = rows(t, 1 + j);
  }
}

inline void count_up(host_exec, view<std::int32_t> number) {
  for (std::size_t t = 0; t < number.size(); ++t) number[t] = std::int32_t(t);
}

}  // namespace moefold
