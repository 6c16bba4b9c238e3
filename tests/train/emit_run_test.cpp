#include <moefold/train/emit_run.hpp>

#include <doctest/doctest.h>

#include "support/plan_sample.hpp"

using namespace moefold;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
std::string emitted(const plan_question& q, const prediction& p) { return run_header(q, p, "my_run", "plan --gpus 128"); }

}  // namespace

// That headers compile, and check themselves, is shown by programs/plan.
TEST_SUITE("train/emit_run") {
  TEST_CASE("a plan is a run of the same mapping; what is as in run_defaults is left out") {
    const std::string text = emitted(sample_question(), sample_plan(9.71, 0.493));
    for (const char* part :
         {"// Written by: plan --gpus 128\n", "9.71 s a step of 256 sequences, MFU 49.3 %", "#include <moefold/model/mixtral.hpp>",
          "struct my_run : moefold::run_defaults {", "model_shape model = moefold::mixtral_8x22b;", "extent_t sequence = 4096;",
          "moefold::mesh<moefold::tp<2>, moefold::dp<8>, moefold::pp<8>>,",
          "moefold::mesh<moefold::ep<8>, moefold::edp<2>, moefold::pp<8>>>;", "using schedule = moefold::interleaved<7>;",
          "static_assert(moefold::check_run<my_run>::ok);", "static_assert(moefold::fits<my_run, moefold::h100_80gb, 128, 1, 32>);",
          "--global-batch 256 --micro-batch 1"})
      CHECK_MESSAGE(has(text, part), std::string(part));
    for (const char* part : {"using moe", "recompute_rule", "device_precision", "zero_bubble"})
      CHECK_MESSAGE(!has(text, part), std::string(part));
  }
  TEST_CASE("capacity, fp8, recompute and zero bubble become their types") {
    plan_question q = sample_question();
    prediction p = sample_plan(9.71, 0.493);
    q.precision = "fp8", q.job.facts.tokens = {125, true, false, true}, q.job.schedule = plan_schedule::zero_bubble_h1;
    p.mapping.vpp = 1, p.mapping.recompute = selective<recompute_part::norms, recompute_part::moe>;
    const std::string text = emitted(q, p);
    CHECK(has(text, "using tokens = moefold::capacity<125, moefold::full_sequence, moefold::padded>;"));
    CHECK(has(text, "struct my_run_moe : moefold::balanced_moe {"));
    CHECK(has(text, "using moe = my_run_moe;"));
    CHECK(has(text, "using device_precision = moefold::fp8<>;"));
    CHECK(has(text, "using schedule = moefold::zero_bubble_h1;"));
    CHECK(has(text, "= moefold::selective<moefold::recompute_part::norms, moefold::recompute_part::moe>;"));
    p.mapping.recompute = recompute_full;
    CHECK(has(emitted(q, p), "= moefold::recompute_full;"));
  }
  TEST_CASE("a model or a GPU that the library does not name is written out, or left unchecked") {
    plan_question q = sample_question();
    q.job.model.layers = 57, q.cluster.gpu.name = "mine";
    const std::string text = emitted(q, sample_plan(9.71, 0.493));
    CHECK(has(text, ".layers = 57,"));
    CHECK(!has(text, "moefold/model/"));
    CHECK(!has(text, "fits"));
    prediction large = sample_plan(9.71, 0.493);
    large.fits = false;
    CHECK(!has(emitted(sample_question(), large), "fits"));
  }
  TEST_CASE("one rank is a mesh too") {
    plan_question q = sample_question();
    prediction p = sample_plan(9.71, 0.493);
    q.job.gpus = 1, p.mapping = {1, 1, 1, 1, 1, 1, 1, 1, 1, {}};
    CHECK(has(emitted(q, p), "folding<moefold::mesh<moefold::tp<1>>,"));
    CHECK(has(emitted(q, p), "moefold::mesh<moefold::etp<1>>>;"));
  }
  TEST_CASE("strategies that the engine does not have are refused, and names that are none") {
    plan_question q = sample_question();
    q.job.strategy = plan_strategy::fsdp_ep;
    CHECK_THROWS_WITH_AS(
        emitted(q, sample_plan(1, 1)),
        "moefold: no run can be written for the strategy fsdp-ep: this library shards optimizer state, not weights (ZeRO-3); it "
        "is planned to be compared with. Take folding or mcore",
        config_error);
    CHECK(run_name_of("a/b.c/my_run.hpp") == "my_run");
    for (const char* wrong : {"my-run.hpp", "1run.hpp", "my_run.h", ".hpp", "my_run", "a/", ""})
      CHECK_THROWS_AS(run_name_of(wrong), config_error);
  }
}
