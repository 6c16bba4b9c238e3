#include <moefold/layers/parameter.hpp>

#include <doctest/doctest.h>
#include "../support/own_memory.hpp"

using namespace moefold;

namespace {

using column = placement<attention_axes, shard<tag::tp, 0>>;
using row = placement<attention_axes, shard<tag::tp, 1>>;
using whole = placement<attention_axes>;

}  // namespace

TEST_SUITE("layers/parameter") {
  TEST_CASE("a parameter shows weights that nobody writes and a gradient that backward adds to, each in its precision's type") {
    using p = parameter<fp32, column>;
    static_assert(std::is_same_v<decltype(p::value), view<const float>> && std::is_same_v<decltype(p::gradient), view<float>>);
    static_assert(std::is_same_v<decltype(parameter<fp64, whole>::gradient), view<double>>);
    static_assert(std::is_same_v<p::placement_type, column> && p::placement_type::replicas == set_of<tag::cp, tag::dp>);
    std::vector<float> weights = {1, 2, 3, 4}, gradient(4);
    const p mine{{weights.data(), {2, 2}}, {gradient.data(), {2, 2}}};
    mine.gradient(1, 0) += mine.value(1, 1);
    CHECK(gradient[2] == 4);
    CHECK(p{}.value.empty());
  }
  TEST_CASE("a weight of another shape is refused with its name and both shapes, and so is a gradient unlike its value") {
    std::vector<double> room(12);
    const view<double> fits(room.data(), {4, 3}), turned(room.data(), {3, 4}), flat(room.data(), {12});
    using p = parameter<fp64, column>;
    CHECK_NOTHROW(require_weight("head", p{fits, fits}, {4, 3}));
    CHECK_NOTHROW(require_weight("head", p{fits, {}}, {4, 3}));
    CHECK_THROWS_WITH_AS(require_weight("head", p{turned, fits}, {4, 3}),
                         "moefold: the value of head needs shape [4, 3] on this rank, given [3, 4]; pass this rank's slice of the whole "
                         "tensor, with every extent of its own",
                         config_error);
    CHECK_THROWS_WITH_AS(require_weight("head", p{flat, {}}, {4, 3}), doctest::Contains("given [12]"), config_error);
    CHECK_THROWS_WITH_AS(require_weight("head", p{fits, turned}, {4, 3}),
                         doctest::Contains("the gradient of head needs shape [4, 3] on this rank, given [3, 4]"), config_error);
    CHECK_THROWS_AS(require_weight("head", p{}, {4, 3}), config_error);
  }
  TEST_CASE("slices cut by hand lie where the placement says, and come back to their place") {
    tensor<double> w({4, 6}), sum({4, 6}, 0.0);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = double(i);
    test::own_parameter<fp64, column> third(w, 2, 4);
    CHECK((third.get().value.shape() == shape{1, 6} && third.value[0] == 12));
    test::own_parameter<fp64, row> last(w, 1, 2);
    CHECK((last.get().value.shape() == shape{4, 3} && last.value[3] == 9));
    test::own_parameter<fp64, whole> all(w, 1, 2);
    CHECK((all.get().value.shape() == shape{4, 6} && all.value[23] == 23));
    for (extent_t part = 0; part < 2; ++part) {
      test::own_parameter<fp64, row> slice(w, part, 2);
      slice.gradient = slice.value;
      slice.add_gradient_to(sum);
    }
    CHECK(std::equal(sum.begin(), sum.end(), w.begin()));
  }
}
