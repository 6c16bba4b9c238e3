#pragma once
// The two runs that most suites of mappings compare: the same policies in fp64 and in fp32. The trainer of each is compiled once, in
// tests/mapping/mapping_test.cpp; schedules, dispatch facts and sizes are values of mapping_options.
#include "compare_runs.hpp"

namespace moefold::testing {

using double_policies = policies<fp64, cp_all_gather, moe_defaults, one_f_one_b, adamw>;
using float_policies = policies<fp32, cp_all_gather, moe_defaults, one_f_one_b, adamw>;

extern template outcome train_mapping<double_policies>(const folding_extents& fold, const mapping_options& options);
extern template outcome train_mapping<float_policies>(const folding_extents& fold, const mapping_options& options);

}  // namespace moefold::testing
