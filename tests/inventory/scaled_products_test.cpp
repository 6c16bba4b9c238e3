#include <moefold/inventory/scaled_products.hpp>

#include <doctest/doctest.h>

#include <set>

using namespace moefold;

TEST_SUITE("inventory/scaled_products") {
  TEST_CASE("every product of every layer has three amaxes of its own, and together they fill what travels") {
    const model_shape model{.layers = 3};
    std::set<extent_t> places;
    for (extent_t layer = 0; layer < model.layers; ++layer)
      for (const parameter_kind weight : scaled_products)
        for (extent_t tensor = 0; tensor < tensors_of_product; ++tensor) places.insert(amax_of_product(layer, weight) + tensor);
    CHECK(extent_t(places.size()) == recorded_amaxes<fp8<>>(model));
    CHECK(*places.begin() == 0);
    CHECK(*places.rbegin() == recorded_amaxes<fp8<>>(model) - 1);
  }
  TEST_CASE("router, head, embedding, norms and the gate of a shared expert see their tensors as they are") {
    using enum parameter_kind;
    for (const parameter_kind kind : {router, head, embedding, attention_norm, moe_norm, final_norm, shared_output_gate}) {
      CAPTURE(name_of(kind));
      CHECK(amax_of_product(0, kind) == -1);
    }
  }
  TEST_CASE("by hand: 2 layers of 10 products and 3 tensors; nothing where no step is remembered") {
    const model_shape model{.layers = 2};
    static_assert(recorded_amaxes<fp8<>>(model_shape{.layers = 2}) == 60);
    CHECK(scaling_bytes<fp8<>>(model) == 60 * 18 * 4);
    CHECK(scaling_bytes<fp8<delayed_scaling<1>>>(model) == 60 * 3 * 4);
    CHECK(scaling_bytes<fp8<current_scaling>>(model) == 0);
    CHECK(recorded_amaxes<fp8<current_scaling>>(model) == 0);
    CHECK(recorded_amaxes<mixed_bf16>(model) == 0);
  }
}
