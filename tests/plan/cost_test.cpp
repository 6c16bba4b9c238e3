#include <moefold/plan/cost.hpp>

#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>
#include <moefold/plan/search.hpp>

#include <doctest/doctest.h>

#include <random>

using namespace moefold;

namespace {

plan_job mixtral() {
  plan_job job;
  job.model = mixtral_8x22b, job.gpus = 128, job.sequence = 4096, job.global_batch = 256;
  job.facts.tokens = {.percent = 100, .padded = true};
  return job;
}
constexpr plan_mapping mcore{2, 1, 8, 8, 2, 4, 2, 7}, folded{2, 1, 8, 8, 1, 8, 2, 7};

/// Bytes that one rank sends in one call over these axes, with one block and micro-batch.
double bytes_of(const plan_mapping& m, axis_set axes, operation op) {
  const plan_job job = mixtral();
  double bytes = 0;
  for_each_block_call<mixed_bf16>(shape_of(job, m), false, traffic_pass::forward, [&](const traffic_call& c) {
    if (c.axes == axes && c.op == op) bytes = double(c.bytes()) / double(c.times);
  });
  return bytes;
}

/// Legal mappings of some models, a few thousand.
struct sample {
  plan_job job;
  plan_mapping mapping;
};
std::vector<sample> samples(std::size_t count) {
  std::mt19937 draw(5);
  std::vector<sample> all;
  for (const model_shape* model : {&mixtral_8x22b, &qwen2_57b_a14b, &mixtral_8x22b_g8t8})
    for (const extent_t gpus : {16, 64, 256})
      for (const bool capacity : {false, true}) {
        plan_job job;
        job.model = *model, job.gpus = gpus, job.sequence = 4096, job.global_batch = 256;
        if (capacity) job.facts.tokens = {.percent = 100, .padded = true};
        for_each_mapping(
            job, search_options{}.fixed,
            [&](const plan_mapping& m) {
              all.push_back({job, m});
            },
            [](const plan_mapping&, const std::string&) {});
      }
  std::shuffle(all.begin(), all.end(), draw);
  if (all.size() > count) all.resize(count);
  for (sample& s : all) s.mapping.recompute = detail::searched_rules[draw() % detail::searched_rules.size()];
  return all;
}

/// P08: what is faster never makes a step slower, and uneven routing never makes it faster.
void check_monotony(std::size_t pairs) {
  const std::vector<sample> all = samples(std::min<std::size_t>(pairs, 20000));
  std::mt19937 draw(6);
  std::size_t done = 0, violations = 0;
  for (std::size_t i = 0; done < pairs; ++i, ++done) {
    const sample& s = all[i % all.size()];
    cluster_spec better = dgx_h100;
    plan_job worse = s.job;
    const double factor = 1 + double(draw() % 100) / 25;
    switch (draw() % 7) {
      case 0: better.inside.bandwidth *= factor; break;
      case 1: better.between.bandwidth *= factor; break;
      case 2: better.gpu.bf16_flops *= factor; break;
      case 3: better.gpu.hbm_bytes *= factor; break;
      case 4: better.inside.latency /= factor, better.between.latency /= factor; break;
      case 5: better.efficiency.launch /= factor; break;
      default: worse.imbalance = factor;
    }
    const double base = predict<mixed_bf16>(s.job, dgx_h100, s.mapping).step_seconds;
    const double fast = predict<mixed_bf16>(s.job, better, s.mapping).step_seconds;
    const double slow = predict<mixed_bf16>(worse, dgx_h100, s.mapping).step_seconds;
    violations += fast > base * (1 + 1e-12) || slow < base * (1 - 1e-12);
  }
  MESSAGE("P08: ", done - violations, " of ", done);
  CHECK(violations == 0);
}

}  // namespace

