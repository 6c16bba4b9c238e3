#pragma once
// Where a rank lies on a mesh, and which rank lies there. The two functions undo each other.
//
//   extents{{tp, 2}, {cp, 2}, {pp, 2}}      rank 6  <->  tp 0, cp 1, pp 1      6 = 0 + 2 * (1 + 2 * 1)
#include <moefold/mesh/extents.hpp>

namespace moefold {

/// One position per axis; 0 along axes the mesh does not name.
struct coordinate {
  std::array<extent_t, axis_count> at{};  // by axis_id

  constexpr extent_t operator[](axis_id axis) const { return at[std::size_t(axis)]; }
  constexpr extent_t& operator[](axis_id axis) { return at[std::size_t(axis)]; }
  friend constexpr bool operator==(const coordinate&, const coordinate&) = default;
};

/// Throws config_error unless 0 <= rank < mesh.ranks().
constexpr coordinate coordinate_of(const extents& mesh, extent_t rank) {
  const extent_t ranks = mesh.ranks();
  require<config_error>(rank >= 0 && rank < ranks, "moefold: rank ", rank, " is outside this mesh of ", ranks,
                        " ranks; ranks count from 0");
  coordinate c;
  for (const axis_extent& a : mesh.list()) {
    c[a.axis] = rank % a.ranks;
    rank /= a.ranks;
  }
  return c;
}

/// Throws config_error if a position lies outside its axis; an axis the mesh does not name has position 0 only.
constexpr extent_t rank_of(const extents& mesh, const coordinate& c) {
  for (int i = 0; i < axis_count; ++i) {
    const extent_t at = c[axis_id(i)], ranks = mesh.of(axis_id(i));
    require<config_error>(at >= 0 && at < ranks, "moefold: position ", at, " is outside axis ", name_of(axis_id(i)), ", which has ", ranks,
                          " ranks here; positions count from 0");
  }
  extent_t rank = 0;
  for (const axis_extent& a : mesh.list()) rank += c[a.axis] * mesh.stride(a.axis);
  return rank;
}

/// The pipeline stage of a rank; both meshes agree on it.
constexpr extent_t stage_of(const folding_extents& fold, extent_t rank) { return coordinate_of(fold.attention, rank)[axis_id::pp]; }

}  // namespace moefold
