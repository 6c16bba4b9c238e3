// The runs of the mapping suite: what the sample covers, checked by force over all runs there are.
#include "../support/sampled_runs.hpp"

#include <doctest/doctest.h>

#include <set>

using namespace moefold;
using namespace moefold::testing;

namespace {

using pair_of_levels = std::array<int, 4>;
void pairs_of(const row& r, std::set<pair_of_levels>& into) {
  for (int a = 0; a < int(r.size()); ++a)
    for (int b = a + 1; b < int(r.size()); ++b) into.insert({a, r[std::size_t(a)], b, r[std::size_t(b)]});
}
sampled_run run(const char* folding, run_kind kind) {
  for (const mapping& m : sample_foldings())
    if (m.name == folding) return {kind, m, false, false, false};
  FAIL("no such folding");
  return {kind, {}, false, false, false};
}

}  // namespace

TEST_SUITE("self/sampled_runs") {
  TEST_CASE("every two choices that any legal run makes together, a run of the sample makes, and no illegal run is in it") {
    const run_sample s = sample_of_runs();
    std::set<pair_of_levels> possible, covered;
    std::size_t all = 0;
    for (const row& r : all_rows(s.factors, [&](const row& r) { return legal(run_of(r, s.foldings)); })) pairs_of(r, possible), ++all;
    for (const row& r : s.rows) {
      CHECK(legal(run_of(r, s.foldings)));
      pairs_of(r, covered);
    }
    CHECK(covered == possible);
    CHECK(s.rows.size() >= 40);
    CHECK(s.rows.size() <= 120);
    CHECK(all > 5000);
    CHECK(sample_of_runs().rows == s.rows);
    std::set<int> foldings;
    for (const row& r : s.rows) foldings.insert(r[0]);
    CHECK(foldings.size() == s.foldings.size());
  }
  TEST_CASE("the sample needs few kinds, so that a suite can compile them") {
    const auto kinds = kinds_of(sampled_runs());
    std::printf("%zu kinds\n", kinds.size());
    CHECK(kinds.size() >= 16);
    CHECK(kinds.size() <= 24);
  }
  TEST_CASE("a turn's runs are runs of the sample, and all turns together are the sample") {
    const std::size_t size = sample_of_runs().rows.size();
    std::set<std::string> seen;
    for (std::size_t turn = 0; turn * 30 < size; ++turn) {
      const auto runs = sampled_runs_of_turn(30, turn);
      CHECK(runs.size() == 30);
      for (const sampled_run& r : runs) seen.insert(r.where.name);
    }
    CHECK(seen.size() == sample_foldings().size());
  }
  TEST_CASE("a run keeps the levels of its row") {
    const run_sample s = sample_of_runs();
    const sampled_run r = run_of({2, 1, 3, 1, 1, 2, 0, 1, 0}, s.foldings);
    CHECK(r.where.name == "cp alone");
    CHECK(r.kind == run_kind{context_choice::ring, schedule_choice::zero_bubble, dispatcher_choice::all_gather, tokens_choice::capacity,
                             recompute_choice::full});
    CHECK((!r.overlap && r.tied && !r.packed));
  }
  TEST_CASE("each rule refuses a run that no other rule refuses") {
    using enum context_choice;
    using enum schedule_choice;
    const auto refused_by = [](const sampled_run& r, const sample_model& model = {}) {
      std::vector<std::string> who;
      for (const sample_rule& rule : sample_rules)
        if (!rule.holds(r, model)) who.push_back(rule.says);
      CHECK(legal(r, model) == who.empty());
      return who.size() == 1 ? who[0].substr(0, 10) : sentence(who.size(), " rules");
    };
    const auto kind = [](context_choice c, schedule_choice s, dispatcher_choice d = dispatcher_choice::all_to_all) {
      return run_kind{c, s, d, tokens_choice::dropless, recompute_choice::none};
    };
    CHECK(refused_by(run("one rank", kind(all_gather, one_f_one_b))) == "0 rules");
    CHECK(refused_by(run("tp alone", kind(ring, one_f_one_b))) == "ring and a");
    CHECK(refused_by(run("tp 2 cp 4 pp 2, etp 2 ep 2", kind(all_to_all, one_f_one_b))) == "all-to-all");
    CHECK(refused_by(run("cp 4, etp 2 ep 4", kind(all_to_all, one_f_one_b)), {5, 4, 2, 32}) == "all-to-all");
    CHECK(refused_by(run("tp 2 cp 4 pp 2, etp 2 ep 2", kind(combined, one_f_one_b))) == "0 rules");
    CHECK(refused_by(run("cp alone", kind(combined, one_f_one_b))) == "combined a");
    CHECK(refused_by(run("pp 4, uneven", kind(all_gather, interleaved_2))) == "interleave");
    CHECK(refused_by(run("pp 4, uneven", kind(all_gather, interleaved_2)), {8, 4, 4, 32}) == "0 rules");
    CHECK(refused_by(run("dp alone", kind(all_gather, one_f_one_b, dispatcher_choice::all_gather))) == "gathering ");
    sampled_run overlapping = run("pp 4, uneven", kind(all_gather, gpipe));
    overlapping.overlap = true;
    CHECK(refused_by(overlapping) == "overlap ne");
  }
}
