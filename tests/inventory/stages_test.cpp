#include <moefold/inventory/stages.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("inventory/stages") {
  TEST_CASE("the chunks of a stage hold the layers of its virtual stages, ascending") {
    folding_extents fold = make_folding({{axis_id::pp, 2}}, {{axis_id::pp, 2}});
    CHECK(chunk_layers(7, fold, 0, 0) == layer_range{0, 4});
    CHECK(chunk_layers(7, fold, 1, 0) == layer_range{4, 3});
    fold.layers.chunks = 2;
    CHECK(chunk_layers(7, fold, 0, 1) == layer_range{4, 2});
    std::vector<extent_t> own;
    for_each_layer(7, fold, 1, [&](extent_t l) { own.push_back(l); });
    CHECK(own == std::vector<extent_t>{2, 3, 6});
    CHECK(layers_on_stage(7, fold, 0) == 4);
    CHECK(layers_on_stage(7, fold, 1) == 3);
  }
}
