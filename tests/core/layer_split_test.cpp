#include <moefold/core/layer_split.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

namespace {

std::vector<extent_t> counts_of(const layer_split& split, extent_t layers, extent_t stages) {
  std::vector<extent_t> counts;
  extent_t next = 0;
  for (extent_t v = 0; v < stages; ++v) {
    const layer_range own = layers_of(split, layers, stages, v);
    CHECK(own.first == next);
    next += own.count;
    counts.push_back(own.count);
  }
  CHECK(next == layers);
  return counts;
}
using list = std::vector<extent_t>;

}  // namespace

TEST_SUITE("core/layer_split") {
  TEST_CASE("an even split holds every layer once, in order, none more than one above another, the longer ones first") {
    for (extent_t layers = 1; layers <= 20; ++layers)
      for (extent_t stages = 1; stages <= layers; ++stages) {
        const list counts = counts_of({}, layers, stages);
        for (std::size_t i = 0; i < counts.size(); ++i) {
          CHECK(counts[i] >= layers / stages);
          CHECK(counts[i] <= layers / stages + 1);
          if (i > 0) CHECK(counts[i] <= counts[i - 1]);
        }
      }
    static_assert(layers_of({}, 7, 3, 1) == layer_range{3, 2});
  }
  TEST_CASE("embedding and head weigh as layers when asked, and may be all that a stage has") {
    const layer_split both{.embedding_weighs = true, .head_weighs = true};
    CHECK(counts_of(both, 7, 3) == list{2, 3, 2});
    CHECK(counts_of(both, 2, 4) == list{0, 1, 1, 0});
    CHECK(counts_of({.head_weighs = true}, 7, 4) == list{2, 2, 2, 1});
    CHECK(counts_of({.embedding_weighs = true}, 7, 4) == list{1, 2, 2, 2});
    CHECK(least_layers(both, 4) == 2);
    CHECK(least_layers({}, 4) == 4);
    CHECK(least_layers({.chunks = 3}, 4) == 12);
  }
  TEST_CASE("given counts are taken as they are, zeros too") {
    const layer_split split = layer_counts({3, 0, 2, 1});
    CHECK(counts_of(split, 6, 4) == list{3, 0, 2, 1});
    CHECK(least_layers(split, 4) == 1);
    CHECK_NOTHROW(check(split, 6, 4));
  }
  TEST_CASE("counts that are not those of the model or the stages are refused") {
    CHECK_THROWS_WITH_AS(check(layer_counts({3, 2}), 6, 2), "moefold: the layer counts add up to 5 and the model has 6 layers", config_error);
    CHECK_THROWS_WITH_AS(check(layer_counts({3, 3}), 6, 4),
                         "moefold: 4 stages of 1 chunks need 4 layer counts (given 2); give one for each virtual stage, in their order",
                         config_error);
    CHECK_THROWS_AS(check(layer_counts({7, -1}), 6, 2), config_error);
    layer_split weighs = layer_counts({3, 3});
    weighs.head_weighs = true;
    CHECK_THROWS_AS(check(weighs, 6, 2), config_error);
    CHECK_THROWS_AS(check(layer_split{.chunks = 0}, 6, 2), config_error);
  }
  TEST_CASE("a split can be printed") {
    CHECK(describe(layer_split{}) == "even");
    CHECK(describe(layer_split{.embedding_weighs = true, .head_weighs = true}) == "even, embedding and head weigh as layers");
    CHECK(describe(layer_split{.head_weighs = true}) == "even, the head weighs as a layer");
    CHECK(describe(layer_counts({3, 0, 1})) == "3 0 1");
  }
}
