#pragma once
// A mesh says how a number of ranks is laid out along named axes, innermost (fastest) axis first: rank = a mixed-radix number.
// At most one extent is dyn; the world size fills it in at start-up (mesh/extents.hpp).
//
//   mesh<tp<2>, cp<2>, pp<2>>    rank = tp + 2 * (cp + 2 * pp)
//
//            tp 0  tp 1            tp 0  tp 1
//   cp 0      0     1               4     5
//   cp 1      2     3               6     7
//            (pp 0)                (pp 1)
#include <moefold/mesh/axis.hpp>

#include <array>

namespace moefold {

struct axis_extent {  // one axis of a mesh, as a value
  axis_id axis{};
  extent_t ranks = 1;  // or dyn

  friend constexpr bool operator==(const axis_extent&, const axis_extent&) = default;
};

MOEFOLD_RULE(one_dyn, dynamic_axes, most, dynamic_axes <= most,
             "moefold: a mesh has at most one dyn axis, so that the world size can fill it in; give the others a number")
MOEFOLD_RULE(distinct_axes, named_axes, distinct_axes, named_axes == distinct_axes,
             "moefold: a mesh names the same axis twice; name each axis once, with its whole extent")

template <class... Axes>
struct mesh : check_one_dyn<(extent_t{0} + ... + extent_t{Axes::extent == dyn}), 1>,
              check_distinct_axes<sizeof...(Axes), set_of<typename Axes::tag...>.count()> {
  static constexpr extent_t dynamic_axes = (extent_t{0} + ... + extent_t{Axes::extent == dyn});
  static constexpr extent_t fixed_ranks = (extent_t{1} * ... * (Axes::extent == dyn ? 1 : Axes::extent));
  static constexpr extent_t ranks = dynamic_axes ? dyn : fixed_ranks;
  static constexpr axis_set axes = set_of<typename Axes::tag...>;
  static constexpr std::array<axis_extent, sizeof...(Axes)> list{{axis_extent{Axes::tag::id, Axes::extent}...}};
};

/// The extent of an axis of a mesh: a number, dyn, or 1 if the mesh does not name the axis.
template <class Mesh, class Tag>
inline constexpr extent_t extent_of = [] {
  for (const axis_extent& a : Mesh::list)
    if (a.axis == Tag::id) return a.ranks;
  return extent_t{1};
}();

}  // namespace moefold
