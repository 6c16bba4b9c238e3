#include <moefold/mesh/coordinate.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("mesh/coordinate") {
  constexpr extents e{{axis_id::tp, 2}, {axis_id::cp, 3}, {axis_id::pp, 4}};

  TEST_CASE("the first axis varies fastest") {
    static_assert(coordinate_of(e, 1)[axis_id::tp] == 1);
    static_assert(coordinate_of(e, 2)[axis_id::cp] == 1);
    constexpr coordinate c = coordinate_of(e, 23);
    static_assert(c[axis_id::tp] == 1 && c[axis_id::cp] == 2 && c[axis_id::pp] == 3 && c[axis_id::ep] == 0);
    CHECK(rank_of(e, c) == 23);
  }
  TEST_CASE("rank -> coordinate -> rank is the identity in every order of axes") {
    for (const extents& m : {e, extents{{axis_id::pp, 4}, {axis_id::tp, 2}, {axis_id::dp, 1}, {axis_id::cp, 3}}, extents{}})
      for (extent_t rank = 0; rank < m.ranks(); ++rank) {
        const coordinate c = coordinate_of(m, rank);
        CHECK(rank_of(m, c) == rank);
        for (const axis_extent& a : m.list()) CHECK(c[a.axis] == rank / m.stride(a.axis) % a.ranks);
      }
  }
  TEST_CASE("what lies outside the mesh is refused") {
    CHECK_THROWS_WITH_AS(coordinate_of(e, 24), Contains("rank 24 is outside this mesh of 24 ranks"), config_error);
    CHECK_THROWS_AS(coordinate_of(e, -1), config_error);
    coordinate c;
    c[axis_id::cp] = 3;
    CHECK_THROWS_WITH_AS(rank_of(e, c), Contains("position 3 is outside axis cp, which has 3 ranks"), config_error);
    c = {};
    c[axis_id::ep] = 1;  // the mesh does not name ep
    CHECK_THROWS_AS(rank_of(e, c), config_error);
  }
}
