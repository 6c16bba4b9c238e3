// Every mapping against one rank: gradients, losses, norms, traffic, memory and replicas of one small model.
#include "../support/common_runs.hpp"
#include "../support/mappings.hpp"

#include <doctest/doctest.h>

#include <cstdio>

using namespace moefold;
using namespace moefold::testing;

// Here, for all suites of this program (support/common_runs.hpp).
template outcome moefold::testing::train_mapping<double_policies>(const folding_extents&, const mapping_options&);
template outcome moefold::testing::train_mapping<float_policies>(const folding_extents&, const mapping_options&);

namespace {

const outcome& single_rank_in_double() {
  static const outcome one = train_mapping<double_policies>({}, small_model());
  return one;
}

}  // namespace

TEST_SUITE("mapping/mapping") {
  TEST_CASE("in fp64 every mapping gives the single rank's gradients, losses and norms, sends what was foretold and keeps replicas alike") {
    const outcome& one = single_rank_in_double();
    report(one);
    REQUIRE(one.losses.size() == 10);
    CHECK(one.losses.back() < one.losses.front());
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      const outcome many = train_mapping<double_policies>(m.fold, small_model());
      const double worst = compare_in_double(many, one);
      std::printf("%-45s gradients %.1e  losses %.1e  norms %.1e  margin %.1e\n", m.name.c_str(), worst, relative(many.losses, one.losses),
                  relative(many.norms, one.norms), many.margin);
    }
  }

  TEST_CASE("in fp32 every mapping agrees to rounding; beyond the first step it replays the single rank's choices") {
    mapping_options options = small_model();
    routing_trace trace(options.steps, options.model.layers, options.train.global_batch, options.sequence, options.model.top_k);
    options.record = &trace;
    const outcome one = train_mapping<float_policies>({}, options);
    report(one);
    options.record = nullptr;
    options.replay = &trace;
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      const outcome many = train_mapping<float_policies>(m.fold, options);
      report(many);
      const bool same_products = m.fold.attention.of(axis_id::tp) * m.fold.attention.of(axis_id::cp) * m.fold.moe.of(axis_id::etp) == 1;
      CHECK(many.margin > 1e-5);
      double worst = 0;
      for (const auto& parameter : one.first) {
        const std::string& name = parameter.first;
        const std::vector<double>& gradient = parameter.second;
        CAPTURE(name);
        const double difference = norm_of_difference(trimmed(many.first.at(name), gradient.size()), gradient);
        CHECK(difference < (same_products ? 2e-6 : 5e-5));
        worst = std::max(worst, difference);
      }
      CHECK(std::abs(many.losses[0] - one.losses[0]) / one.losses[0] < 1e-6);
      CHECK(relative(many.losses, one.losses) < 1e-4);
      CHECK(relative(many.norms, one.norms) < 1e-4);
      std::printf("%-45s gradients %.1e  losses %.1e  norms %.1e\n", m.name.c_str(), worst, relative(many.losses, one.losses),
                  relative(many.norms, one.norms));
    }
  }

  TEST_CASE("with two sequences a micro-batch and grouped queries every mapping that divides them gives the single rank's numbers too") {
    mapping_options options = small_model();
    options.model.kv_heads = 2;
    options.train.micro_batch = 2;
    options.steps = 3;
    const outcome one = train_mapping<double_policies>({}, options);
    report(one);
    int tried = 0;
    for (const mapping& m : mappings()) {
      if (m.fold.attention.of(axis_id::tp) > 2 || m.fold.attention.of(axis_id::dp) > 4) continue;
      CAPTURE(m.name);
      ++tried;
      const outcome many = train_mapping<double_policies>(m.fold, options);
      compare_in_double(many, one);
    }
    CHECK(tried >= 18);
  }

  TEST_CASE("with biases of the projections and normalised heads, grouped, every mapping gives the single rank's numbers") {
    mapping_options options = small_model();
    options.model.heads = 8, options.model.head_dim = 4;
    options.model.qkv_bias = options.model.qk_norm = true;
    options.model.sliding_window = options.sequence;
    options.steps = 3;
    const outcome one = train_mapping<double_policies>({}, options);
    report(one);
    for (const char* name : {"query_bias", "key_bias", "value_bias", "query_norm", "key_norm"})
      CHECK(largest(one.first.at(sentence("layers.4.attention.", name))) > 1e-6);
    double worst = 0;
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      worst = std::max(worst, compare_in_double(train_mapping<double_policies>(m.fold, options), one));
    }
    std::printf("%-45s gradients %.1e\n", "biases and normalised heads", worst);
  }

  TEST_CASE("a run repeated is the same, bit for bit, in every mapping") {
    mapping_options options = small_model();
    options.steps = 2;
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      const outcome first = train_mapping<float_policies>(m.fold, options), again = train_mapping<float_policies>(m.fold, options);
      CHECK(first.losses == again.losses);
      CHECK(first.norms == again.norms);
      CHECK(first.first == again.first);
      CHECK((first.last_weights == again.last_weights));
    }
  }

  TEST_CASE("a run repeated is the same, bit for bit: one folding") {
    for (const mapping& m : mappings()) {
      if (m.name.find("one folding") == std::string::npos) continue;
      mapping_options options = small_model();
      options.steps = 4;
      const outcome first = train_mapping<float_policies>(m.fold, options), again = train_mapping<float_policies>(m.fold, options);
      report(first);
      CHECK(first.losses == again.losses);
      CHECK(first.norms == again.norms);
      CHECK(first.last_weights == again.last_weights);
    }
  }
}
