#include <moefold/mesh/placement.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("mesh/placement") {
  using column = placement<attention_axes, shard<tag::tp, 0>>;
  using whole = placement<attention_axes>;
  using expert = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>>;

  TEST_CASE("replicas are all axes of the mesh, pp aside, on which a parameter is not sharded") {
    static_assert(column::sharded == set_of<tag::tp> && column::replicas == set_of<tag::cp, tag::dp>);
    static_assert(whole::sharded.empty() && whole::replicas == set_of<tag::tp, tag::cp, tag::dp>);
    static_assert(expert::replicas == set_of<tag::edp>);
    static_assert(placement<moe_axes, shard<tag::ep, 0>>::replicas == set_of<tag::etp, tag::edp>);
    CHECK(value_of<column>.replicas().name() == "cp x dp");
  }
  TEST_CASE("a concrete mesh is a family with its own axes only") {
    using m = mesh<tp<2>, dp<4>, pp<2>>;
    static_assert(placement<m, shard<tag::tp, 0>>::replicas == set_of<tag::dp>);
    CHECK(value_of<placement<m, shard<tag::tp, 0>>> == value_of<column>);
    CHECK(value_of<placement<mesh<ep<4>>, shard<tag::ep, 0>>>.on == family::moe);
  }
  TEST_CASE("a placement and its value say the same, in whatever order the shards are named") {
    constexpr placement_value v = value_of<expert>;
    static_assert(v.sharded() == expert::sharded && v.replicas() == expert::replicas && v.on == family::moe);
    static_assert(v == value_of<placement<moe_axes, shard<tag::etp, 1>, shard<tag::ep, 0>>>);
    static_assert(v == placement_value{family::moe, {{axis_id::etp, 1}, {axis_id::ep, 0}}});
    CHECK(v != value_of<placement<moe_axes, shard<tag::ep, 1>, shard<tag::etp, 0>>>);
    CHECK(placement_value{} == value_of<whole>);
  }
  TEST_CASE("a rank holds its even part of a tensor") {
    constexpr folding_extents f = resolve<folding<mesh<tp<2>, cp<2>, dp<2>>, mesh<etp<2>, ep<4>>>>();
    static_assert(value_of<expert>.local({8, 144, 128}, f) == shape{2, 72, 128});
    static_assert(value_of<column>.local({192, 128}, f) == shape{96, 128});
    static_assert(value_of<whole>.local({128}, f) == shape{128});
    CHECK(&value_of<expert>.mesh_of(f) == &f.moe);
    CHECK(&value_of<whole>.mesh_of(f) == &f.attention);
  }
  TEST_CASE("a cut that does not come out even is refused: dimension, axis, numbers, way out") {
    const folding_extents f = make_folding({{axis_id::tp, 3}}, {{axis_id::edp, 3}});
    CHECK_THROWS_WITH_AS(
        value_of<column>.local({128, 64}, f),
        "moefold: dimension 0 of a parameter has 128 elements and cannot be cut into 3 equal parts along tp; choose a tp that divides 128",
        config_error);
    CHECK_THROWS_WITH_AS(value_of<expert>.local({8}, f), Contains("cuts a dimension that the tensor has"), config_error);
  }
  TEST_CASE("what the first and the last stage hold has its replicas there and on no stage between; with one stage it is like any other") {
    const folding_extents four = make_folding({{axis_id::tp, 2}, {axis_id::cp, 3}, {axis_id::pp, 4}}, {{axis_id::ep, 6}, {axis_id::pp, 4}});
    const placement_value one = value_of<column>, both = one.on_ends(4);
    CHECK(both.replicas() == set_of<tag::cp, tag::dp, tag::pp>);
    CHECK(both.replicas_in(four) == 2 * 3);
    CHECK(one.replicas_in(four) == 3);
    CHECK(both.local({8, 6}, four) == one.local({8, 6}, four));
    CHECK(one.on_ends(1) == one);
    CHECK(both != one);
    CHECK((both.cuts_as(one) && one.cuts_as(both) && !both.cuts_as(value_of<whole>)));
    CHECK(both.replicas_in({}) == 1);
  }
  TEST_CASE("run-time placements obey the rules of the types") {
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::tp, 0}}}), Contains("only on axes of its own mesh"), config_error);
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::pp, 0}}}), Contains("never on pp"), config_error);
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::ep, 0}, {axis_id::ep, 1}}}), Contains("an axis or a dimension twice"),
                         config_error);
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::ep, 0}, {axis_id::etp, 0}}}), Contains("an axis or a dimension twice"),
                         config_error);
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::ep, 4}}}), Contains("counted from 0"), config_error);
    CHECK_THROWS_WITH_AS((placement_value{family::moe, {{axis_id::ep, 0}, {axis_id::etp, 1}, {axis_id::edp, 2}}}),
                         Contains("at most 2 axes"), config_error);
    CHECK_THROWS_AS((shape{1, 2, 3, 4, 5}), config_error);
    CHECK_THROWS_AS((shape{2, -1}), config_error);
  }
}
