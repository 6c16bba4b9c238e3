#include <moefold/mesh/extents.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("mesh/extents") {
  using dynamic = mesh<tp<2>, cp<2>, dp<dyn>, pp<2>>;

  TEST_CASE("a mesh and its value form say the same") {
    constexpr extents e = extents_of<mesh<tp<2>, cp<3>, dp<1>, pp<4>>>();
    static_assert(e == extents{{axis_id::tp, 2}, {axis_id::cp, 3}, {axis_id::dp, 1}, {axis_id::pp, 4}});
    static_assert(e.ranks() == 24 && e.of(axis_id::cp) == 3 && e.of(axis_id::ep) == 1);
    static_assert(e.stride(axis_id::tp) == 1 && e.stride(axis_id::cp) == 2 && e.stride(axis_id::dp) == 6 && e.stride(axis_id::pp) == 6);
    static_assert(e.of(axis_set{axis_id::tp, axis_id::pp, axis_id::ep}) == 8);
    static_assert(e.axes() == attention_axes::axes);
    CHECK(e.text() == "tp 2, cp 3, dp 1, pp 4");
  }
  TEST_CASE("a world without axes has one rank") {
    static_assert(extents{}.ranks() == 1 && extents_of<mesh<>>() == extents{} && extents_of<mesh<>>(1) == extents{});
    CHECK_THROWS_WITH_AS(extents_of<mesh<>>(2), Contains("the mesh has 1 ranks and the world 2"), config_error);
  }
  TEST_CASE("the world size fills in the dyn extent") {
    static_assert(extents_of<dynamic>(8).of(axis_id::dp) == 1);
    static_assert(extents_of<dynamic>(1 << 20).of(axis_id::dp) == 131072);
    CHECK(extents_of<dynamic>(24).ranks() == 24);
  }
  TEST_CASE("a world that the dyn extent cannot fill is refused with the numbers and the way out") {
    CHECK_THROWS_WITH_AS(extents_of<dynamic>(12), Contains("start a multiple of that product"), config_error);
    CHECK_THROWS_WITH_AS(extents_of<dynamic>(12), Contains("world = 12, fixed_ranks = 8"), config_error);
    CHECK_THROWS_WITH_AS(extents_of<dynamic>(4), Contains("world = 4, fixed_ranks = 8"), config_error);
    CHECK_THROWS_WITH_AS(extents_of<dynamic>(0), Contains("a world has 1 to"), config_error);
    CHECK_THROWS_WITH_AS(extents_of<dynamic>(-8), Contains("given -8"), config_error);
  }
  TEST_CASE("a fixed mesh refuses another world size") {
    CHECK(extents_of<mesh<tp<2>, dp<4>>>(8) == extents_of<mesh<tp<2>, dp<4>>>());
    CHECK_THROWS_WITH_AS(extents_of<mesh<tp<2>>>(4), Contains("the mesh has 2 ranks and the world 4; start 2 ranks, or make"),
                         config_error);
  }
  TEST_CASE("extents from numbers obey the rules of the types") {
    CHECK_THROWS_WITH_AS((extents{{axis_id::tp, 2}, {axis_id::tp, 2}}), Contains("names the same axis twice"), config_error);
    CHECK_THROWS_WITH_AS((extents{{axis_id::tp, 0}}), Contains("an axis has at least 1 rank"), config_error);
    CHECK_THROWS_WITH_AS((extents{{axis_id::tp, dyn}}), Contains("an axis has at least 1 rank"), config_error);
    const extent_t big = extent_t{1} << 40;
    CHECK_THROWS_WITH_AS((extents{{axis_id::tp, big}, {axis_id::cp, big}}), Contains("at most"), config_error);
    const axis_extent two_dyn[] = {{axis_id::tp, dyn}, {axis_id::dp, dyn}};
    CHECK_THROWS_WITH_AS(fill_in(two_dyn, 8), Contains("at most one dyn axis"), config_error);
    const std::array<axis_extent, 9> too_long{};
    CHECK_THROWS_WITH_AS(fill_in(too_long, 8), Contains("names the same axis twice"), config_error);
  }

  TEST_CASE("a folding resolves to two meshes over one world") {
    using fold = folding<dynamic, mesh<etp<1>, ep<4>, edp<dyn>, pp<2>>>;
    constexpr folding_extents f = resolve<fold>(16);
    static_assert(f.world() == 16 && f.attention.of(axis_id::dp) == 2 && f.moe.of(axis_id::edp) == 2);
    static_assert(resolve<folding<mesh<tp<2>>, mesh<ep<2>>>>() == make_folding({{axis_id::tp, 2}}, {{axis_id::ep, 2}}));
    static_assert(folding_extents{}.world() == 1);
    CHECK_THROWS_AS(resolve<fold>(20), config_error);
  }
  TEST_CASE("make_folding refuses what the types refuse, in the same sentences") {
    const extents attention{{axis_id::tp, 2}, {axis_id::dp, 4}, {axis_id::pp, 2}};
    CHECK_THROWS_WITH_AS(make_folding(attention, {{axis_id::ep, 4}, {axis_id::pp, 2}}), Contains("TP*CP*DP*PP must equal ETP*EP*EDP*PP"),
                         config_error);
    CHECK_THROWS_WITH_AS(make_folding(attention, {{axis_id::ep, 4}, {axis_id::pp, 4}}), Contains("give both the same pp"), config_error);
    CHECK_THROWS_WITH_AS(make_folding(attention, {{axis_id::ep, 8}, {axis_id::cp, 2}}),
                         Contains("name tp, cp and dp in the attention mesh"), config_error);
    CHECK_THROWS_WITH_AS(make_folding({{axis_id::ep, 8}}, {{axis_id::ep, 8}}), Contains("name etp, ep and edp in the MoE mesh"),
                         config_error);
    CHECK_THROWS_WITH_AS(make_folding(attention, {{axis_id::ep, 4}, {axis_id::pp, 2}, {axis_id::edp, 2}}),
                         Contains("must have the same pipeline groups, member for member"), config_error);
    CHECK_NOTHROW(make_folding(attention, {{axis_id::ep, 8}, {axis_id::pp, 2}}));
  }
  TEST_CASE("pipeline groups that only the world size decides are compared at start-up") {
    using fold = folding<mesh<tp<2>, dp<dyn>, pp<2>>, mesh<ep<4>, pp<2>, edp<dyn>>>;
    CHECK_NOTHROW(resolve<fold>(8));  // 4 ranks lie inside pp in both
    CHECK_THROWS_WITH_AS(resolve<fold>(16), Contains("the same pipeline groups"), config_error);
  }
  TEST_CASE("a dyn number of stages is compared at start-up") {
    using fold = folding<mesh<tp<2>, pp<dyn>>, mesh<ep<2>, pp<dyn>>>;
    CHECK(resolve<fold>(8).attention.of(axis_id::pp) == 4);
    using uneven = folding<mesh<tp<2>, pp<dyn>>, mesh<ep<4>, pp<dyn>>>;
    CHECK_THROWS_WITH_AS(resolve<uneven>(8), Contains("give both the same pp"), config_error);
  }
}
