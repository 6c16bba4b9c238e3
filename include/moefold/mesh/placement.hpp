#pragma once
// How a parameter lies on its mesh: on which axes it is sharded, and along which dimension of the tensor. Everything else follows
// from this type: the ranks that hold a replica (all axes of the mesh, pp aside, on which it is not sharded), hence the gradient
// sum, the owner of its optimizer state, its slice in a checkpoint and its bytes on a rank.
//
//   parameter                  tensor        placement                                                  replicas
//   attention, column-split    [out, in]     placement<attention_axes, shard<tag::tp, 0>>               cp x dp
//   norm, router               [...]         placement<attention_axes>                                  tp x cp x dp
//   experts W1, W3             [E, F, H]     placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>> edp
#include <moefold/core/mutant.hpp>
#include <moefold/core/shape.hpp>
#include <moefold/mesh/extents.hpp>

#include <bit>

namespace moefold {

MOEFOLD_RULE(placement_axes, foreign_axes, allowed, foreign_axes <= allowed,
             "moefold: a parameter is sharded only on axes of its own mesh, and never on pp, which splits layers; "
             "take tp, cp or dp for attention_axes and etp, ep or edp for moe_axes")
MOEFOLD_RULE(placement_cuts, shards, distinct, shards == distinct,
             "moefold: a placement names an axis or a dimension twice; each axis cuts one dimension, and a dimension is cut by one axis")
MOEFOLD_RULE(placement_dim, dim, dims, dim >= 0 && dim < dims, "moefold: a shard cuts a dimension that the tensor has, counted from 0")
MOEFOLD_RULE(placement_family, foreign_axes, allowed, foreign_axes <= allowed,
             "moefold: a placement lies on one mesh; its family is attention_axes, moe_axes, or a mesh of only one's axes")

enum class family : std::uint8_t { attention, moe };

struct cut {  // dimension `dim` of the tensor is split evenly along an axis
  axis_id axis{};
  int dim = 0;
  friend constexpr bool operator==(const cut&, const cut&) = default;
};

/// A placement as a value: compared, stored and asked where types do not reach.
struct placement_value {
  static constexpr int max_cuts = 2;
  family on = family::attention;
  std::array<cut, max_cuts> cuts{};  // the first `count`, by dimension
  int count = 0;
  bool ends = false;  // held by the first and the last stage, not by one stage alone: a tied embedding

  constexpr placement_value() = default;
  /// Throws config_error if an axis is foreign to the family, or an axis or dimension is named twice.
  constexpr placement_value(family f, std::initializer_list<cut> list) : on(f) {
    axis_set named;
    unsigned dims = 0;
    for (const cut& c : list) {
      require_placement_dim(c.dim, shape::max_rank);
      named = named | c.axis;
      dims |= 1u << unsigned(c.dim);
    }
    const int distinct = named.count() < std::popcount(dims) ? named.count() : std::popcount(dims);
    require_placement_cuts(extent_t(list.size()), distinct);
    require_placement_axes(named.without(axes().without(axis_id::pp)).count(), 0);
    require<config_error>(list.size() <= max_cuts, "moefold: a parameter is sharded on at most ", max_cuts, " axes, given ", list.size());
    for (int dim = 0; dim < shape::max_rank; ++dim)
      for (const cut& c : list)
        if (c.dim == dim) cuts[std::size_t(count++)] = c;
  }