TEST_SUITE("plan/cost") {
  using enum axis_id;

  TEST_CASE("the worked example: what travels, in MB per call") {
    CHECK(bytes_of(mcore, tp, operation::all_gather) / 1e6 == doctest::Approx(25.2).epsilon(0.002));
    CHECK(bytes_of(mcore, tp, operation::reduce_scatter) / 1e6 == doctest::Approx(25.2).epsilon(0.002));
    CHECK(bytes_of(mcore, ep, operation::all_to_all_v) / 1e6 == doctest::Approx(37.7).epsilon(0.002));
    CHECK(bytes_of(folded, ep, operation::all_to_all_v) / 1e6 == doctest::Approx(44.0).epsilon(0.002));
    CHECK(bytes_of(mcore, etp, operation::all_gather_v) / 1e6 == doctest::Approx(50.3).epsilon(0.002));
    CHECK(bytes_of(mcore, etp, operation::reduce_scatter_v) / 1e6 == doctest::Approx(50.3).epsilon(0.002));
    CHECK(bytes_of(folded, etp, operation::all_gather_v) == 0);
    const activation_shape a = shape_of(mixtral(), folded);
    CHECK(a.tokens() == 4096);
    CHECK(a.rows() == 2048);
    CHECK(double(a.rows() * 6144 * 2) / 1e6 == doctest::Approx(25.2).epsilon(0.002));  // a pipeline boundary
  }
  TEST_CASE("the worked example: the expert group of both is one node, of its products one has twice the rows and one twice the columns") {
    const plan_job job = mixtral();
    CHECK(span_of(job, dgx_h100, mcore, axis_set(etp, ep)) == group_span{8, 8});
    CHECK(span_of(job, dgx_h100, folded, axis_set(etp, ep)) == group_span{8, 8});
    const activation_shape m = shape_of(job, mcore), f = shape_of(job, folded);
    CHECK(m.balanced_rows() == 8192);
    CHECK(m.own_experts() == 2);
    CHECK(f.balanced_rows() == 4096);
    CHECK(f.own_experts() == 1);
  }
  TEST_CASE("the worked example: parameters, static bytes and layers in flight") {
    for (const plan_mapping& m : {mcore, folded}) {
      const plan_job job = mixtral();
      const activation_shape a = shape_of(job, m);
      const detail::block_elements own = detail::elements_of_block(a, false);
      CHECK(7 * double(own.expert) / 1e9 == doctest::Approx(2.114).epsilon(0.002));
      CHECK(7 * double(own.expert) * (6 + 12 / 2.) / 1e9 == doctest::Approx(25.4).epsilon(0.002));
      const plan_memory memory = memory_of<mixed_bf16>(job, m, 0);
      CHECK(double(memory.parameters + memory.gradients + memory.optimizer) / 1e9 == doctest::Approx(25.4 + 3.1).epsilon(0.01));
    }
  }
  TEST_CASE("the worked example: the bubble is (PP - 1) / (v m) of the work of a stage without ends") {
    plan_job job = mixtral();
    const prediction p = predict<mixed_bf16>(job, dgx_h100, folded);
    CHECK(p.time.bubble / (p.step_seconds - p.time.bubble) ==
          doctest::Approx(7. / 224).epsilon(0.15));  // the last stage has the head besides
  }
  TEST_CASE("the worked example: folding saves the ETP traffic, and more than it adds to EP") {
    const prediction m = predict<mixed_bf16>(mixtral(), dgx_h100, mcore), f = predict<mixed_bf16>(mixtral(), dgx_h100, folded);
    CHECK(f.time.etp == 0);
    CHECK(f.time.ep > m.time.ep);
    CHECK(f.time.ep - m.time.ep < m.time.etp / 4);
    CHECK(f.mfu > m.mfu);
    CHECK(f.memory.total() < m.memory.total());
  }
  TEST_CASE("a prediction adds up: its parts are the step, and the rates follow from it") {
    for (const sample& s : samples(200)) {
      const prediction p = predict<mixed_bf16>(s.job, dgx_h100, s.mapping);
      CHECK(p.time.total() == doctest::Approx(p.step_seconds));
      for (const double part : p.time.all()) CHECK(part >= 0);
      CHECK(p.mfu > p.mfu_causal);
      CHECK(p.mfu < 1);
      CHECK(p.tflops == doctest::Approx(p.mfu * 989.5));
    }
  }
  TEST_CASE("what is recomputed takes time and frees memory, each rule more than the one before") {
    plan_job job = mixtral();
    plan_mapping m = folded;
    double seconds = 0;
    extent_t bytes = extent_t{1} << 60;
    for (const recompute_rule& rule : detail::searched_rules) {
      m.recompute = rule;
      const prediction p = predict<mixed_bf16>(job, dgx_h100, m);
      CHECK(p.step_seconds > seconds);
      CHECK(p.memory.activations < bytes);
      seconds = p.step_seconds, bytes = p.memory.activations;
    }
  }
  TEST_CASE("ZeRO-3 gathers embedding and head with every micro-batch, too") {
    plan_job job = mixtral();
    job.strategy = plan_strategy::fsdp_ep;
    const plan_mapping m{2, 1, 64, 1, 2, 8, 8};
    const double small = predict<mixed_bf16>(job, dgx_h100, m).time.dp;
    job.model.vocabulary *= 8;
    CHECK(predict<mixed_bf16>(job, dgx_h100, m).time.dp > 1.2 * small);
  }
  TEST_CASE("where the host cannot keep up, what is recomputed is launched a second time") {
    plan_job job;
    job.gpus = 1, job.sequence = 64, job.global_batch = 4;
    plan_mapping m;
    const double once = predict<mixed_bf16>(job, dgx_h100, m).time.launches;
    m.recompute = recompute_full;
    CHECK(predict<mixed_bf16>(job, dgx_h100, m).time.launches > 1.2 * once);
  }
  TEST_CASE("zero bubble has a smaller bubble than 1F1B, and its delayed form hardly any") {
    plan_job job = mixtral();
    plan_mapping m = folded;
    m.vpp = 1;
    const double plain = predict<mixed_bf16>(job, dgx_h100, m).time.bubble;
    job.schedule = plan_schedule::zero_bubble;
    const double split = predict<mixed_bf16>(job, dgx_h100, m).time.bubble;
    job.schedule = plan_schedule::zero_bubble_h1;
    const double delayed = predict<mixed_bf16>(job, dgx_h100, m).time.bubble;
    CHECK(split < 0.8 * plain);
    CHECK(delayed < 0.7 * split);
  }
  TEST_CASE(
      "the formula's step and one whose pipeline is played differ by less than 1 % on average, by less than 10 % with hardly a micro-batch "
      "per stage") {
    double worst = 0, sum = 0;
    int count = 0;
    for (const sample& s : samples(400)) {
      if (micro_batches_of(s.job, s.mapping) * s.mapping.pp * s.mapping.vpp > 4000) continue;  // long to play
      const prediction p = predict<mixed_bf16>(s.job, dgx_h100, s.mapping);
      const double off = std::abs(played_seconds<mixed_bf16>(s.job, dgx_h100, p) / p.step_seconds - 1);
      worst = std::max(worst, off), sum += off, ++count;
    }
    MESSAGE(count, " played: worst ", 100 * worst, " %, mean ", 100 * sum / count, " %");
    CHECK(count > 200);
    CHECK(worst < 0.1);
    CHECK(sum / count < 0.01);
  }
  TEST_CASE("fp8 shortens a step by about a quarter, as measured (1.26 and 1.30 without and with folding)") {
    const double plain = predict<mixed_bf16>(mixtral(), dgx_h100, folded).step_seconds,
                 narrow = predict<fp8<>>(mixtral(), dgx_h100, folded).step_seconds;
    MESSAGE("fp8 over bf16: ", plain / narrow);
    CHECK(plain / narrow > 1.2);
    CHECK(plain / narrow < 1.4);
  }
  TEST_CASE("on the host: every op of a tiny model costs something, and a world of one has no communication") {
    plan_job job;
    job.gpus = 1, job.sequence = 64, job.global_batch = 4;
    const prediction p = predict<fp32>(job, laptop, {});
    CHECK(p.step_seconds > 0);
    for (const double part : {p.time.tp, p.time.cp, p.time.ep, p.time.etp, p.time.dp, p.time.edp, p.time.pp, p.time.bubble})
      CHECK(part == 0);
  }
  TEST_CASE("P08: more bandwidth or peak never slows a step, less even routing never speeds it: 2,000 pairs") { check_monotony(2000); }
}

TEST_SUITE("plan/cost_soak") {
  TEST_CASE("P08: 100,000 pairs") { check_monotony(100000); }
}
