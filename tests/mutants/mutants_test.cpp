// What the suites of mappings ask of every folding, asked of two: with MOEFOLD_MUTANT it must fail for each known bug (core/mutant.hpp), without it pass.
#include "../support/compare_runs.hpp"

#include <doctest/doctest.h>

#include <cstring>

using namespace moefold;
using namespace moefold::testing;

namespace {

using in_double = policies<fp64, cp_all_gather, moe_defaults, one_f_one_b, adamw>;

/// Labels that do not count and padding, unevenly over sequences.
void uneven(extent_t index, std::span<std::int32_t> tokens, std::span<std::int32_t> labels) {
  std::fill_n(labels.begin(), index * 5 % 11, -1);
  std::fill(tokens.end() - (index % 3 == 0 ? 0 : index * 7 % 16), tokens.end(), -1);
}
mapping_options quick() {
  mapping_options o = small_model();
  o.model.layers = 2;
  o.steps = 2;
  return o;
}
void compare(const folding_extents& fold, const mapping_options& options) {
  const outcome one = train_mapping<in_double>({}, options), many = train_mapping<in_double>(fold, options);
  report(one);
  compare_in_double(many, one);
  CHECK(max_difference(many.balance, one.balance) < 1e-10);
}
/// Every token's experts are 0 and 1, whatever the scores say.
void choose_the_first_two(std::vector<state_tensor>&, std::vector<state_array>& shared) {
  for (state_array& array : shared) {
    if (array.name != "router.bias") continue;
    for (extent_t layer = 0; layer < array.extent[0]; ++layer)
      for (extent_t expert = 0; expert < 2; ++expert) {
        const double much = 10;
        std::memcpy(&array.bytes[std::size_t(layer * array.extent[1] + expert) * sizeof much], &much, sizeof much);
      }
  }
}

}  // namespace

TEST_SUITE("mutants/mutants") {
  TEST_CASE("a folding over every axis but pp has one rank's gradients, losses, norms and replicas, with balance losses and padding") {
    using enum axis_id;
    mapping_options options = quick();
    options.facts.balance = {.micro_batch = 0.05, .z = 1e-3};
    options.edit = uneven;
    compare(make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}, {edp, 2}}), options);
  }
  TEST_CASE("all tokens to the experts of one rank: the other ranks, with no row at all, take part and the numbers are one rank's") {
    using enum axis_id;
    mapping_options options = quick();
    options.model.score = score_function::sigmoid, options.model.expert_bias = true;
    options.start = choose_the_first_two;
    const folding_extents fold = make_folding({{tp, 2}, {dp, 2}}, {{ep, 4}});
    const outcome one = train_mapping<in_double>({}, options), many = train_mapping<in_double>(fold, options);
    report(one);
    report(many);
    for (const auto& [name, gradient] : one.first) {
      CAPTURE(name);
      CHECK(max_difference(trimmed(many.first.at(name), gradient.size()), gradient) <= 1e-10 * largest(gradient));
    }
    const std::vector<double>& gate = one.first.at("layers.1.moe.gate");  // [8, F, H]
    CHECK(largest({gate.begin(), gate.begin() + std::ptrdiff_t(gate.size() / 4)}) > 0);
    CHECK(largest({gate.begin() + std::ptrdiff_t(gate.size() / 4), gate.end()}) == 0);
    CHECK(relative(many.losses, one.losses) < 1e-9);
  }
}
