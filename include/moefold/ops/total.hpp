#pragma once
// A running total that stays where the exec computes: added to by every micro-batch, read by the host once a step.
//
//   total[0] += x[0] + x[1] + ...        summed in double, in a fixed order
#include <moefold/ops/rows.hpp>

namespace moefold {

template <class A>
void sum_to(host_exec, view<A> x, view<double> total) {
  require_count("sum_to", "total", total.size(), 1);
  const A* const in = x.data();
  total.data()[0] += lane_sum<double>(extent_t(x.size()), [=](extent_t i) { return double(in[i]); });
}

}  // namespace moefold
