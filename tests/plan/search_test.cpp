#include <moefold/plan/search.hpp>

#include <moefold/model/mixtral.hpp>

#include <doctest/doctest.h>

#include <random>

using namespace moefold;

namespace {

/// A job small enough to try everything, of a model that no rule is written for.
plan_job small_job(std::mt19937& draw) {
  const auto pick = [&](std::initializer_list<extent_t> from) { return from.begin()[draw() % from.size()]; };
  plan_job job;
  job.model.layers = pick({2, 3, 4, 6}), job.model.hidden = 64 * pick({8, 16, 32}), job.model.heads = pick({4, 8, 12}),
  job.model.kv_heads = job.model.heads / 2;
  job.model.head_dim = 64, job.model.experts = pick({4, 6, 8}), job.model.top_k = 2, job.model.ffn = 64 * pick({4, 9, 16}),
  job.model.vocabulary = 1000;
  job.gpus = pick({1, 2, 4, 6, 8, 12}), job.sequence = pick({128, 192, 256}), job.global_batch = pick({8, 12, 24});
  job.strategy = plan_strategy(draw() % plan_strategies);
  if (draw() % 2) job.facts.tokens = {.percent = 100, .padded = true};
  return job;
}

/// A cluster whose GPUs hold a part of the mappings only.
cluster_spec small_cluster(std::mt19937& draw) {
  cluster_spec c = dgx_h100;
  c.gpus_per_node = extent_t{1} << (draw() % 3 + 1);
  c.reserved = 0, c.gpu.memory = mebibyte * extent_t(100 + draw() % 1500);
  return c;
}

/// The best of everything that the rules allow: each number tried by itself.
std::pair<double, std::size_t> best_of_all(const plan_job& job, const cluster_spec& c) {
  double least = 1e300;
  std::size_t legal = 0;
  for (extent_t pp = 1; pp <= job.gpus; ++pp)
    for (extent_t tp = 1; tp * pp <= job.gpus; ++tp)
      for (extent_t cp = 1; tp * cp * pp <= job.gpus; ++cp)
        for (extent_t etp = 1; etp * pp <= job.gpus; ++etp)
          for (extent_t ep = 1; etp * ep * pp <= job.gpus; ++ep) {
            if (job.gpus % (tp * cp * pp) != 0 || job.gpus % (etp * ep * pp) != 0) continue;
            plan_mapping m{tp, cp, job.gpus / (tp * cp * pp), pp, etp, ep, job.gpus / (etp * ep * pp)};
            for (m.micro_batch = 1; m.micro_batch <= 16; ++m.micro_batch)
              for (m.vpp = 1; m.vpp == 1 || (pp > 1 && pp * m.vpp <= job.model.layers); ++m.vpp) {
                if ((m.vpp > 1 && job.model.layers % (pp * m.vpp) != 0) || !refusal(job, m).empty()) continue;
                ++legal;
                for (const recompute_rule& rule : detail::searched_rules) {
                  m.recompute = rule;
                  const prediction p = predict<mixed_bf16>(job, c, m);
                  if (p.fits) least = std::min(least, p.step_seconds);
                }
                m.recompute = {};
              }
          }
  return {least, legal};
}

void check_optimum(int cases) {
  std::mt19937 draw(3);
  int same = 0, nothing_fits = 0;
  for (int i = 0; i < cases; ++i) {
    const plan_job job = small_job(draw);
    const cluster_spec c = small_cluster(draw);
    const search_result found = search<mixed_bf16>(job, c);
    const auto [least, legal] = best_of_all(job, c);
    CAPTURE(i);
    CHECK(found.legal == legal);
    CHECK(found.plans.empty() == (least == 1e300));
    const bool equal = found.plans.empty() ? least == 1e300 : found.plans[0].step_seconds == least;
    CHECK(equal);
    same += equal, nothing_fits += found.plans.empty();
  }
  MESSAGE("P10: ", same, " of ", cases, ", in ", nothing_fits, " of them nothing fits");
}

plan_job mixtral() {
  plan_job job;
  job.model = mixtral_8x22b, job.gpus = 128, job.sequence = 4096, job.global_batch = 256;
  return job;
}

}  // namespace

