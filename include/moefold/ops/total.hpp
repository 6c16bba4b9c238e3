#pragma once
// The sum of a tensor, added to a number that stays in the memory of the exec: how losses of many micro-batches become one number without a wait for any.
//
//   x [n] of float, double or bf16  ->  total [1] += x[0] + .. + x[n - 1]        in double, in a fixed order
#include <moefold/ops/rows.hpp>

namespace moefold {

/// Local. Adds nothing for an empty x.
template <class A>
void sum_to(host_exec, view<A> x, view<double> total) {
  require_count("sum_to", "total", total.size(), 1);
  total[0] += lane_sum<double>(extent_t(x.size()), [=](extent_t i) { return double(accumulate_t<A>(x[std::size_t(i)])); });
}

}  // namespace moefold
