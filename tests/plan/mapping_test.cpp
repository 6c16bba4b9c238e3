#include <moefold/plan/mapping.hpp>

#include <moefold/schedule/interleaved.hpp>
#include <moefold/train/options.hpp>

#include <doctest/doctest.h>
#include "../support/random_plans.hpp"

#include <algorithm>
#include <array>

using namespace moefold;
using moefold::testing::random_numbers;
using moefold::testing::random_plan;

namespace {

/// What the trainer asks before it begins (train/trainer.hpp), its layers included, of a folding that somebody made; empty: nothing is wrong.
std::string refused_by_engine(const plan_job& job, const plan_mapping& m) {
  try {
    using enum axis_id;
    folding_extents fold =
        make_folding(extents{{tp, m.tp}, {cp, m.cp}, {dp, m.dp}, {pp, m.pp}}, extents{{etp, m.etp}, {ep, m.ep}, {edp, m.edp}, {pp, m.pp}});
    fold.layers = job.layers, fold.layers.chunks = m.vpp;
    if (fold.world() != job.gpus) return "moefold: another number of ranks";  // nobody starts so many
    check(job.model, job.sequence, fold);
    trainer_options options;
    options.global_batch = job.global_batch, options.micro_batch = m.micro_batch;
    check(options, fold);
    require_context_ranks(m.cp, context_pieces(job.context, m.cp));
    require_context_heads(job.model.kv_heads, head_pieces(job.context, m.tp, m.cp));
    check(job.facts);
  } catch (const config_error& e) {
    return e.what();
  }
  return {};
}

/// Every sentence that says no, by words that none before it has; sentences are kept without their numbers.
constexpr const char* rules[] = {"an axis has at least  rank",
                                 "TP*CP*DP*PP must equal ETP*EP*EDP*PP",
                                 "the mapping has TP*CP*DP*PP",
                                 "every number of a model_shape",
                                 "heads must be a multiple of kv_heads",
                                 "RoPE rotates pairs",
                                 "top_k must lie between",
                                 "with top_k =  softmax",
                                 "experts must be a multiple of expert_groups",
                                 "chosen_groups must lie between",
                                 "top_k must be a multiple of chosen_groups",
                                 "a group is judged by its best",
                                 "expert_bias works on sigmoid",
                                 "shared_gate gates",
                                 "shared_ffn is ",
                                 "sliding_window is the number",
                                 "dense_layers are the first",
                                 "dense layers have a width",
                                 "weight_scale is a finite",
                                 "rope_theta, norm_eps and init_std",
                                 "the attention heads must be a multiple of TP",
                                 "the key/value heads must be a multiple of TP",
                                 "the experts must be a multiple of EP",
                                 "the expert ffn width",
                                 "the shared expert's ffn width",
                                 "the ffn width of dense layers",
                                 "a sequence is at least  token",
                                 "see only sliding_window tokens",
                                 "the sequence must be a multiple",
                                 "a stage has at least  chunk",
                                 "needs at least one layer",
                                 "layer counts (given",
                                 "leave nothing to weigh",
                                 "holds  layers or more",
                                 "layer counts add up",

                                 "the micro-batch is at least ",
                                 "the global batch is at most",
                                 "the micro-batch is at most",
                                 "the global batch must be a positive multiple",
                                 "CP must be a multiple of A",
                                 "exchanging heads for sequence",
                                 "coefficients of balance losses",
                                 "the bias step is finite",
                                 "jitter lies in",
                                 "a capacity lies between",
                                 "belong to a capacity"};
std::string without_numbers(const std::string& reason) {
  std::string rule;
  for (const char c : reason)
    if (c < '0' || c > '9') rule += c;
  return rule;
}

}  // namespace

