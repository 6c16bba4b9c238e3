#include <moefold/train/plan_json.hpp>

#include <doctest/doctest.h>

#include "support/plan_sample.hpp"

using namespace moefold;

TEST_SUITE("train/plan_json") {
  TEST_CASE("the object has the stable names, and what it says is what the plans are") {
    search_result r;
    r.plans = {sample_plan(9.71, 0.493), sample_plan(9.9, 0.483)};
    r.plans[1].mapping.recompute = selective<recompute_part::norms, recompute_part::moe>;
    r.refused = {{{16, 1, 8, 0, 0, 0, 0, 0, 0, {}}, "moefold: \"quoted\", and a\nline", 3}};
    const std::string text = to_json<mixed_bf16>(sample_question(), r, "plan --model 'x'");
    const json_value root = read_json(text, "plan.json");
    CHECK(root.at("command").text() == "plan --model 'x'");
    CHECK(root.at("model").text() == "mixtral-8x22b");
    CHECK(root.at("gpus").integer<int>() == 128);
    CHECK(root.at("cluster").text() == "dgx-h100");
    CHECK(root.at("sequence").integer<int>() == 4096);
    CHECK(root.at("global_batch").integer<int>() == 256);
    CHECK(root.at("strategy").text() == "folding");
    CHECK(root.at("precision").text() == "bf16");
    CHECK(root.at("assumptions").array().size() == assumptions_of(sample_question()).size());
    REQUIRE(root.at("plans").array().size() == 2);
    const json_value& plan = root.at("plans").array()[0];
    for (const auto& [name, number] : mapping_numbers) CHECK(plan.at(name).integer<extent_t>() == r.plans[0].mapping.*number);
    CHECK(plan.at("recompute").text() == "none");
    CHECK(root.at("plans").array()[1].at("recompute").text() == "norms+moe");
    CHECK(plan.at("step_seconds").number() == 9.71);
    CHECK(plan.at("mfu").number() == doctest::Approx(49.3));
    CHECK(plan.at("mfu_causal").number() == doctest::Approx(47.6));
    CHECK(plan.at("tflops").number() == doctest::Approx(487.8).epsilon(0.001));
    CHECK(plan.at("memory_bytes").integer<extent_t>() == 74'900'000'000);
    CHECK(plan.at("fits").boolean());
    CHECK(plan.at("exposed").at("ep").number() == doctest::Approx(0.041));
    CHECK(plan.at("goodput").at("ettr").number() > 0.9);
    CHECK(plan.at("goodput").at("mfu").number() < 49.3);
    double sum = 0;
    for (const json_value& part : plan.at("time_seconds").members()) sum += part.number();
    CHECK(sum == doctest::Approx(9.71));
    const json_value& refused = root.at("refused").array().at(0);
    CHECK(refused.at("mapping").members().size() == 3);  // tp, cp and dp: the others play no part
    CHECK(refused.at("mapping").at("tp").integer<int>() == 16);
    CHECK(refused.at("reason").text() == "\"quoted\", and a\nline");
    CHECK(refused.at("mappings").integer<int>() == 3);
  }
  TEST_CASE("an answer without a plan is an object too") {
    const json_value root = read_json(to_json<mixed_bf16>(sample_question(), {}), "plan.json");
    CHECK(root.at("plans").array().empty());
    CHECK(root.at("refused").array().empty());
    CHECK(!root.find("command"));
  }
}
