#include <moefold/inventory/stages.hpp>

#include <doctest/doctest.h>

using namespace moefold;

static_assert(stage_layers(7, 3, 0) == layer_range{0, 3} && stage_layers(7, 3, 1) == layer_range{3, 2} &&
              stage_layers(7, 3, 2) == layer_range{5, 2});

TEST_SUITE("inventory/stages") {
  TEST_CASE("the stages hold every layer once, in order, none more than one above another, the longer ones first") {
    for (extent_t layers = 1; layers <= 20; ++layers)
      for (extent_t stages = 1; stages <= layers; ++stages) {
        CAPTURE(layers);
        CAPTURE(stages);
        extent_t next = 0, before = layers;
        bool right = true;
        for (extent_t s = 0; s < stages; ++s) {
          const layer_range own = stage_layers(layers, stages, s);
          right = right && own.first == next && own.count >= 1 && own.count <= before && own.count >= layers / stages &&
                  own.count <= layers / stages + 1;
          next += own.count, before = own.count;
        }
        CHECK(right);
        CHECK(next == layers);
      }
  }
}
