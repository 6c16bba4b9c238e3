// Every pipeline schedule trains as one rank does: stages x chunks x micro-batches, fewer micro-batches than stages and no multiples of them included;
// layers shared out unevenly, down to stages without any.
#include "../support/common_runs.hpp"

#include <moefold/schedule/gpipe.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <cstdio>

using namespace moefold;
using namespace moefold::testing;

namespace {

/// With a schedule as a value: one trainer plays them all.
template <class Schedule>
outcome train_with(const folding_extents& fold, mapping_options options) {
  static const schedule_value schedule = value_of_schedule<Schedule>;
  options.train.schedule = &schedule;
  return train_mapping<double_policies>(fold, options);
}

/// A sequence is a micro-batch: the batch is their number.
mapping_options tiny_model(extent_t micro_batches) {
  mapping_options o;
  o.model.layers = 4;  // fewer than 8 stages of 4 chunks
  o.model.hidden = 8;
  o.model.heads = 2;
  o.model.kv_heads = 2;
  o.model.head_dim = 4;
  o.model.experts = 4;
  o.model.ffn = 6;
  o.model.vocabulary = 20;
  o.model.init_std = 0.2;
  o.sequence = 8;
  o.steps = 3;
  o.train.global_batch = micro_batches;
  o.train.learning_rate = 2e-3;
  return o;
}

/// pp stages; counts are given where the model has fewer layers than there are virtual stages: the last ones hold none.
folding_extents stages(extent_t pp, int chunks, extent_t layers) {
  folding_extents fold = make_folding({{axis_id::pp, pp}}, {{axis_id::pp, pp}});
  if (pp * chunks > layers) {
    for (extent_t v = 0; v < pp * chunks; ++v) fold.layers.counts[std::size_t(v)] = v < layers ? 1 : 0;
    fold.layers.given = pp * chunks;
  }
  fold.layers.chunks = chunks;
  return fold;
}

const outcome& one_rank(extent_t micro_batches) {
  static std::map<extent_t, outcome> known;
  auto at = known.find(micro_batches);
  if (at == known.end()) at = known.emplace(micro_batches, train_with<one_f_one_b>({}, tiny_model(micro_batches))).first;
  return at->second;
}

template <class Schedule>
void trains_as_one_rank() {
  double worst = 0;
  for (const extent_t pp : {1, 2, 4, 8})
    for (const extent_t m : {1, 2, 3, 5, 8, 16}) {
      CAPTURE(pp);
      CAPTURE(m);
      const mapping_options o = tiny_model(m);
      worst = std::max(worst, compare_in_double(train_with<Schedule>(stages(pp, Schedule::chunks, o.model.layers), o), one_rank(m)));
    }
  std::printf("%-16s 24 pipelines, gradients %.1e\n", Schedule::name, worst);
}

}  // namespace

TEST_SUITE("mapping/schedules") {
  TEST_CASE("1F1B trains as one rank does") { trains_as_one_rank<one_f_one_b>(); }
  TEST_CASE("gpipe trains as one rank does") { trains_as_one_rank<gpipe>(); }
  TEST_CASE("two interleaved chunks train as one rank does") { trains_as_one_rank<interleaved<2>>(); }
  TEST_CASE("four interleaved chunks train as one rank does") { trains_as_one_rank<interleaved<4>>(); }
  TEST_CASE("a backward in two parts trains as one rank does") { trains_as_one_rank<zero_bubble>(); }
  TEST_CASE("delayed weight gradients train as one rank does") { trains_as_one_rank<zero_bubble_h1>(); }

  TEST_CASE("schedules on folded stages, each layer's gradients summed beside the computation, train as one rank does") {
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}, {axis_id::pp, 2}}, {{axis_id::ep, 4}, {axis_id::pp, 2}});
    const folding_extents wide =
        make_folding({{axis_id::cp, 2}, {axis_id::dp, 2}, {axis_id::pp, 2}}, {{axis_id::etp, 2}, {axis_id::edp, 2}, {axis_id::pp, 2}});
    const auto compare = [](auto schedule, folding_extents folded) {
      mapping_options o = tiny_model(6);
      const outcome& one = one_rank(6);
      folded.layers.chunks = decltype(schedule)::chunks;
      o.train.bucket = 1;  // a layer to a bucket
      CAPTURE(decltype(schedule)::name);
      const outcome many = train_with<decltype(schedule)>(folded, o);
      CHECK(many.overlaps);
      compare_in_double(many, one);
    };
    for (const folding_extents& folded : {fold, wide}) {
      compare(gpipe{}, folded);
      compare(interleaved<2>{}, folded);
      compare(zero_bubble_h1{}, folded);
    }
  }
  TEST_CASE("what a split backward leaves for later is the inventory's to the byte, and nothing is left where it is not split") {
    const auto run = [](auto schedule) { return train_with<decltype(schedule)>(stages(2, 1, 4), tiny_model(3)); };
    const outcome split = run(zero_bubble{}), whole = run(one_f_one_b{});
    report(split);
    CHECK(whole.deferred == 0);
    CHECK(split.deferred > 0);
    CHECK(split.deferred == split.deferred_worst);  // one MoE rank: every routing is the worst
  }

  TEST_CASE("layers shared out unevenly, embedding or head alone on a stage, train as one rank does") {
    const auto compare = [](auto schedule, const layer_split& split) {
      folding_extents fold = stages(2, 1, 4);
      fold.layers = split;
      fold.layers.chunks = decltype(schedule)::chunks;
      CAPTURE(describe(split));
      compare_in_double(train_with<decltype(schedule)>(fold, tiny_model(3)), one_rank(3));
    };
    compare(one_f_one_b{}, layer_counts({3, 1}));
    compare(one_f_one_b{}, layer_counts({0, 4}));
    compare(zero_bubble{}, layer_counts({4, 0}));
    compare(interleaved<2>{}, layer_counts({0, 2, 1, 1}));
    layer_split weighed;
    weighed.head_weighs = true;
    compare(interleaved<2>{}, weighed);
    weighed.embedding_weighs = true;
    compare(zero_bubble_h1{}, weighed);
  }
}
