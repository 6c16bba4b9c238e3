#pragma once
// The runs that the mapping suite compares with one rank: foldings times everything else that a run chooses, sampled so that every two choices which
// can go together do so in some run. Plain data: who compiles the kinds asks kinds_of() for the few that the sample needs.
//
//   a kind (types)    context x schedule x dispatcher x tokens x recompute        about 20 of the 192: each costs seconds to compile
//   its values        folding, overlap, tied, packed                              many runs of one kind
// A choice that would change nothing on a folding counts as not legal there (ring attention with cp 1): a pair in the sample is a pair that ran.
#include "mappings.hpp"
#include "pairwise.hpp"

#include <cstdio>

namespace moefold::testing {

enum class context_choice { all_gather, ring, all_to_all, combined };  // combined: all-to-all over 2 adjacent ranks, a ring of the rest
enum class schedule_choice { gpipe, one_f_one_b, interleaved_2, zero_bubble };
enum class dispatcher_choice { all_to_all, all_gather };
enum class tokens_choice { dropless, capacity };  // capacity: over full sequences, so that one rank drops the same
enum class recompute_choice { none, selective, full };

/// What costs a compilation.
struct run_kind {
  context_choice context;
  schedule_choice schedule;
  dispatcher_choice dispatcher;
  tokens_choice tokens;
  recompute_choice recompute;
  friend constexpr auto operator<=>(const run_kind&, const run_kind&) = default;
};

struct sampled_run {
  run_kind kind;
  mapping where;
  bool overlap;  // gradients in buckets that are reduced during backward, parameters gathered during the next forward
  bool tied;     // embedding and head are one parameter
  bool packed;   // several documents in a sequence
};

/// The numbers of the model on which the sample is legal: those of small_model() (support/compare_runs.hpp).
struct sample_model {
  extent_t layers = 5, heads = 4, kv_heads = 4, sequence = 32;
};

/// Those of support/mappings.hpp, and two on which combined context parallelism meets TP and PP.
inline std::vector<mapping> sample_foldings() {
  using enum axis_id;
  std::vector<mapping> all = mappings();
  all.push_back({"cp 4 pp 2, ep 4", make_folding({{cp, 4}, {pp, 2}}, {{ep, 4}, {pp, 2}})});
  all.push_back({"tp 2 cp 4 pp 2, etp 2 ep 2", make_folding({{tp, 2}, {cp, 4}, {pp, 2}}, {{etp, 2}, {ep, 2}, {edp, 2}, {pp, 2}})});
  return all;
}

/// A folding restricts the choices; each rule says in words what it needs.
struct sample_rule {
  const char* says;
  bool (*holds)(const sampled_run&, const sample_model&);
};
inline constexpr sample_rule sample_rules[] = {
    {"ring and all-to-all attention need cp > 1",
     [](const sampled_run& r, const sample_model&) {
       return r.kind.context == context_choice::all_gather || r.where.fold.attention.of(axis_id::cp) > 1;
     }},
    {"all-to-all attention cuts the heads of a rank over cp",
     [](const sampled_run& r, const sample_model& m) {
       const extent_t tp = r.where.fold.attention.of(axis_id::tp), cp = r.where.fold.attention.of(axis_id::cp);
       return r.kind.context != context_choice::all_to_all || (m.heads / tp % cp == 0 && m.kv_heads / tp % cp == 0);
     }},
    {"combined attention is 2 ranks of all-to-all and a ring of at least 2",
     [](const sampled_run& r, const sample_model& m) {
       const extent_t tp = r.where.fold.attention.of(axis_id::tp), cp = r.where.fold.attention.of(axis_id::cp);
       return r.kind.context != context_choice::combined || (cp >= 4 && cp % 2 == 0 && m.heads / tp % 2 == 0 && m.kv_heads / tp % 2 == 0);
     }},
    {"interleaved<2> needs a layer for each of 2 pp virtual stages",
     [](const sampled_run& r, const sample_model& m) {
       return r.kind.schedule != schedule_choice::interleaved_2 || m.layers >= 2 * r.where.fold.attention.of(axis_id::pp);
     }},
    {"gathering tokens needs other ranks to gather from: ep * etp > 1",
     [](const sampled_run& r, const sample_model&) {
       return r.kind.dispatcher != dispatcher_choice::all_gather ||
              r.where.fold.moe.of(axis_id::ep) * r.where.fold.moe.of(axis_id::etp) > 1;
     }},
    {"overlap needs replicas: more than one rank in a stage",
     [](const sampled_run& r, const sample_model&) { return !r.overlap || r.where.fold.world() > r.where.fold.attention.of(axis_id::pp); }},
};

/// Whether the folding's own numbers fit the model is the suite's affair: those of mappings() fit small_model().
inline bool legal(const sampled_run& run, const sample_model& model = {}) {
  return std::all_of(std::begin(sample_rules), std::end(sample_rules), [&](const sample_rule& rule) { return rule.holds(run, model); });
}

/// Places in a row.
enum sample_factor { folding_of, context_of, schedule_of, dispatcher_of, tokens_of, recompute_of, overlap_of, tied_of, packed_of };

/// The table of factors, in the order of a row.
inline std::vector<factor> sample_factors(const std::vector<mapping>& foldings) {
  std::vector<std::string> names;
  for (const mapping& m : foldings) names.push_back(m.name);
  return {{"folding", names},
          {"context", {"all_gather", "ring", "all_to_all", "combined"}},
          {"schedule", {"gpipe", "1f1b", "interleaved<2>", "zero_bubble"}},
          {"dispatcher", {"all_to_all", "all_gather"}},
          {"tokens", {"dropless", "capacity"}},
          {"recompute", {"none", "selective", "full"}},
          {"overlap", {"off", "on"}},
          {"tied", {"no", "yes"}},
          {"packed", {"no", "yes"}}};
}

inline sampled_run run_of(const row& r, const std::vector<mapping>& foldings) {
  const auto level = [&](sample_factor f) { return r[std::size_t(f)]; };
  return {{context_choice(level(context_of)), schedule_choice(level(schedule_of)), dispatcher_choice(level(dispatcher_of)),
           tokens_choice(level(tokens_of)), recompute_choice(level(recompute_of))},
          foldings[std::size_t(level(folding_of))],
          level(overlap_of) == 1,
          level(tied_of) == 1,
          level(packed_of) == 1};
}

struct run_sample {
  std::vector<mapping> foldings;
  std::vector<factor> factors;
  std::vector<row> rows;  // every legal pair of levels stands in one of them
};

/// At least `least` rows; the same ones for the same seed.
inline run_sample sample_of_runs(std::size_t least = 40, std::uint64_t seed = 1, const sample_model& model = {}) {
  run_sample s{sample_foldings(), {}, {}};
  s.factors = sample_factors(s.foldings);
  // First the kinds: every pair of types. A kind must be legal on some folding.
  const std::vector<factor> types(s.factors.begin() + context_of, s.factors.begin() + recompute_of + 1);
  const auto whole = [](int folding, const row& kind) {
    row r{folding};
    r.insert(r.end(), kind.begin(), kind.end());
    r.resize(packed_of + 1, 0);
    return r;
  };
  const auto possible = [&](const row& kind) {
    for (std::size_t f = 0; f < s.foldings.size(); ++f)
      if (legal(run_of(whole(int(f), kind), s.foldings), model)) return true;
    return false;
  };
  const std::vector<row> kinds = pairwise(types, possible, 0, seed);
  const auto of_these = [&](const row& r) {
    return std::find(kinds.begin(), kinds.end(), row(r.begin() + context_of, r.begin() + recompute_of + 1)) != kinds.end();
  };
  s.rows = pairwise(
      s.factors, [&](const row& r) { return legal(run_of(r, s.foldings), model); }, least, seed, of_these);
  return s;
}

/// All runs of the sample, printed as a table: for the soak.
inline std::vector<sampled_run> sampled_runs(std::size_t least = 40, std::uint64_t seed = 1) {
  const run_sample s = sample_of_runs(least, seed);
  std::printf("%zu runs\n%s", s.rows.size(), table(s.factors, s.rows).c_str());
  std::vector<sampled_run> runs;
  for (const row& r : s.rows) runs.push_back(run_of(r, s.foldings));
  return runs;
}

/// `count` of them, those whose turn it is (MOEFOLD_ROTATION, else the day), printed: for every day.
inline std::vector<sampled_run> sampled_runs_of_turn(std::size_t count, std::size_t turn = rotation()) {
  const run_sample s = sample_of_runs();
  const std::vector<std::size_t> chosen = rotating(s.rows.size(), count, turn);
  std::printf("%zu of %zu runs, marked *; the same again with MOEFOLD_ROTATION=%zu\n%s", chosen.size(), s.rows.size(), turn,
              table(s.factors, s.rows, chosen).c_str());
  std::vector<sampled_run> runs;
  for (const std::size_t r : chosen) runs.push_back(run_of(s.rows[r], s.foldings));
  return runs;
}

/// The different kinds among the runs, sorted: what has to be compiled.
inline std::vector<run_kind> kinds_of(const std::vector<sampled_run>& runs) {
  std::vector<run_kind> kinds;
  for (const sampled_run& r : runs) kinds.push_back(r.kind);
  std::sort(kinds.begin(), kinds.end());
  kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
  return kinds;
}

}  // namespace moefold::testing
