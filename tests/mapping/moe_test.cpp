// Every mapping against one rank once more, with what the MoE layers let their user choose: balance losses over all their sets, jitter, capacity over full
// sequences, sigmoid scores with groups and a bias, shared experts, the AllGather dispatcher; labels unevenly ignored and tokens padded.
#include "../support/common_runs.hpp"
#include "../support/mappings.hpp"

#include <cstdio>

using namespace moefold;
using namespace moefold::testing;

namespace {

using all_to_all_policies = double_policies;
struct gather : moe_defaults {
  template <class T, class Comm>
  using dispatcher = all_gather_dispatcher<T, Comm>;
};
using all_gather_policies = policies<fp64, cp_all_gather, gather, one_f_one_b, adamw>;

/// Unevenly over sequences, positions and therefore ranks: a prompt whose labels do not count, and padding at the end, in some sequences much of it.
void uneven(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) {
  const extent_t size = extent_t(tokens.size()), prompt = index * 5 % 11, padding = index % 3 == 0 ? 0 : index * 7 % (size / 2);
  std::fill_n(labels.begin(), prompt, -1);
  std::fill(tokens.end() - padding, tokens.end(), -1);
}

mapping_options with(const moe_facts& facts) {
  mapping_options o = small_model();
  o.train.micro_batch = 2;
  o.steps = 3;
  o.facts = facts;
  o.edit = uneven;
  return o;
}
model_shape deepseek_like() {
  model_shape m = small_model().model;
  m.score = score_function::sigmoid;
  m.weight_scale = 2.5;
  m.expert_groups = 2, m.chosen_groups = 1;  // fewer than k: only then do groups forbid what the scores would choose
  m.expert_bias = true;
  m.shared_ffn = 16, m.shared_gate = true;
  return m;
}

/// Runs every mapping whose batch the model's divides, and that `applies`; compares with one rank, or with the first that ran.
template <class Policies, class Applies>
int compare_all(const char* what, const mapping_options& options, const outcome& one, Applies applies) {
  int tried = 0;
  double worst = 0;
  for (const mapping& m : mappings()) {
    if (options.train.global_batch % (m.fold.attention.of(axis_id::dp) * options.train.micro_batch) != 0 || !applies(m.fold)) continue;
    CAPTURE(m.name);
    const outcome many = train_mapping<Policies>(m.fold, options);
    worst = std::max(worst, compare_in_double(many, one));
    CHECK(max_difference(many.balance, one.balance) < 1e-10);
    CHECK(many.dropped == one.dropped);
    CHECK(many.bias == one.bias);
    ++tried;
  }
  std::printf("%-60s %d mappings, gradients %.1e\n", what, tried, worst);
  return tried;
}
constexpr auto everywhere = [](const folding_extents&) { return true; };

}  // namespace

TEST_SUITE("mapping/moe") {
  TEST_CASE(
      "balance losses over micro-batch, sequence and step, and z-loss, with jitter, ignored labels and padding: one rank's in every "
      "mapping") {
    const mapping_options options = with({{}, {.micro_batch = 0.02, .sequence = 0.03, .global = 0.04, .z = 1e-3}, 0.01});
    const outcome one = train_mapping<all_to_all_policies>({}, options);
    report(one);
    for (const double b : one.balance) CHECK(b > 0.05);
    CHECK(compare_all<all_to_all_policies>("balance losses, jitter, padding", options, one, everywhere) >= 18);

    const outcome without =
        train_mapping<all_to_all_policies>({}, with({}));  // they reach the router's gradient, and nothing is compared in vain
    CHECK(max_difference(one.first.at("layers.2.moe.router"), without.first.at("layers.2.moe.router")) /
              largest(without.first.at("layers.2.moe.router")) >
          1e-3);
  }
  TEST_CASE("the running balance loss, which depends on DP and micro-batch, is the same in every mapping with the same DP") {
    const mapping_options options = with({{}, {.global_running = 0.05}});
    const outcome two = train_mapping<all_to_all_policies>(make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}}), options);
    report(two);
    CHECK(compare_all<all_to_all_policies>("running balance loss, dp 2", options, two,
                                           [](const folding_extents& f) { return f.attention.of(axis_id::dp) == 2; }) >= 6);
  }
  TEST_CASE(
      "sigmoid scores, groups, bias, shared expert with its gate, full-sequence capacity padded: one rank's in every mapping, biases bit "
      "for bit") {
    mapping_options options = with({{75, true, false, true}, {.sequence = 0.02, .global = 0.02}});
    options.model = deepseek_like();
    const outcome one = train_mapping<all_to_all_policies>({}, options);
    report(one);
    for (const double d : one.dropped) CHECK(d > 0.05);
    CHECK(largest(one.bias) > 2.5e-3);  // three steps of u = 1e-3
    CHECK(compare_all<all_to_all_policies>("sigmoid, groups, bias, shared, full-sequence capacity", options, one, everywhere) >= 18);
  }
  TEST_CASE("full-sequence capacity without padding, by position, gelu: one rank's in every mapping") {
    mapping_options options = with({{110, true, true, false}, {}});
    options.model.activation = activation_function::gelu;
    const outcome one = train_mapping<all_to_all_policies>({}, options);
    report(one);
    for (const double d : one.dropped) CHECK(d > 0);
    CHECK(compare_all<all_to_all_policies>("gelu, full-sequence capacity by position", options, one, everywhere) >= 18);
  }
  TEST_CASE("the AllGather dispatcher gives the AllToAll dispatcher's run, dropless and padded, and sends what the inventory says") {
    for (const token_rule& rule : {token_rule{}, token_rule{100, true, false, true}}) {
      const mapping_options options = with({rule, {.micro_batch = 0.02}});
      const outcome one = train_mapping<all_to_all_policies>({}, options);
      report(one);
      CHECK(compare_all<all_gather_policies>("AllGather dispatcher", options, one, everywhere) >= 18);
    }
  }

  TEST_CASE("recomputation changes no bit of gradients, losses and weights, and what it sends again was foretold") {
    using enum axis_id;
    using enum recompute_part;
    mapping_options options =
        with({{110, true}, {.micro_batch = 1e-2, .sequence = 1e-2, .global = 1e-2, .global_running = 1e-2, .z = 1e-3}, 0.1});
    options.model = deepseek_like();
    for (const folding_extents& fold :
         {make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}), make_folding({{tp, 2}, {cp, 2}}, {{etp, 2}, {ep, 2}})}) {
      const auto compare_rules = [&](auto choose) {
        using chosen = decltype(choose);
        const outcome kept = train_mapping<chosen>(fold, options);
        report(kept);
        for (const recompute_rule& rule :
             {recompute_full, selective<norms>, selective<activation>, selective<core_attention>, selective<recompute_part::moe>,
              selective<norms, activation, core_attention, recompute_part::moe>}) {
          CAPTURE(describe(rule));
          mapping_options again = options;
          again.train.recompute = rule;
          const outcome twice = train_mapping<chosen>(fold, again);
          report(twice);
          CHECK(twice.first == kept.first);
          CHECK(twice.last_weights == kept.last_weights);
          CHECK(twice.losses == kept.losses);
          CHECK(twice.norms == kept.norms);
          CHECK(twice.balance == kept.balance);
          CHECK(twice.dropped == kept.dropped);
          CHECK(twice.bias == kept.bias);
        }
      };
      compare_rules(all_to_all_policies{});
      compare_rules(all_gather_policies{});
    }
  }
}
