// A table that embedding and head share, in every mapping against one rank: gradients, losses, norms, traffic, memory and replicas.
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/zero_bubble.hpp>
#include "../support/common_runs.hpp"
#include "../support/mappings.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::testing;

namespace {

mapping_options tied(std::int64_t steps = 3) {
  mapping_options options = small_model();
  options.model.tied_embeddings = true;
  options.steps = steps;
  return options;
}

}  // namespace

TEST_SUITE("mapping/tied") {
  TEST_CASE("in every mapping the shared table has the single rank's gradient, is reduced once, travels as foretold and stays one") {
    const outcome one = train_mapping<double_policies>({}, tied());
    report(one);
    CHECK(one.first.count("head") == 0);
    CHECK(one.losses.back() < one.losses.front());
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      compare_in_double(train_mapping<double_policies>(m.fold, tied()), one);
    }
  }
  TEST_CASE("schedules that part the backward or the stages give the same numbers") {
    const outcome one = train_mapping<double_policies>({}, tied());
    using enum axis_id;
    for (const schedule_value* schedule : {&value_of_schedule<interleaved<2>>, &value_of_schedule<zero_bubble_h1>})
      for (const mapping& m : {mapping{"one rank", {}}, mapping{"pp 2", make_folding({{dp, 2}, {pp, 2}}, {{edp, 2}, {pp, 2}})},
                               mapping{"pp 4", make_folding({{pp, 4}}, {{pp, 4}})}}) {
        mapping_options options = tied();
        options.train.schedule = schedule;
        if (schedule->chunks * m.fold.attention.of(pp) > options.model.layers) continue;
        CAPTURE(m.name);
        CAPTURE(schedule->name);
        compare_in_double(train_mapping<double_policies>(m.fold, options), one);
      }
  }
  TEST_CASE("so it is where a stage holds the table alone, and where nothing travels beside the computation") {
    const outcome one = train_mapping<double_policies>({}, tied());
    using enum axis_id;
    folding_extents fold = make_folding({{tp, 2}, {pp, 4}}, {{ep, 2}, {pp, 4}});
    for (const layer_split& split : {layer_split{}, layer_counts({0, 3, 2, 0}), layer_counts({0, 0, 5, 0})})
      for (const bool overlap : {true, false}) {
        CAPTURE(split.given);
        CAPTURE(overlap);
        fold.layers = split;
        mapping_options options = tied();
        options.train.overlap = overlap;
        compare_in_double(train_mapping<double_policies>(fold, options), one);
      }
  }
  TEST_CASE("a head of its own is another model") {
    mapping_options untied = tied(2);
    untied.model.tied_embeddings = false;
    const outcome own = train_mapping<double_policies>({}, untied), shared = train_mapping<double_policies>({}, tied(2));
    CHECK(relative(own.losses, shared.losses) > 1e-4);
    CHECK(max_difference(own.first.at("embedding"), shared.first.at("embedding")) > 1e-4);
  }
}
