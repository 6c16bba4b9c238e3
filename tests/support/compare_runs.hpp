#pragma once
// How two training runs are compared (support/train_mapping.hpp): gradients by parameter, losses and norms by step.
#include "train_mapping.hpp"

#include <doctest/doctest.h>

namespace moefold::testing {

inline double largest(const std::vector<double>& a) {
  double most = 0;
  for (double x : a) most = std::max(most, std::abs(x));
  return most;
}
inline double max_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}
inline double norm_of_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0, whole = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    squares += (a[i] - b[i]) * (a[i] - b[i]);
    whole += b[i] * b[i];
  }
  return std::sqrt(squares / whole);
}
inline double relative(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return most;
}
/// The vocabulary is padded where TP does not divide it: compare the rows that exist, and require the others to be zero.
inline std::vector<double> trimmed(const std::vector<double>& padded, std::size_t real) {
  for (std::size_t i = real; i < padded.size(); ++i) CHECK(padded[i] == 0.0);
  return {padded.begin(), padded.begin() + std::ptrdiff_t(real)};
}
inline void report(const outcome& result) {
  for (const std::string& what : result.wrong) FAIL_CHECK(what);
}

/// In fp64: every gradient of the first step, and losses and norms of all, those of one rank. Returns the largest error of a gradient.
inline double compare_in_double(const outcome& many, const outcome& one) {
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
  return worst;
}

/// A small model on which every mapping of support/mappings.hpp is legal.
inline mapping_options small_model() {
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

}  // namespace moefold::testing
