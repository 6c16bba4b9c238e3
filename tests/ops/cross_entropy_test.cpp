#include <moefold/ops/cross_entropy.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t tokens = 5, vocabulary = 11;
const std::vector<std::int32_t> labels = {0, 10, -1, 5, 6};

/// Loss per token, and the gradient in place of `logits`, over `shards` equal column blocks of the vocabulary padded to a multiple of them.
template <class T>
tensor<T> sharded(host_exec e, tensor<T>& logits, extent_t shards) {
  const extent_t width = (vocabulary + shards - 1) / shards;
  tensor<T> parts({shards, tokens, 3}), stats({tokens, 3}), loss({tokens});
  std::vector<tensor<T>> local;
  for (extent_t s = 0; s < shards; ++s) {
    const extent_t valid = std::clamp(vocabulary - s * width, extent_t{0}, width);
    local.emplace_back(shape{tokens, width}, T(1e6));  // padding columns must not matter, even if they are large
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t c = 0; c < valid; ++c) local.back().view()(t, c) = logits.view()(t, s * width + c);
    cross_entropy_local(e, local.back().view(), labels, s * width, valid, parts.view().rows(s, 1).as({tokens, 3}));
  }
  cross_entropy_merge(e, parts, stats.view(), loss);
  for (extent_t s = 0; s < shards; ++s) {
    const extent_t valid = std::clamp(vocabulary - s * width, extent_t{0}, width);
    cross_entropy_backward(e, local[std::size_t(s)].view(), labels, s * width, valid, stats);
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t c = 0; c < width; ++c)
        if (c < valid)
          logits.view()(t, s * width + c) = local[std::size_t(s)].view()(t, c);
        else
          CHECK(local[std::size_t(s)].view()(t, c) == T(0));
  }
  return loss;
}

}  // namespace

TEST_SUITE("ops/cross_entropy") {
  TEST_CASE_TEMPLATE("the loss is log-sum-exp minus the label's logit, for any number of shards", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t shards : {1, 2, 4, 8}) {
      auto logits = random_tensor<T>({tokens, vocabulary}, 1, 5.0);
      tensor<T> expected({tokens}, T(0));
      for (extent_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (extent_t c = 0; c < vocabulary; ++c) sum += std::exp(double(logits.view()(t, c)));
        if (labels[std::size_t(t)] >= 0) expected[std::size_t(t)] = T(std::log(sum) - double(logits.view()(t, labels[std::size_t(t)])));
      }
      const auto loss = sharded(e, logits, shards);
      CAPTURE(shards);
      CHECK(test::largest_error(loss, expected) < test::rounding<T>);
      CHECK(loss[2] == T(0));
    }
  }
  TEST_CASE("the gradient equals finite differences and is zero for an ignored token") {
    host_context context;
    const host_exec e(context);
    for (const extent_t shards : {1, 3, 8}) {
      auto logits = random_tensor<double>({tokens, vocabulary}, 1);
      const auto slope = test::numerical_gradient(logits, [&] {
        auto scratch_copy = test::copy_of(logits.view());
        double sum = 0;
        for (const double l : sharded(e, scratch_copy, shards)) sum += l;
        return sum;
      });
      sharded(e, logits, shards);
      CHECK(test::largest_error(logits, slope) < 1e-9);
      for (extent_t c = 0; c < vocabulary; ++c) CHECK(logits.view()(2, c) == 0.0);
    }
  }
  TEST_CASE_TEMPLATE("one NaN logit makes loss and gradient of its token NaN on every shard; the other tokens and an ignored one stay", T,
                     float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t shards : {1, 2, 8})
      for (const extent_t where : {0, 6, 10}) {
        auto logits = random_tensor<T>({tokens, vocabulary}, 1), clean = test::copy_of(logits.view());
        for (const extent_t t : {1, 2}) logits.view()(t, where) = std::numeric_limits<T>::quiet_NaN();
        for (extent_t c = 0; c < vocabulary; ++c) logits.view()(4, c) = std::numeric_limits<T>::quiet_NaN();
        const auto loss = sharded(e, logits, shards), expected = sharded(e, clean, shards);
        CAPTURE(shards);
        CAPTURE(where);
        for (const std::size_t t : {1u, 4u}) CHECK(std::isnan(loss[t]));
        CHECK(loss[2] == T(0));
        for (const std::size_t t : {0u, 3u}) CHECK(loss[t] == expected[t]);
        for (extent_t c = 0; c < vocabulary; ++c) {
          for (const extent_t t : {1, 4}) CHECK(std::isnan(logits.view()(t, c)));
          CHECK(logits.view()(2, c) == T(0));
          for (const extent_t t : {0, 3}) CHECK(logits.view()(t, c) == clean.view()(t, c));
        }
      }
  }
  TEST_CASE("a label outside the vocabulary is named; a negative one is ignored") {
    host_context context;
    const host_exec e(context);
    CHECK_NOTHROW(require_labels(e, labels, vocabulary));
    CHECK_THROWS_WITH_AS(require_labels(e, labels, 10),
                         "moefold: label 10 is outside the vocabulary of 10 (at place 1); use labels below it, negative to ignore", error);
  }
  TEST_CASE("no tokens is a legal batch") {
    host_context context;
    const host_exec e(context);
    tensor<float> logits({0, 4}), stats({0, 3}), parts({1, 0, 3}), loss({0});
    CHECK_NOTHROW(cross_entropy_local(e, logits.view(), {}, 0, 4, stats));
    CHECK_NOTHROW(cross_entropy_merge(e, parts, stats.view(), loss));
    CHECK_NOTHROW(cross_entropy_backward(e, logits.view(), {}, 0, 4, stats));
  }
}
