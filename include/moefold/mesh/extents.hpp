#pragma once
// The value form of meshes and foldings: every extent is a number, the dyn one filled in from the world size.
// What lies below the surface takes these; they obey the same rules as the types, in the same sentences.
//
//   extents_of<mesh<tp<2>, dp<dyn>>>(8)              tp 2, dp 4
//   extents{{axis_id::tp, 2}, {axis_id::dp, 4}}      the same, from numbers
//   resolve<Fold>(8), make_folding(attention, moe)   two of them over one world
#include <moefold/core/layer_split.hpp>
#include <moefold/mesh/folding.hpp>

#include <initializer_list>
#include <span>
#include <string>

namespace moefold {

constexpr axis_set axes_in(std::span<const axis_extent> list) {
  axis_set set;
  for (const axis_extent& a : list) set = set | a.axis;
  return set;
}

/// A mesh as a value, innermost axis first. Without axes it is a world of one rank.
struct extents {
  std::array<axis_extent, axis_count> axis{};  // the first `count` are used; public so that the type is structural
  int count = 0;

  constexpr extents() = default;
  constexpr extents(std::initializer_list<axis_extent> list) : extents(std::span<const axis_extent>(list.begin(), list.size())) {}
  /// Throws config_error if an axis is named twice or an extent is less than 1.
  constexpr explicit extents(std::span<const axis_extent> list) {
    require_distinct_axes(extent_t(list.size()), axes_in(list).count());
    extent_t product = 1;
    for (const axis_extent& a : list) {
      require_axis_ranks(a.ranks, 1);
      require<config_error>(a.ranks <= max_ranks / product, "moefold: a mesh has at most ", max_ranks, " ranks; ", name_of(a.axis), " = ",
                            a.ranks, " times ", product, " is more");
      product *= a.ranks;
      axis[std::size_t(count++)] = a;
    }
  }

  static constexpr extent_t max_ranks = extent_t{1} << 40;  // so that no product overflows

  constexpr std::span<const axis_extent> list() const { return {axis.data(), std::size_t(count)}; }
  constexpr axis_set axes() const { return axes_in(list()); }
  constexpr extent_t ranks() const {
    extent_t product = 1;
    for (const axis_extent& a : list()) product *= a.ranks;
    return product;
  }
  /// The number of ranks along an axis; 1 if the mesh does not name it.
  constexpr extent_t of(axis_id id) const {
    for (const axis_extent& a : list())
      if (a.axis == id) return a.ranks;
    return 1;
  }
  /// The product of the extents along several axes.
  constexpr extent_t of(axis_set set) const {
    extent_t product = 1;
    for (const axis_extent& a : list()) product *= set.contains(a.axis) ? a.ranks : 1;
    return product;
  }
  /// The distance in ranks between neighbours along an axis; for an axis the mesh does not name, the number of ranks.
  constexpr extent_t stride(axis_id id) const {
    extent_t product = 1;
    for (const axis_extent& a : list()) {
      if (a.axis == id) break;
      product *= a.ranks;
    }
    return product;
  }
  friend constexpr bool operator==(const extents&, const extents&) = default;

  std::string text() const {  // "tp 2, cp 2, dp 1, pp 2"
    std::string out;
    for (const axis_extent& a : list()) out += sentence(out.empty() ? "" : ", ", name_of(a.axis), " ", a.ranks);
    return out.empty() ? "one rank" : out;
  }
};

/// A list of axes with its dyn extent, if there is one, filled in so that the mesh has `world` ranks.
/// Throws config_error if it cannot: the list is fixed to another number, or the world is not a multiple of the fixed extents.
constexpr extents fill_in(std::span<const axis_extent> list, extent_t world) {
  require<config_error>(world >= 1 && world <= extents::max_ranks, "moefold: a world has 1 to ", extents::max_ranks, " ranks, given ",
                        world);
  require_distinct_axes(extent_t(list.size()), axes_in(list).count());
  std::array<axis_extent, axis_count> known{};  // dyn counts as 1 until the rest is checked
  extent_t dynamic = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    known[i] = {list[i].axis, list[i].ranks == dyn ? 1 : list[i].ranks};
    dynamic += list[i].ranks == dyn;
  }
  require_one_dyn(dynamic, 1);
  extents filled(std::span<const axis_extent>(known.data(), list.size()));
  const extent_t fixed = filled.ranks();
  if (dynamic == 0) {
    require<config_error>(fixed == world, "moefold: the mesh has ", fixed, " ranks and the world ", world, "; start ", fixed,
                          " ranks, or make the mesh's dp or edp dyn");
    return filled;
  }
  require_world(world, fixed);
  for (std::size_t i = 0; i < list.size(); ++i)
    if (list[i].ranks == dyn) filled.axis[i].ranks = world / fixed;
  return filled;
}

template <class Mesh>
constexpr extents extents_of() {
  static_assert(Mesh::ranks != dyn, "moefold: this mesh has a dyn extent; give the world size: extents_of<Mesh>(world)");
  return extents(std::span<const axis_extent>(Mesh::list));
}
template <class Mesh>
constexpr extents extents_of(extent_t world) {
  return fill_in(Mesh::list, world);
}

struct folding_extents {
  extents attention, moe;
  layer_split layers{};  // over the pipeline stages

  constexpr extent_t world() const { return attention.ranks(); }
  friend constexpr bool operator==(const folding_extents&, const folding_extents&) = default;
};

/// Two meshes over one world. Throws config_error, in the sentences of `folding`, if they do not fold.
constexpr folding_extents make_folding(const extents& attention, const extents& moe) {
  require_attention_mesh(attention.axes().without(attention_axes::axes).count(), 0);
  require_moe_mesh(moe.axes().without(moe_axes::axes).count(), 0);
  require_stages(attention.of(axis_id::pp), moe.of(axis_id::pp));
  require_ranks(attention.ranks(), moe.ranks());
  if (attention.of(axis_id::pp) > 1) require_pipeline(attention.stride(axis_id::pp), moe.stride(axis_id::pp));
  return {attention, moe, {}};
}

/// The folding of a run in a world of that many ranks.
template <class Fold>
constexpr folding_extents resolve(extent_t world) {
  return make_folding(extents_of<typename Fold::attention>(world), extents_of<typename Fold::moe>(world));
}
template <class Fold>
constexpr folding_extents resolve() {
  static_assert(Fold::ranks != dyn, "moefold: both meshes of this folding have a dyn extent; give the world size: resolve<Fold>(world)");
  return resolve<Fold>(Fold::ranks);
}

}  // namespace moefold