  constexpr axis_set axes() const { return on == family::moe ? moe_axes::axes : attention_axes::axes; }
  constexpr axis_set sharded() const {
    axis_set set;
    for (int i = 0; i < count; ++i) set = set | cuts[std::size_t(i)].axis;
    return set;
  }
  /// Over these axes lie the ranks that hold the same slice: gradients are summed over them, the optimizer state is split over them. With pp among them
  /// only the first and the last stage count (ends).
  constexpr axis_set replicas() const {
    axis_set over = axes() - (ends ? axis_set() : axis_set(axis_id::pp)) - sharded();
    if (mutated(mutant::skipped_tp_sum)) over = over - axis_set(axis_id::tp);
    return over;
  }
  /// How many ranks that is.
  constexpr extent_t replicas_in(const folding_extents& f) const {
    const extent_t stages = mesh_of(f).of(axis_id::pp);
    return mesh_of(f).of(replicas() - axis_set(axis_id::pp)) * (ends && stages > 1 ? 2 : 1);
  }
  /// The same, held by the first and the last stage of several.
  constexpr placement_value on_ends(extent_t stages) const {
    placement_value both = *this;
    both.ends = stages > 1;
    return both;
  }
  /// Whether a layer that expects `other` finds its slice here; how many stages hold it is no concern of a layer.
  constexpr bool cuts_as(const placement_value& other) const {
    placement_value mine = *this;
    mine.ends = other.ends;
    return mine == other;
  }

  constexpr const extents& mesh_of(const folding_extents& f) const { return on == family::moe ? f.moe : f.attention; }

  /// What one rank holds of a tensor. Throws config_error, naming dimension and axis, if a cut does not come out even.
  constexpr shape local(const shape& global, const folding_extents& f) const {
    shape mine = global;
    for (int i = 0; i < count; ++i) {
      const cut& c = cuts[std::size_t(i)];
      require_placement_dim(c.dim, global.rank);
      const extent_t parts = mesh_of(f).of(c.axis), whole = global[c.dim];
      require<config_error>(whole % parts == 0, "moefold: dimension ", c.dim, " of a parameter has ", whole,
                            " elements and cannot be cut into ", parts, " equal parts along ", name_of(c.axis), "; choose a ",
                            name_of(c.axis), " that divides ", whole);
      mine[c.dim] = whole / parts;
    }
    return mine;
  }
  friend constexpr bool operator==(const placement_value&, const placement_value&) = default;
};

template <class Tag, int Dim>
struct shard : check_placement_dim<Dim, shape::max_rank> {
  using tag = Tag;
  static constexpr int dim = Dim;
};

namespace detail {

constexpr int foreign_axes(axis_set family) {  // 0 if one of the two families has them all
  return attention_axes::axes.contains(family) || moe_axes::axes.contains(family) ? 0 : family.count();
}
template <class... Shards>
constexpr int distinct_cuts() {  // axes or dimensions, whichever are fewer
  const int axes = set_of<typename Shards::tag...>.count(), dims = std::popcount((0u | ... | (1u << Shards::dim)));
  return axes < dims ? axes : dims;
}

}  // namespace detail

/// Family: attention_axes, moe_axes, or a concrete mesh<...>, which then has its own axes only.
template <class Family, class... Shards>
struct placement : check_placement_family<detail::foreign_axes(Family::axes), 0>,
                   check_placement_axes<set_of<typename Shards::tag...>.without(Family::axes.without(axis_id::pp)).count(), 0>,
                   check_placement_cuts<sizeof...(Shards), detail::distinct_cuts<Shards...>()> {
  static_assert(sizeof...(Shards) <= placement_value::max_cuts, "moefold: a parameter is sharded on at most 2 axes");

  using family = Family;
  static constexpr axis_set sharded = set_of<typename Shards::tag...>;
  static constexpr axis_set replicas = Family::axes - axis_set(axis_id::pp) - sharded;
};

namespace detail {
template <class Placement>
struct placement_to_value;
template <class Family, class... Shards>
struct placement_to_value<placement<Family, Shards...>> {
  static_assert(placement<Family, Shards...>::sharded.count() >= 0);  // instantiates it, so that its rules speak first
  static constexpr placement_value value{attention_axes::axes.contains(Family::axes) ? family::attention : family::moe,
                                         {cut{Shards::tag::id, Shards::dim}...}};
};
}  // namespace detail

/// The value of a placement type. That of a concrete mesh is that of its family: axes the mesh lacks have one rank anyway.
template <class Placement>
inline constexpr placement_value value_of = detail::placement_to_value<Placement>::value;

}  // namespace moefold
