// Every mapping against one rank: gradients, losses, norms, traffic, memory and replicas of one small model.
#include "../support/mappings.hpp"
#include "../support/train_mapping.hpp"

#include <doctest/doctest.h>

#include <cstdio>

using namespace moefold;
using namespace moefold::testing;

namespace {

using double_policies = policies<fp64, cp_all_gather, moe_defaults, one_f_one_b, adamw>;
using float_policies = policies<fp32, cp_all_gather, moe_defaults, one_f_one_b, adamw>;

mapping_options small_model() {
  mapping_options o;
  o.model.layers = 5;  // uneven over 2 and 4 stages
  o.model.hidden = 32;
  o.model.heads = 4;
  o.model.kv_heads = 4;
  o.model.head_dim = 8;
  o.model.experts = 8;
  o.model.ffn = 12;
  o.model.vocabulary = 50;  // padded where TP is 4
  o.model.init_std = 0.1;   // far from uniform routing, so that margins are wide
  o.train.global_batch = 8;
  o.train.learning_rate = 2e-3;
  return o;
}

double largest(const std::vector<double>& a) {
  double most = 0;
  for (double x : a) most = std::max(most, std::abs(x));
  return most;
}
double max_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}
double norm_of_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0, whole = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]) * (a[i] - b[i]);
    whole += b[i] * b[i];
  }
  return std::sqrt(squares / whole);
}
double relative(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return most;
}
/// The vocabulary is padded where TP does not divide it: compare the rows that exist, and require the others to be zero.
std::vector<double> trimmed(const std::vector<double>& padded, std::size_t real) {
  for (std::size_t i = real; i < padded.size(); ++i) CHECK(padded[i] == 0.0);
  return {padded.begin(), padded.begin() + std::ptrdiff_t(real)};
}

const outcome& single_rank_in_double() {
  static const outcome one = train_mapping<double_policies>({}, small_model());
  return one;
}

void report(const outcome& result) {
  for (const std::string& what : result.wrong) FAIL_CHECK(what);
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
      report(many);
      CHECK(many.margin > 1e-9);
      double worst = 0;
      for (const auto& parameter : one.first) {
        const std::string& name = parameter.first;
        const std::vector<double>& gradient = parameter.second;
        CAPTURE(name);
        const double difference = max_difference(trimmed(many.first.at(name), gradient.size()), gradient) / largest(gradient);
        CHECK(largest(gradient) > 0);
        CHECK(difference < 1e-10);
        worst = std::max(worst, difference);
      }
      CHECK(relative(many.losses, one.losses) < 1e-9);
      CHECK(relative(many.norms, one.norms) < 1e-9);
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
      report(many);
      CHECK(many.margin > 1e-9);
      for (const auto& parameter : one.first)
        CHECK(max_difference(trimmed(many.first.at(parameter.first), parameter.second.size()), parameter.second) /
                  largest(parameter.second) <
              1e-10);
      CHECK(relative(many.losses, one.losses) < 1e-9);
      CHECK(relative(many.norms, one.norms) < 1e-9);
    }
    CHECK(tried >= 18);
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
