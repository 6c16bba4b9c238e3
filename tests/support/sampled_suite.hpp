#pragma once
// Trains every sampled run (support/sampled_runs.hpp) for ten steps in fp64 and compares it with one rank that made the same choices. What costs a
// compilation elsewhere is chosen at run time here, so that the whole suite compiles two kinds.
#include "chosen_context.hpp"
#include "compare_runs.hpp"
#include "sampled_runs.hpp"

#include <moefold/schedule/gpipe.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/zero_bubble.hpp>

namespace moefold::testing {

struct gathering_moe : moe_defaults {
  template <class T, class Comm>
  using dispatcher = all_gather_dispatcher<T, Comm>;
};

inline const schedule_value& value_of_choice(schedule_choice choice) {
  switch (choice) {
    case schedule_choice::gpipe: return value_of_schedule<gpipe>;
    case schedule_choice::interleaved_2: return value_of_schedule<interleaved<2>>;
    case schedule_choice::zero_bubble: return value_of_schedule<zero_bubble>;
    case schedule_choice::one_f_one_b: break;
  }
  return value_of_schedule<one_f_one_b>;
}

inline mapping_options options_of(const sampled_run& run) {
  using enum recompute_part;
  mapping_options o = small_model();
  // Equal words in documents of their own are equal to rounding: which of them has the larger weight says nothing, so packed ones drop by position.
  if (run.kind.tokens == tokens_choice::capacity) o.facts.tokens = {110, true, run.packed};
  if (run.packed) o.document_end = std::int32_t(o.model.vocabulary - 1);  // the end of every word of test_data
  o.model.tied_embeddings = run.tied;
  o.train.schedule = &value_of_choice(run.kind.schedule);
  o.train.recompute = run.kind.recompute == recompute_choice::full      ? recompute_full
                    : run.kind.recompute == recompute_choice::selective ? selective<norms, activation, core_attention>
                                                                        : recompute_none;
  o.train.overlap = run.overlap;
  if (run.overlap) o.train.bucket = 500;  // a few for every stage
  return o;
}

template <class Moe>
outcome train_sampled(folding_extents fold, const mapping_options& options) {
  fold.layers.chunks = options.train.schedule ? options.train.schedule->chunks : 1;
  return train_mapping<policies<fp64, chosen_context, Moe, one_f_one_b, adamw>>(fold, options);
}

inline void check_sampled(const std::vector<sampled_run>& runs) {
  std::map<std::vector<bool>, outcome> alone;  // by what one rank knows of: tokens, tied, packed
  double worst = 0;
  for (const sampled_run& run : runs) {
    const bool drops = run.kind.tokens == tokens_choice::capacity;
    const mapping_options options = options_of(run);
    outcome& one = alone[{drops, run.tied, run.packed}];
    if (one.losses.empty()) {
      mapping_options plain = options;
      plain.train.schedule = nullptr, plain.train.recompute = {}, plain.train.overlap = false;
      chosen_context::choose(context_choice::all_gather);
      one = train_sampled<moe_defaults>({}, plain);
      report(one);
    }
    chosen_context::choose(run.kind.context);
    CAPTURE(run.where.name);
    CAPTURE(int(run.kind.context));
    CAPTURE(int(run.kind.schedule));
    CAPTURE(int(run.kind.dispatcher));
    CAPTURE(int(run.kind.recompute));
    CAPTURE(run.overlap);
    CAPTURE(run.tied);
    CAPTURE(run.packed);
    CAPTURE(drops);
    const outcome many = run.kind.dispatcher == dispatcher_choice::all_gather ? train_sampled<gathering_moe>(run.where.fold, options)
                                                                              : train_sampled<moe_defaults>(run.where.fold, options);
    worst = std::max(worst, compare_in_double(many, one));
    CHECK(many.dropped == one.dropped);
    CHECK((!drops || one.dropped.front() > 0));
  }
  std::printf("%zu sampled runs: gradients %.1e\n", runs.size(), worst);
}

}  // namespace moefold::testing
