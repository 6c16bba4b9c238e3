#pragma once
// Parameters that one token uses: of the experts only the chosen ones.
#include <moefold/inventory/parameters.hpp>

namespace moefold::testing {

constexpr extent_t used_parameters(const model_shape& m) {
  extent_t total = 0;
  for_each_parameter(m, folding_extents{}, 0,
                     [&](const parameter_fact& p) { total += of_expert(p.kind) ? p.parameters() / m.experts * m.top_k : p.parameters(); });
  return total;
}

/// Within half of the last digit given: in(46'702'792'704, 46.7, 0.05) billions.
constexpr bool billions(extent_t parameters, double published, double half_digit) {
  const double off = double(parameters) / 1e9 - published;
  return off < half_digit && off > -half_digit;
}

}  // namespace moefold::testing
