#pragma once
// Trains every sampled run (support/sampled_runs.hpp) for ten steps in fp64 and compares it with one rank that made the same choices. What costs a
// compilation elsewhere is chosen at run time here, so that the whole suite compiles two kinds.
#include "compare_runs.hpp"
#include "sampled_runs.hpp"

#include <moefold/schedule/gpipe.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <optional>

namespace moefold::testing {

/// The context policy of the run at hand. One run at a time: the choice is the process's.
struct chosen_context {
  static constexpr const char* name = "chosen_context";
  inline static context_choice choice = context_choice::all_gather;
  inline static context_facts facts{};
  static void choose(context_choice c) {
    choice = c;
    facts = c == context_choice::all_gather ? cp_all_gather::facts
          : c == context_choice::ring       ? cp_ring::facts
          : c == context_choice::all_to_all ? cp_all_to_all::facts
                                            : cp_combined<2>::facts;
  }
  template <class Comm>
  struct groups {
    std::optional<cp_all_gather::groups<Comm>> all_gather;
    std::optional<cp_ring::groups<Comm>> ring;
    std::optional<cp_all_to_all::groups<Comm>> all_to_all;
    std::optional<cp_combined<2>::groups<Comm>> combined;
    groups(Comm& cp, bool overlap) {
      switch (choice) {
        case context_choice::all_gather: all_gather.emplace(cp, overlap); break;
        case context_choice::ring: ring.emplace(cp, overlap); break;
        case context_choice::all_to_all: all_to_all.emplace(cp, overlap); break;
        case context_choice::combined: combined.emplace(cp, overlap); break;
      }
    }
  };
  template <class T, class A, class Exec, class Comm, class... Rest>
  static void forward(Exec e, groups<Comm>& g, const Rest&... rest) {
    switch (choice) {
      case context_choice::all_gather: return cp_all_gather::forward<T, A>(e, *g.all_gather, rest...);
      case context_choice::ring: return cp_ring::forward<T, A>(e, *g.ring, rest...);
      case context_choice::all_to_all: return cp_all_to_all::forward<T, A>(e, *g.all_to_all, rest...);
      case context_choice::combined: return cp_combined<2>::forward<T, A>(e, *g.combined, rest...);
    }
  }
  template <class T, class A, class Exec, class Comm, class... Rest>
  static void backward(Exec e, groups<Comm>& g, const Rest&... rest) {
    switch (choice) {
      case context_choice::all_gather: return cp_all_gather::backward<T, A>(e, *g.all_gather, rest...);
      case context_choice::ring: return cp_ring::backward<T, A>(e, *g.ring, rest...);
      case context_choice::all_to_all: return cp_all_to_all::backward<T, A>(e, *g.all_to_all, rest...);
      case context_choice::combined: return cp_combined<2>::backward<T, A>(e, *g.combined, rest...);
    }
  }
};

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