TEST_SUITE("plan/search") {
  TEST_CASE("P10: the search returns the best of all mappings: 60 small jobs") { check_optimum(60); }

  TEST_CASE("plans are ranked, legal, fit, and are as many as asked for") {
    search_options options;
    options.top = 25;
    const search_result r = search<mixed_bf16>(mixtral(), dgx_h100, options);
    REQUIRE(r.plans.size() == 25);
    for (std::size_t i = 0; i < r.plans.size(); ++i) {
      CHECK(refusal(mixtral(), r.plans[i].mapping) == "");
      CHECK(r.plans[i].fits);
      if (i > 0) CHECK(r.plans[i].step_seconds >= r.plans[i - 1].step_seconds);
    }
    CHECK(r.fitting <= r.legal);
  }
  TEST_CASE("a number that is fixed is held, whatever it is") {
    search_options options;
    options.fixed.tp = 4, options.fixed.pp = 4, options.fixed.micro_batch = 2, options.fixed.vpp = 7, options.fixed.ep = 4;
    options.fix_recompute = true, options.fixed.recompute = recompute_full;
    const search_result r = search<mixed_bf16>(mixtral(), dgx_h100, options);
    REQUIRE(!r.plans.empty());
    for (const prediction& p : r.plans) {
      const plan_mapping& m = p.mapping;
      CHECK((m.tp == 4 && m.pp == 4 && m.micro_batch == 2 && m.vpp == 7 && m.ep == 4 && m.recompute == recompute_full));
    }
  }
  TEST_CASE("numbers outside the space that is searched can be fixed: uneven chunks, 32 sequences, other recompute rules") {
    search_options options;
    options.fixed.pp = 8, options.fixed.vpp = 3, options.fixed.micro_batch = 32;
    options.fix_recompute = true, options.fixed.recompute = selective<recompute_part::moe>;
    plan_job job = mixtral();
    job.sequence = 512;
    const search_result r = search<mixed_bf16>(job, dgx_h100, options);
    REQUIRE(!r.plans.empty());
    CHECK(r.plans[0].mapping.vpp == 3);
    CHECK(r.plans[0].mapping.micro_batch == 32);
  }
  TEST_CASE("what cannot be is refused in the words of the rule it breaks") {
    const auto reasons = [](search_options options, plan_job job = mixtral()) {
      std::string all;
      for (const refused_mapping& r : search<mixed_bf16>(job, dgx_h100, options).refused) all += r.reason + "\n";
      return all;
    };
    search_options options;
    options.fixed.tp = 16;
    CHECK(reasons(options).find("the key/value heads must be a multiple of TP") != std::string::npos);
    options = {};
    options.fixed.pp = 3;
    CHECK(reasons(options).find("PP must divide the 128 GPUs (given 3)") != std::string::npos);
    options = {};
    options.fixed.ep = 16;
    CHECK(reasons(options).find("the experts must be a multiple of EP") != std::string::npos);
    options = {};
    options.fixed.pp = 64;
    CHECK(reasons(options).find("needs at least one layer") != std::string::npos);
    options = {};
    options.fixed.dp = 5;
    CHECK(reasons(options).find("TP*CP*DP*PP must be the 128 GPUs") != std::string::npos);
    options = {};
    options.fixed.edp = 7;
    CHECK(reasons(options).find("TP*CP*DP*PP must equal ETP*EP*EDP*PP") != std::string::npos);
    plan_job job = mixtral();
    job.gpus = 8;
    CHECK(reasons({}, job).find("it needs ") != std::string::npos);
    CHECK(search<mixed_bf16>(job, dgx_h100).plans.empty());
  }
  TEST_CASE("every strategy finds plans, and folding the best of them: its space holds MCore's") {
    double best[plan_strategies];
    for (int s = 0; s < plan_strategies; ++s) {
      plan_job job = mixtral();
      job.strategy = plan_strategy(s);
      const search_result r = search<mixed_bf16>(job, dgx_h100);
      CAPTURE(std::string(name_of(job.strategy)));
      REQUIRE(!r.plans.empty());
      best[s] = r.plans[0].step_seconds;
    }
    for (int s = 1; s < plan_strategies; ++s) CHECK(best[0] < best[s]);
  }
  TEST_CASE("numbers too large to multiply are refused, as are sequences whose bytes nobody could count") {
    search_options options;
    options.fixed.tp = options.fixed.cp = extent_t{1} << 32;
    CHECK_THROWS_WITH_AS(search<mixed_bf16>(mixtral(), dgx_h100, options), doctest::Contains("lies between 1 and 1048576"), config_error);
    options = {};
    options.fixed.tp = options.fixed.cp = options.fixed.dp = options.fixed.etp = options.fixed.ep = options.fixed.edp = extent_t{1} << 20;
    CHECK(search<mixed_bf16>(mixtral(), dgx_h100, options).legal == 0);
    plan_job job = mixtral();
    job.sequence = extent_t{1} << 40;
    CHECK(refusal(job, {}).find("at most 67108864 tokens") != std::string::npos);
  }
  TEST_CASE("memory is planned for an imbalance of its own: the time of the mean, the bytes of the worst") {
    plan_job job = mixtral();
    job.imbalance = 1.2;
    search_options options;
    options.fixed.ep = 8;
    const search_result alike = search<mixed_bf16>(job, dgx_h100, options);
    job.memory_imbalance = 2;
    const search_result more = search<mixed_bf16>(job, dgx_h100, options);
    REQUIRE(!more.plans.empty());
    CHECK(more.fitting < alike.fitting);
    const plan_mapping m = more.plans[0].mapping;
    job.memory_imbalance = 0;
    CHECK(predict<mixed_bf16>(job, dgx_h100, m).memory.activations < more.plans[0].memory.activations);
    CHECK(predict<mixed_bf16>(job, dgx_h100, m).step_seconds == more.plans[0].step_seconds);
  }
  TEST_CASE("a job that is not sound says so at once") {
    plan_job job = mixtral();
    job.gpus = 0;
    CHECK_THROWS_WITH_AS(search<mixed_bf16>(job, dgx_h100), doctest::Contains("a plan is for 1 to 1048576 GPUs (given 0)"), config_error);
    job = mixtral();
    job.model.top_k = 9;
    CHECK_THROWS_AS(search<mixed_bf16>(job, dgx_h100), config_error);
  }
}

TEST_SUITE("plan/search_soak") {
  TEST_CASE("1,024 GPUs: costing every mapping with every recompute rule finds the same best plan, of every strategy and three models") {
    for (const model_shape* model : {&mixtral_8x22b, &mixtral_8x22b_g8t8, &mixtral_8x7b})
      for (int s = 0; s < plan_strategies; ++s) {
        plan_job job = mixtral();
        job.model = *model, job.gpus = 1024, job.global_batch = 1024, job.strategy = plan_strategy(s);
        search_options all;
        all.exhaustive = true;
        const search_result found = search<mixed_bf16>(job, dgx_h100), tried = search<mixed_bf16>(job, dgx_h100, all);
        REQUIRE(!found.plans.empty());
        CHECK(found.plans[0].mapping == tried.plans[0].mapping);
        CHECK(found.legal == tried.legal);
        MESSAGE(std::string(name_of(job.strategy)), ": ", found.legal, " legal, ", found.costed, " costed of ", tried.costed, ", ",
                found.seconds, " s");
      }
  }
  TEST_CASE("P10: 1,000 small jobs") { check_optimum(1000); }
}
