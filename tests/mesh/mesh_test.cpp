#include <moefold/mesh/mesh.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("mesh/mesh") {
  TEST_CASE("the ranks of a mesh are the product of its extents") {
    using m = mesh<tp<2>, cp<3>, pp<4>>;
    static_assert(m::ranks == 24 && m::fixed_ranks == 24 && m::dynamic_axes == 0);
    static_assert(m::axes == set_of<tag::tp, tag::cp, tag::pp>);
    CHECK(mesh<>::ranks == 1);
  }
  TEST_CASE("a dyn extent makes the number of ranks dyn and leaves the fixed part") {
    using m = mesh<tp<2>, dp<dyn>, pp<4>>;
    static_assert(m::ranks == dyn && m::fixed_ranks == 8 && m::dynamic_axes == 1);
    CHECK(extent_of<m, tag::dp> == dyn);
  }
  TEST_CASE_TEMPLATE("an absent axis counts as one rank", Tag, tag::tp, tag::cp, tag::etp) { CHECK(extent_of<mesh<ep<8>>, Tag> == 1); }
  TEST_CASE("the list of a mesh keeps the order in which its axes were named") {
    using m = mesh<cp<3>, tp<2>>;
    CHECK(m::list[0] == axis_extent{axis_id::cp, 3});
    CHECK(m::list[1] == axis_extent{axis_id::tp, 2});
  }
  TEST_CASE("one rule serves types and values") {
    static_assert(one_dyn_holds(1, 1) && !one_dyn_holds(2, 1));
    CHECK_THROWS_WITH_AS(require_one_dyn(2, 1), doctest::Contains("a mesh has at most one dyn axis"), config_error);
    CHECK_THROWS_WITH_AS(require_distinct_axes(3, 2), doctest::Contains("a mesh names the same axis twice"), config_error);
  }
}
