#pragma once
// A folding is two meshes over one world: where attention lies and where MoE lies. Only the pipeline groups tie them together.
// The rules of that tie live here, once: as compile errors for types, as config_error for run-time extents (mesh/extents.hpp).
//
//   folding<mesh<tp<2>, cp<2>, dp<1>, pp<2>>, mesh<etp<1>, ep<4>, edp<1>, pp<2>>>    8 ranks
//
//   attention   tp {0 1}{2 3}{4 5}{6 7}   cp {0 2}{1 3}{4 6}{5 7}   pp {0 4}{1 5}{2 6}{3 7}
//   MoE         ep {0 1 2 3}{4 5 6 7}                               pp {0 4}{1 5}{2 6}{3 7}    ep is folded over tp x cp
#include <moefold/mesh/mesh.hpp>

namespace moefold {

MOEFOLD_RULE(attention_mesh, foreign_axes, allowed, foreign_axes <= allowed,
             "moefold: the attention mesh has only the axes tp, cp, dp and pp; name etp, ep and edp in the MoE mesh")
MOEFOLD_RULE(moe_mesh, foreign_axes, allowed, foreign_axes <= allowed,
             "moefold: the MoE mesh has only the axes etp, ep, edp and pp; name tp, cp and dp in the attention mesh")
MOEFOLD_RULE(stages, attention_pp, moe_pp, attention_pp == moe_pp || attention_pp == dyn || moe_pp == dyn,
             "moefold: both meshes are cut into the same pipeline stages; give both the same pp")
MOEFOLD_RULE(ranks, attention_ranks, moe_ranks, attention_ranks == moe_ranks || attention_ranks == dyn || moe_ranks == dyn,
             "moefold: TP*CP*DP*PP must equal ETP*EP*EDP*PP; change edp, or write edp<dyn>")
MOEFOLD_RULE(world, world, fixed_ranks, fixed_ranks > 0 && world % fixed_ranks == 0,
             "moefold: the dyn extent of a mesh is the world size over the product of the other extents, a whole number; "
             "start a multiple of that product, or change the extents")
MOEFOLD_RULE(pipeline, in_attention, in_moe, in_attention == in_moe,
             "moefold: both meshes must have the same pipeline groups, member for member; name the axes in an order in which "
             "as many ranks lie inside pp (and outside it) in the attention mesh as in the MoE mesh")

namespace detail {

/// How many ranks lie inside an axis of a mesh (the product of the extents named before it) and outside it (after it); or dyn.
struct enclosure {
  extent_t inside = 1, outside = 1;
};

template <class Mesh, class Tag>
inline constexpr enclosure enclosure_of = [] {
  enclosure e;
  bool before = true;
  for (const axis_extent& a : Mesh::list) {
    extent_t& product = before ? e.inside : e.outside;
    if (a.axis == Tag::id)
      before = false;
    else
      product = product == dyn || a.ranks == dyn ? dyn : product * a.ranks;
  }
  return e;
}();

/// The two numbers that must agree for equal pipeline groups; 1 and 1 where only the world size decides or another rule has failed.
/// With equal worlds and stages, equal ranks inside pp and equal ranks outside it say the same: whichever both types know is compared.
template <class Attention, class Moe>
inline constexpr enclosure pipeline_numbers = [] {
  constexpr extent_t stages = extent_of<Attention, tag::pp>;
  constexpr enclosure a = enclosure_of<Attention, tag::pp>, m = enclosure_of<Moe, tag::pp>;
  if (stages == 1 || stages == dyn || stages != extent_of<Moe, tag::pp>) return enclosure{1, 1};
  if (!ranks_holds(Attention::ranks, Moe::ranks)) return enclosure{1, 1};
  if (a.inside != dyn && m.inside != dyn) return enclosure{a.inside, m.inside};
  if (a.outside != dyn && m.outside != dyn) return enclosure{a.outside, m.outside};
  return enclosure{1, 1};
}();

template <class Mesh, class Other>  // a dyn extent that the other, fixed mesh already decides
using check_filled = check_world<Mesh::ranks == dyn && Other::ranks != dyn ? Other::ranks : Mesh::fixed_ranks, Mesh::fixed_ranks>;

}  // namespace detail

/// The two meshes of a run. Instantiating it checks everything the types know; `resolve` (mesh/extents.hpp) checks the rest.
template <class Attention, class Moe>
struct folding : check_attention_mesh<Attention::axes.without(attention_axes::axes).count(), 0>,
                 check_moe_mesh<Moe::axes.without(moe_axes::axes).count(), 0>,
                 check_stages<extent_of<Attention, tag::pp>, extent_of<Moe, tag::pp>>,
                 check_ranks<Attention::ranks, Moe::ranks>,
                 check_pipeline<detail::pipeline_numbers<Attention, Moe>.inside, detail::pipeline_numbers<Attention, Moe>.outside> {
  using attention = Attention;
  using moe = Moe;
  // dyn if the world decides
  static constexpr extent_t ranks = Attention::ranks != dyn ? Attention::ranks : Moe::ranks;
  // the class says its sentence itself
  static_assert(detail::check_filled<Attention, Moe>::ok && detail::check_filled<Moe, Attention>::ok);
};

}  // namespace moefold
