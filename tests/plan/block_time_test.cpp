#include <moefold/plan/block_time.hpp>

#include <moefold/model/deepseek.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// A cluster without losses: products at the peak whatever their shape, everything else free.
constexpr cluster_spec ideal = [] {
  cluster_spec c = dgx_h100;
  c.efficiency.gemm = 1, c.efficiency.half_depth = 0, c.efficiency.tile_rows = 1, c.efficiency.tile_columns = 1, c.efficiency.launch = 0;
  c.gpu.processors = 1, c.gpu.hbm_bytes = 1e30;
  return c;
}();

plan_job job_of(const model_shape& model) {
  plan_job job;
  job.model = model, job.gpus = 16, job.sequence = 4096, job.global_batch = 64;
  return job;
}
block_time time_of(const plan_job& job, const cluster_spec& c, const plan_mapping& m, bool dense = false) {
  return time_of_block<mixed_bf16>(job, c, m, shape_of(job, m), dense);
}

constexpr plan_mapping one{1, 1, 16, 1, 1, 1, 16}, folded{2, 2, 4, 1, 1, 4, 4}, sliced{2, 1, 8, 1, 2, 4, 2};

}  // namespace

TEST_SUITE("plan/block_time") {
  TEST_CASE(
      "without losses the products of all ranks take exactly the model's multiplications over the peak, in every mapping; backward twice "
      "that") {
    for (const model_shape* m : {&mixtral_8x22b, &qwen2_57b_a14b}) {
      plan_job job = job_of(*m);
      job.facts.tokens = {.percent = 100, .padded = true};  // else experts' rows differ, and half a tile of each is lost
      const double h = double(m->hidden), per_token = 2 * (h * double(2 * m->q_width() + 2 * m->kv_width()) + h * double(m->experts) +
                                                           3 * h * double(m->top_k * m->ffn + m->shared_ffn));
      for (const plan_mapping& mapping : {one, folded, sliced}) {
        const block_time t = time_of(job, ideal, mapping);
        const double tokens = 4096. / double(mapping.cp) / double(mapping.tp);  // of a rank
        CHECK(t.forward.gemm == doctest::Approx(tokens * per_token / ideal.gpu.bf16_flops).epsilon(1e-9));
        CHECK(t.backward.gemm == doctest::Approx(2 * t.forward.gemm).epsilon(1e-9));
        CHECK(t.weight == doctest::Approx(t.forward.gemm).epsilon(1e-9));
      }
    }
  }
  TEST_CASE("a dense layer is its attention and its MLP, without router or experts") {
    model_shape model = qwen2_57b_a14b;
    model.dense_layers = 1, model.dense_ffn = 4096;
    const block_time t = time_of(job_of(model), ideal, one, true);
    const double h = double(model.hidden), per_token = 2 * (h * double(2 * model.q_width() + 2 * model.kv_width()) + 3 * h * 4096);
    CHECK(t.forward.gemm == doctest::Approx(4096 * per_token / ideal.gpu.bf16_flops).epsilon(1e-9));
    CHECK(t.forward.ep == 0);
  }
  TEST_CASE("communication stands under the axis it goes over, and only there") {
    const plan_job job = job_of(mixtral_8x22b);
    const block_time alone = time_of(job, dgx_h100, one), ep = time_of(job, dgx_h100, folded), etp = time_of(job, dgx_h100, sliced);
    CHECK(alone.forward.communication() == 0);
    CHECK((ep.forward.tp > 0 && ep.forward.cp > 0 && ep.forward.ep > 0 && ep.forward.etp == 0));
    CHECK((etp.forward.tp > 0 && etp.forward.cp == 0 && etp.forward.ep > 0 && etp.forward.etp > 0));
    CHECK(etp.backward.tp > etp.forward.tp);  // one more gather
  }
  TEST_CASE("communication hides behind its share of the computation, and never more than all of it") {
    const block_time t = time_of(job_of(mixtral_8x22b), dgx_h100, folded);
    efficiency_spec e = dgx_h100.efficiency;
    e.hide_ep = 0.01;
    CHECK(t.forward.exposed(e).ep == doctest::Approx(t.forward.ep - 0.01 * t.forward.compute()));
    e.hide_tp = 0.6, e.hide_ep = 0.6;  // tp comes first; what is left of the computation hides ep
    const double left = t.forward.compute() - std::min(t.forward.tp, 0.6 * t.forward.compute());
    CHECK(t.forward.exposed(e).ep == doctest::Approx(std::max(0.0, t.forward.ep - std::min(left, 0.6 * t.forward.compute()))));
    e.hide_tp = 0, e.hide_ep = 0.9;
    CHECK(t.forward.exposed(e).ep == 0);
  }
  TEST_CASE("recomputing a part costs its forward again: full all of it, each part some") {
    const plan_job job = job_of(qwen2_57b_a14b);
    const auto again = [&](const recompute_rule& rule) {
      plan_mapping m = folded;
      m.recompute = rule;
      return time_of(job, dgx_h100, m).again.compute();
    };
    const double whole = time_of(job, dgx_h100, folded).forward.compute();
    CHECK(again(recompute_none) == 0);
    CHECK(again(recompute_full) == doctest::Approx(whole));
    double parts = 0;
    for (const recompute_rule& rule : {selective<recompute_part::norms>, selective<recompute_part::activation>,
                                       selective<recompute_part::core_attention>, selective<recompute_part::moe>}) {
      CHECK(again(rule) > 0);
      CHECK(again(rule) < whole);
      parts += again(rule);
    }
    CHECK(parts > 0.5 * whole);
  }
  TEST_CASE("the busiest rank is waited for: more rows at its experts, more time; a capacity bounds them") {
    plan_job job = job_of(mixtral_8x22b);
    const double even = time_of(job, dgx_h100, folded).forward.gemm;
    job.imbalance = 1.5;
    const double uneven = time_of(job, dgx_h100, folded).forward.gemm;
    CHECK(uneven > 1.2 * even);
    job.imbalance = 100;  // everything on one rank: all tokens of its sources, with both choices at most
    const activation_shape a = shape_of(job, folded);
    CHECK(rows_at(a, job.imbalance) == a.worst_rows());
    const double worst = time_of(job, dgx_h100, folded).forward.gemm;
    CHECK(worst > uneven);
    job.facts.tokens = {.percent = 100, .padded = true};
    CHECK(time_of(job, dgx_h100, folded).forward.gemm < 1.1 * even);
  }
  TEST_CASE("a model so small that the host cannot keep up pays for its launches") {
    plan_job job;
    job.gpus = 1, job.sequence = 64, job.global_batch = 4;
    const block_time t = time_of_block<mixed_bf16>(job, dgx_h100, {}, shape_of(job, {}), false);
    CHECK(t.forward.launches(dgx_h100.efficiency) == doctest::Approx(t.forward.kernels * 6e-6 - t.forward.compute()));
    CHECK(time_of(job_of(mixtral_8x22b), dgx_h100, folded).forward.launches(dgx_h100.efficiency) == 0);
  }
}
