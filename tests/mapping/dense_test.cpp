// The first layers dense, so that stages without a MoE layer exist, in every mapping against one rank: gradients, losses, norms, traffic, memory, replicas.
#include <moefold/schedule/zero_bubble.hpp>
#include "../support/common_runs.hpp"
#include "../support/mappings.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::testing;

namespace {

mapping_options dense(extent_t layers, std::int64_t steps = 3) {
  mapping_options options = small_model();
  options.model.dense_layers = layers;
  options.model.dense_ffn = 20;
  options.steps = steps;
  return options;
}

}  // namespace

TEST_SUITE("mapping/dense") {
  TEST_CASE("with 3 of 5 layers dense every mapping gives the single rank's numbers; with 2 or more stages the first has no MoE layer") {
    const outcome one = train_mapping<double_policies>({}, dense(3));
    report(one);
    CHECK(one.first.count("layers.2.mlp.down") + one.first.count("layers.3.moe.router") == 2);
    CHECK(one.first.count("layers.2.moe.router") + one.first.count("layers.3.mlp.up") == 0);
    CHECK(one.losses.back() < one.losses.front());
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      compare_in_double(train_mapping<double_policies>(m.fold, dense(3)), one);
    }
  }
  TEST_CASE("recomputed or with its backward in two parts a dense layer gives the same numbers") {
    const outcome one = train_mapping<double_policies>({}, dense(3));
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {dp, 2}, {pp, 2}}, {{etp, 2}, {edp, 2}, {pp, 2}});
    for (const recompute_rule& rule :
         {recompute_full, selective<recompute_part::norms, recompute_part::activation>, selective<recompute_part::moe>})
      for (const schedule_value* schedule : {&value_of_schedule<one_f_one_b>, &value_of_schedule<zero_bubble_h1>}) {
        CAPTURE(describe(rule));
        CAPTURE(schedule->name);
        mapping_options options = dense(3);
        options.train.recompute = rule;
        options.train.schedule = schedule;
        compare_in_double(train_mapping<double_policies>(fold, options), one);
      }
  }
}
