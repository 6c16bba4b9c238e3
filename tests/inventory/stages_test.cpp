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
  TEST_CASE("dense layers are counted on the stages and in the chunks that hold them") {
    static_assert(dense_in({2, 3}, 0) == 0 && dense_in({2, 3}, 2) == 0 && dense_in({2, 3}, 3) == 1 && dense_in({2, 3}, 5) == 3 &&
                  dense_in({2, 3}, 9) == 3);
    folding_extents fold = make_folding({{axis_id::pp, 2}}, {{axis_id::pp, 2}});
    fold.layers.chunks = 2;  // stage 0 [0 1] [4 5], stage 1 [2 3] [6]
    for (extent_t dense = 0; dense <= 7; ++dense)
      for (extent_t stage = 0; stage < 2; ++stage) {
        extent_t count = 0;
        for_each_layer(7, fold, stage, [&](extent_t l) { count += l < dense; });
        CHECK(dense_on_stage(7, dense, fold, stage) == count);
      }
  }
}