TEST_SUITE("plan/mapping") {
  TEST_CASE("the planner accepts what the engine's checks accept, 100,000 random runs, and every rule is among what they break") {
    const random_numbers draw(31);
    std::array<extent_t, std::size(rules)> broken{};
    extent_t accepted = 0, disagreements = 0, unknown = 0;
    constexpr extent_t runs = 100'000;
    for (std::uint64_t i = 0; i < runs; ++i) {
      const random_plan p = moefold::testing::spoilt_plan(draw, i);
      const std::string planner = refusal(p.job, p.mapping), engine = refused_by_engine(p.job, p.mapping);
      if (planner.empty() != engine.empty() && ++disagreements < 5)
        FAIL_CHECK(sentence("planner: ", planner, "; engine: ", engine, "; ", describe(p.mapping)));
      if (planner.empty()) {
        ++accepted;
        continue;
      }
      const std::string said = without_numbers(planner);
      const auto rule =
          std::find_if(std::begin(rules), std::end(rules), [&](const char* words) { return said.find(words) != std::string::npos; });
      if (rule != std::end(rules))
        ++broken[std::size_t(rule - std::begin(rules))];
      else if (++unknown < 5)
        FAIL_CHECK(sentence("a rule that this test does not know: ", planner));
    }
    CHECK(disagreements == 0);
    CHECK(unknown == 0);
    for (std::size_t r = 0; r < broken.size(); ++r) CHECK_MESSAGE(broken[r] > 0, std::string(rules[r]));
    CHECK(accepted > runs / 5);
    CHECK(accepted < runs * 4 / 5);
    MESSAGE("P07: ", disagreements, " disagreements on ", runs, " random runs, ", accepted, " accepted; ", broken.size(),
            " rules, the rarest broken ", *std::min_element(broken.begin(), broken.end()), " times");
  }
  TEST_CASE("a strategy refuses what it is not, in words that say what is") {
    plan_job job;
    job.model = {
        .layers = 8, .hidden = 16, .heads = 8, .kv_heads = 8, .head_dim = 2, .experts = 8, .top_k = 2, .ffn = 16, .vocabulary = 32};
    job.gpus = 16, job.sequence = 64, job.global_batch = 16;
    const auto reason = [&](plan_strategy strategy, const plan_mapping& m) {
      plan_job other = job;
      other.strategy = strategy;
      return refusal(other, m);
    };
    using enum plan_strategy;
    const auto has = [](const std::string& text, const char* words) { return text.find(words) != std::string::npos; };
    const plan_mapping free{2, 1, 8, 1, 1, 8, 2}, tied{2, 1, 8, 1, 2, 8, 1}, piped{2, 1, 4, 2, 2, 4, 1}, context{2, 2, 4, 1, 2, 4, 2},
        alone{2, 1, 8, 1, 2, 1, 8}, wide{4, 1, 4, 1, 4, 4, 1}, beyond{2, 2, 4, 1, 2, 8, 1};
    for (const plan_mapping& m : {free, tied, piped, context, alone, wide, beyond}) CHECK(reason(folding, m) == "");
    for (const plan_strategy s : {mcore, tp_ep_dp, fsdp_ep, fsdp}) {
      CHECK(has(reason(s, free), "has ETP = TP (given ETP 1 and TP 2)"));
      CHECK(has(reason(s, beyond), "DP must be a multiple of EP (given EP 8 and DP 4)"));
      CHECK((reason(s, piped) == "" || has(reason(s, piped), "has no pipeline (given PP 2)")));
      CHECK((reason(s, piped) == "") == (s == mcore));
      CHECK((reason(s, context) == "") == (s == mcore || s == fsdp_ep));
      CHECK((reason(s, tied) == "") == (s != fsdp));
      CHECK(reason(s, alone) == "");
    }
    CHECK(has(reason(tp_ep_dp, context), "has no CP (given 2)"));
    CHECK(has(reason(fsdp, tied), "has no EP (given 8); use fsdp-ep"));
    job.schedule = plan_schedule::zero_bubble;
    CHECK(has(reason(folding, {1, 1, 8, 2, 1, 1, 8, 2}), "only 1F1B has several chunks"));
    CHECK(describe(tied) == "tp 2, cp 1, dp 8, pp 1 | etp 2, ep 8, edp 1 | vpp 1, micro-batch 1, recompute none");
  }
}
