#include <moefold/train/plan_program.hpp>

#include <doctest/doctest.h>

#include "support/temporary_folder.hpp"

using namespace moefold;

namespace {

plan_options small() {
  plan_options o;
  o.model = "mixtral-8x7b", o.gpus = 32, o.global_batch = 64, o.fix = "pp=1,tp=2,cp=1,micro_batch=1", o.top = 3;
  return o;
}
plan_question asked(const plan_options& o) {
  static std::optional<stored_cluster> file;
  return question_of(o, file);
}

}  // namespace

// What the program prints and writes is in tests/programs/plan_test.sh.
TEST_SUITE("train/plan_program") {
  TEST_CASE("words become a job") {
    plan_options o = small();
    o.capacity = 125, o.precision = "fp8", o.strategy = "mcore", o.schedule = "zero-bubble";
    const plan_question q = asked(o);
    CHECK(q.job.model == mixtral_8x7b);
    CHECK(q.job.facts.tokens.percent == 125);
    CHECK(q.job.strategy == plan_strategy::mcore);
    CHECK(q.job.schedule == plan_schedule::zero_bubble);
    CHECK(std::string(q.cluster.name) == "dgx-h100");
    o.cluster = "laptop";
    CHECK_THROWS_WITH_AS(asked(o), "moefold: CPU core does not compute in fp8; take --precision bf16", config_error);
  }
  TEST_CASE("a model is also read from a config.json, by its name or by its folder's") {
    const temporary_folder folder;
    const std::string file = folder.put("config.json", write_config(mixtral_8x7b));
    plan_options o = small();
    for (const std::string& word : {file, folder.path.string()}) {
      o.model = word;
      CHECK(count_parameters(asked(o).job.model) == count_parameters(mixtral_8x7b));
    }
    folder.put("config.json", "{}");
    CHECK_THROWS_AS(asked(o), format_error);
  }
  TEST_CASE("a cluster is also read from a file") {
    const temporary_folder folder;
    cluster_spec c = dgx_h100;
    c.name = "mine", c.gpus_per_node = 4;
    plan_options o = small();
    o.cluster = folder.put("rack", write_cluster(c));
    CHECK(asked(o).cluster.gpus_per_node == 4);
    CHECK(std::string(asked(o).cluster.name) == "mine");
    o.cluster = "rack";
    CHECK_THROWS_AS(asked(o), config_error);
  }
  TEST_CASE("with the routing of a run every size of EP has its own imbalance: time follows the mean, memory the 99th percentile") {
    load_trace trace("metrics.jsonl");
    for (int step = 0; step < 100; ++step)
      trace.add({step < 2 ? std::vector<extent_t>{20, 4, 4, 4, 4, 4, 4, 4} : std::vector<extent_t>(8, 6)});
    const plan_options o = small();
    const plan_question q = asked(o);
    const fixed_numbers fixed = parse_fixed(o.fix);
    const search_options options{.fixed = fixed.mapping, .top = o.top};
    const plan_answer uneven = detail::search_with_loads<mixed_bf16>(q, trace, options);
    REQUIRE(uneven.found.plans.size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      const prediction& p = uneven.found.plans[i];
      plan_job job = q.job;
      job.imbalance = trace.of(p.mapping.ep).mean;
      CHECK(uneven.imbalance[i] == job.imbalance);
      CHECK(p.step_seconds == predict<mixed_bf16>(job, q.cluster, p.mapping).step_seconds);
      job.imbalance = trace.of(p.mapping.ep).p99;
      CHECK(p.memory.total() - p.memory.reserved == memory_of<mixed_bf16>(job, p.mapping).total());
      CHECK(p.fits);
      CHECK((i == 0 || uneven.found.plans[i - 1].step_seconds <= p.step_seconds));
    }
    CHECK(uneven.routing.find("100 steps, 1 layers") != std::string::npos);
    plan_question dropping = q;
    dropping.job.facts.tokens.percent = 100;
    CHECK_THROWS_AS(detail::search_with_loads<mixed_bf16>(dropping, trace, options), config_error);
  }
  TEST_CASE("what there is to choose from is listed") {
    const std::string text = plan_choices();
    for (const known_model& m : known_models) CHECK(text.find(m.name) != std::string::npos);
    for (const cluster_spec* c : known_clusters) CHECK(text.find(c->name) != std::string::npos);
    for (int i = 0; i < plan_strategies; ++i) CHECK(text.find(name_of(plan_strategy(i))) != std::string::npos);
  }
}
