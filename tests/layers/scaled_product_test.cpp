#include <moefold/layers/scaled_product.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <string>

using namespace moefold;
using test::random_tensor;

namespace {

/// Elements that are not F(x * scale) / scale to the bit.
template <class F>
std::size_t not_rounded_by(float scale, view<const bf16> x, view<const bf16> seen) {
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += float(seen[i]) != float(F(float(x[i]) * scale)) / scale;
  return wrong;
}
/// Magnitudes down to 2^-24 of the largest: more than the formats hold, so that every other scale shows.
tensor<bf16> with_largest(float amax) {
  tensor<bf16> x({4, 6});
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = bf16(std::ldexp(1.37f * amax, -1 - int(i)));
  x[5] = bf16(-amax);
  return x;
}

struct place {
  host_context context;
  host_exec e{context};
  scratch<host_exec> local{e};
};

}  // namespace

TEST_SUITE("layers/scaled_product") {
  TEST_CASE("without 8-bit inputs a product sees the tensors themselves, and nothing is copied") {
    place p;
    const auto x = random_tensor<bf16>({4, 6}, 1);
    const product_inputs<mixed_bf16> inputs;
    CHECK(inputs.x(p.e, x.view(), p.local).data() == x.data());
    CHECK(inputs.weight(p.e, x.view(), p.local).data() == x.data());
    CHECK(inputs.dy(p.e, x.view(), p.local).data() == x.data());
    CHECK(p.context.scratch.peak() == 0);
  }
  TEST_CASE("x and W are rounded to e4m3 and dy to e5m2, each by the scale of its own largest element, where nothing is remembered") {
    place p;
    const auto x = with_largest(7), w = with_largest(0.03f), dy = with_largest(1e-5f);
    const product_inputs<fp8<current_scaling>> inputs;
    CHECK(not_rounded_by<fp8_e4m3>(scale_of(amax_of(p.e, x.view()), 448), x, inputs.x(p.e, x.view(), p.local)) == 0);
    CHECK(not_rounded_by<fp8_e4m3>(scale_of(amax_of(p.e, w.view()), 448), w, inputs.weight(p.e, w.view(), p.local)) == 0);
    CHECK(not_rounded_by<fp8_e5m2>(scale_of(amax_of(p.e, dy.view()), 57344), dy, inputs.dy(p.e, dy.view(), p.local)) == 0);
    CHECK(not_rounded_by<fp8_e5m2>(scale_of(amax_of(p.e, x.view()), 448), x, inputs.x(p.e, x.view(), p.local)) > 0);
  }
  TEST_CASE("the first step scales by the tensor itself; later ones by the largest of the steps before alone, and saturate beyond it") {
    place p;
    self_comm world;
    scaling_states<fp8<delayed_scaling<2>>> states({.layers = 1});
    const auto inputs = states.of(0, parameter_kind::key);
    const auto step = [&](float amax) {  // the scale that was used
      states.begin();
      const auto x = with_largest(amax);
      const view<const bf16> seen = inputs.x(p.e, x.view(), p.local), again = inputs.x(p.e, x.view(), p.local);
      CHECK(std::equal(seen.begin(), seen.end(), again.begin(), [](bf16 a, bf16 b) { return a.bits == b.bits; }));
      float found = 0;
      for (float scale = 1; scale < 2048 && found == 0; scale *= 2)
        if (not_rounded_by<fp8_e4m3>(scale, x, seen) == 0) found = scale;
      states.reduce(p.e, world);
      states.roll();
      return found;
    };
    CHECK(step(1) == 256);  // nothing known: 448 / 1
    CHECK(step(7) == 256);  // 1; 7 saturates at 448 / 256
    CHECK(step(1) == 64);   // 7
    CHECK(step(1) == 64);   // 7 is two steps back
    CHECK(step(1) == 256);  // and forgotten
  }
  TEST_CASE("a step that is not rolled and an evaluation leave no trace; an infinity is no amax") {
    place p;
    self_comm world;
    scaling_states<fp8<>> states({.layers = 2});
    const auto inputs = states.of(1, parameter_kind::down);
    const auto remembered = [&] { return std::count_if(states.past().begin(), states.past().end(), [](float a) { return a != 0; }); };
    const auto big = with_largest(100), small = with_largest(2);
    inputs.x(p.e, big.view(), p.local);
    states.reduce(p.e, world);  // skipped: never rolled
    states.begin();
    inputs.x(p.e, small.view(), p.local);
    states.reduce(p.e, world);
    inputs.x(p.e, big.view(), p.local);  // an evaluation between the step's end and its update
    states.roll();
    CHECK(remembered() == 1);
    CHECK(inputs.x_seen.known() == 2);
    inputs.x(p.e, big.view(), p.local);  // and after it
    states.begin();
    states.reduce(p.e, world);
    states.roll();
    CHECK(inputs.x_seen.known() == 2);
    const auto infinite = with_largest(std::numeric_limits<float>::infinity());
    states.begin();
    inputs.x(p.e, infinite.view(), p.local);
    states.reduce(p.e, world);
    states.roll();
    CHECK(inputs.x_seen.known() == 2);
  }
  TEST_CASE("after a step all ranks know the largest amax of any of them, each tensor its own") {
    constexpr int ranks = 3;
    std::vector<std::vector<float>> known(ranks);
    run_ranks(ranks, [&](thread_comm& world) {
      place p;
      scaling_states<fp8<>> states({.layers = 2});
      states.begin();
      const auto mine = with_largest(float(world.rank() + 1)), wide = with_largest(float(8 - world.rank()));
      states.of(1, parameter_kind::up).x(p.e, mine.view(), p.local);
      states.of(0, parameter_kind::query).dy(p.e, wide.view(), p.local);
      if (world.rank() == 1) states.of(0, parameter_kind::query).weight(p.e, mine.view(), p.local);
      states.reduce(p.e, world);
      states.roll();
      known[std::size_t(world.rank())] = {
          states.of(1, parameter_kind::up).x_seen.known(), states.of(0, parameter_kind::query).dy_seen.known(),
          states.of(0, parameter_kind::query).weight_seen.known(), states.of(0, parameter_kind::up).x_seen.known()};
    });
    for (const auto& k : known) CHECK(k == std::vector<float>{3, 8, 2, 0});
  }
  TEST_CASE("what is held is what the inventory says, nothing without a past, and a product that is not scaled is refused by name") {
    const model_shape model{.layers = 2};
    CHECK(extent_t(scaling_states<fp8<>>(model).bytes()) == scaling_bytes<fp8<>>(model));
    CHECK(scaling_states<fp8<current_scaling>>(model).bytes() == 0);
    CHECK(scaling_states<mixed_bf16>(model).bytes() == 0);
    scaling_states<fp8<>> states(model);
    CHECK_THROWS_WITH_AS(states.of(0, parameter_kind::router), doctest::Contains("no product with 8-bit inputs by moe.router"), error);
    CHECK_THROWS_WITH_AS(states.of(2, parameter_kind::query), doctest::Contains("layer 2"), error);
  }
}
