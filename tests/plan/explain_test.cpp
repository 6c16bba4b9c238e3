#include <moefold/plan/explain.hpp>

#include <doctest/doctest.h>

#include <set>

#include "support/plan_sample.hpp"

using namespace moefold;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
const axis_traffic* of(const std::vector<axis_traffic>& all, axis_set axes) {
  for (const axis_traffic& t : all)
    if (t.axes == axes) return &t;
  return nullptr;
}
const plan_mapping folded{2, 1, 8, 8, 1, 8, 2, 7, 1, {}};

}  // namespace

TEST_SUITE("plan/explain") {
  TEST_CASE("a layer's traffic is that of the worked example: 44.0 MB for each of EP's four exchanges, 25.2 MB for each gather of TP") {
    const auto all = layer_traffic<mixed_bf16>(sample_question(), folded);
    const axis_traffic *ep = of(all, axis_id::ep), *tp = of(all, axis_id::tp);
    REQUIRE((ep && tp));
    CHECK(ep->forward == doctest::Approx(2 * 44.04e6).epsilon(0.001));  // and 4 bytes a row for its weight
    CHECK(ep->backward == doctest::Approx(2 * 44.04e6).epsilon(0.001));
    CHECK(tp->forward == doctest::Approx(2 * 25.17e6).epsilon(0.001));
    CHECK(tp->backward == doctest::Approx(3 * 25.17e6).epsilon(0.001));
    CHECK(of(all, axis_id::etp) == nullptr);  // folding has made it superfluous
  }
  TEST_CASE("groups are those that the span is counted of, and every rank is in one") {
    for (const plan_strategy strategy : {plan_strategy::folding, plan_strategy::mcore}) {
      plan_question q = sample_question();
      q.job.strategy = strategy;
      const plan_mapping m =
          strategy == plan_strategy::folding ? plan_mapping{2, 2, 4, 8, 1, 8, 2, 1, 1, {}} : plan_mapping{2, 2, 4, 8, 2, 2, 4, 1, 1, {}};
      REQUIRE(refusal(q.job, m) == "");
      for (int i = 0; i < axis_count; ++i) {
        CAPTURE(i);
        std::vector<std::set<extent_t>> members(128);
        for (extent_t rank = 0; rank < 128; ++rank) {
          const detail::place_in_group place = detail::place_of(q.job, m, axis_id(i), rank);
          CHECK(members[std::size_t(place.first)].insert(place.index).second);
        }
        const group_span span = span_of(q.job, q.cluster, m, axis_id(i));
        std::size_t groups = 0;
        for (const auto& group : members) {
          if (group.empty()) continue;
          ++groups;
          CHECK(extent_t(group.size()) == span.ranks);
          CHECK(*group.rbegin() == span.ranks - 1);
        }
        CHECK(extent_t(groups) * span.ranks == 128);
        std::set<extent_t> nodes;
        for (const extent_t rank : detail::first_group(q.job, m, axis_id(i))) nodes.insert(rank / 8);
        CHECK(extent_t(nodes.size()) == span.nodes());
      }
    }
  }
  TEST_CASE("experts that are tied to DP lie TP * CP apart") {
    plan_job job = sample_question().job;
    job.strategy = plan_strategy::mcore;
    const plan_mapping m{2, 2, 4, 8, 2, 2, 4, 1, 1, {}};
    CHECK(detail::first_group(job, m, axis_id::ep) == std::vector<extent_t>{0, 4});
    CHECK(detail::first_group(job, m, axis_id::edp) == std::vector<extent_t>{0, 2, 8, 10});
    job.strategy = plan_strategy::folding;
    CHECK(detail::first_group(job, m, axis_id::ep) == std::vector<extent_t>{0, 2});
    CHECK(detail::first_group(job, m, axis_id::edp) == std::vector<extent_t>{0, 4, 8, 12});
  }
  TEST_CASE("one plan in full: groups, links, memory, time, what would change it, what is assumed") {
    plan_question q = sample_question();
    const prediction p = predict<mixed_bf16>(q.job, q.cluster, folded);
    const std::string text = explain<mixed_bf16>(q, p);
    for (const char* part : {"tp 2, cp 1, dp 8, pp 8 | etp 1, ep 8, edp 2 | vpp 7, micro-batch 1, recompute none",
                             "32 micro-batches of 1 a step", "{0 1 2 3 4 5 6 7}", "inside", "between", "layer, micro-batch",
                             "memory of a GPU of stage ", "time of a step", "10 % better", "links between nodes", "1.0"})
      CHECK_MESSAGE(has(text, part), std::string(part));
    CHECK(has(text, "the worst routing: "));
    for (const std::string& a : assumptions_of(q)) CHECK(has(text, a));
  }
  TEST_CASE("a better constant makes no step slower, and a better peak makes it faster") {
    plan_question q = sample_question();
    const double now = predict<mixed_bf16>(q.job, q.cluster, folded).step_seconds;
    detail::for_each_better(q.cluster, [&](const std::string& what, const cluster_spec& c) {
      const double then = predict<mixed_bf16>(q.job, c, folded).step_seconds;
      CAPTURE(what);
      CHECK(then <= now);
      if (what == "GPU peak") CHECK(then < now);
    });
  }
  TEST_CASE("of sharded weights and capacity other sentences are said") {
    plan_question q = sample_question();
    q.job.strategy = plan_strategy::fsdp_ep;
    q.job.facts.tokens.percent = 100;
    const plan_mapping m{2, 1, 64, 1, 2, 8, 8, 1, 1, recompute_full};
    REQUIRE(refusal(q.job, m) == "");
    const std::string text = explain<mixed_bf16>(q, predict<mixed_bf16>(q.job, q.cluster, m));
    CHECK(has(text, "in shards over all replicas"));
    CHECK(has(text, "experts have a capacity"));
    CHECK(!has(text, "worst routing"));
  }
}
