#include <moefold/plan/report.hpp>

#include <doctest/doctest.h>

#include "support/plan_sample.hpp"

using namespace moefold;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

search_result two_plans() {
  search_result r;
  r.plans = {sample_plan(9.71, 0.493), sample_plan(9.9, 0.483)};
  r.plans[1].mapping.recompute = recompute_full;
  r.refused = {{{16, 1, 8, 1, 1, 1, 128, 1, 1, {}}, "moefold: TP is too large (given tp = 16)", 10},
               {{1, 1, 128, 1, 1, 16, 8, 1, 1, {}}, "moefold: EP is too large (given ep = 16)", 20},
               {{1, 1, 128, 1, 1, 1, 128, 1, 1, {}}, "it needs 100 GB", 1}};
  r.legal = 50, r.fitting = 30, r.seconds = 0.0123;
  return r;
}

}  // namespace

TEST_SUITE("plan/report") {
  TEST_CASE("what was asked is said first") {
    CHECK(describe(sample_question()) ==
          "mixtral-8x22b (141G parameters, 39.2G of them at work on a token) on 128 GPUs of dgx-h100 (H100 SXM 80GB)\n"
          "sequence 4096, global batch 256, bf16, dropless, strategy folding");
    plan_question q = sample_question();
    q.job.imbalance = 1.25;
    CHECK(has(describe(q), "folding, imbalance 1.25"));
    q.job.facts.tokens.percent = 100;
    CHECK(has(describe(q), "capacity 100%"));
    CHECK(!has(describe(q), "imbalance"));
  }
  TEST_CASE("the table ranks plans and shows only what somebody waits for") {
    CHECK(table_of(two_plans().plans).text() ==
          "#  tp  cp  dp  pp  etp  ep  edp  vpp  batch  recompute   memory    step   MFU  causal  TFLOP/s  tp %  ep %  bubble %\n"
          "--------------------------------------------------------------------------------------------------------------------\n"
          "1   2   1   8   8    1   8    2    7      1       none  74.9 GB  9.71 s  49.3    47.6      488   3.0   4.1       3.1\n"
          "2   2   1   8   8    1   8    2    7      1       full  74.9 GB  9.90 s  48.3    46.6      478   3.0   4.1       3.1\n");
  }
  TEST_CASE("a plan that does not fit is marked") {
    std::vector<prediction> plans = {sample_plan(9.71, 0.493)};
    plans[0].fits = false;
    CHECK(has(table_of(plans).text(), "74.9 GB !"));
  }
  TEST_CASE("reasons that most mappings share come first, then those that miss the memory") {
    CHECK(refused_text(two_plans()) ==
          "50 legal mappings, 30 fit into memory, searched in 12.3 ms\n"
          "30 refused by a rule, each with an example:\n"
          "  20 x dp128 | ep16 edp8 | b1: EP is too large (given ep = 16)\n"
          "  10 x tp16 dp8 | edp128 | b1: TP is too large (given tp = 16)\n"
          "20 do not fit, the nearest:\n"
          "  dp128 | edp128 | b1: it needs 100 GB\n");
    CHECK(has(refused_text(two_plans(), 1), "  and 1 more reason\n"));
  }
  TEST_CASE("an answer without a plan says so") {
    search_result none = two_plans();
    none.plans.clear();
    CHECK(has(report(sample_question(), none), "no mapping fits; the reasons:"));
    CHECK(has(report(sample_question(), none), "EP is too large"));
    CHECK(has(report(sample_question(), two_plans()), "MFU: of 989.5 TFLOP/s"));
  }
  TEST_CASE("seconds choose their unit after rounding") {
    CHECK(detail::seconds_text(42e-6) == "42 us");
    CHECK(detail::seconds_text(999.6e-6) == "1.0 ms");
    CHECK(detail::seconds_text(0.0437) == "43.7 ms");
    CHECK(detail::seconds_text(0.4) == "400 ms");
    CHECK(detail::seconds_text(0.9996) == "1.00 s");
    CHECK(detail::seconds_text(185) == "3m05s");
  }
}
