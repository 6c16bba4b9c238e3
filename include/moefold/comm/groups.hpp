#pragma once
// The communicators of a folding: one for each set of axes over which something travels, split from the world once, eagerly and in one order.
//
//   tp, cp, pp                 inside attention, between stages          etp, ep   inside the MoE layer
//   cp x dp, tp x cp x dp      replicas of attention parameters          edp       replicas of experts
//   cp x dp x pp               replicas of a tied embedding: of the stages only the first and the last
//   tp x cp                    the ranks that share a micro-batch: balance losses, full-sequence dropping
#include <moefold/comm/communicator.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/group.hpp>

#include <array>
#include <utility>
#include <vector>

namespace moefold {

template <class Comm>
class group_set {
 public:
  static constexpr std::array<axis_set, 9> sets = {set_of<tag::tp>,          set_of<tag::cp>,          set_of<tag::pp>,
                                                   set_of<tag::tp, tag::cp>, set_of<tag::cp, tag::dp>, set_of<tag::tp, tag::cp, tag::dp>,
                                                   set_of<tag::etp>,         set_of<tag::ep>,          set_of<tag::edp>};
  static constexpr axis_set ends = set_of<tag::cp, tag::dp, tag::pp>;  // with the first and last stage only: placement_value::ends

  /// Collective over the world, whose size must be that of the folding. Keeps a reference to `world`.
  group_set(Comm& world, const folding_extents& fold) : world_(&world) {
    require<config_error>(world.size() == fold.world(), "moefold: the folding needs ", fold.world(), " ranks and the world has ",
                          world.size());
    comms_.reserve(sets.size() + 2);
    for (const axis_set named : sets) {
      const axis_set axes = mutated(mutant::swapped_axes) && named == set_of<tag::cp, tag::dp> ? set_of<tag::tp, tag::dp> : named;
      const extents& mesh = moe_axes::axes.without(set_of<tag::pp>).contains(axes) ? fold.moe : fold.attention;
      const extent_t rank = world.rank();
      comms_.push_back(
          world.split(int(group_index(mesh, axes, rank)), int(group_of(mesh, axes, rank).index_of(rank)), comm_label(named.name())));
    }
    comms_.push_back(over<tag::pp>().split(0, over<tag::pp>().rank()));
    const extent_t stages = fold.attention.of(axis_id::pp), stage = coordinate_of(fold.attention, world.rank())[axis_id::pp];
    const bool between = stage > 0 && stage < stages - 1;  // such a rank is alone
    const int groups = int(fold.world()), group = int(group_index(fold.attention, ends, world.rank()));
    comms_.push_back(world.split(between ? groups + world.rank() : group, world.rank(), comm_label(ends.name())));
  }

  Comm& world() { return *world_; }
  /// The stages once more: gradients travel on a communicator of their own, so that between two stages they do not queue with outputs.
  Comm& stages_for_gradients() { return comms_[sets.size()]; }
  /// The communicator over exactly these axes; throws if the set is not one of `sets`.
  Comm& operator[](axis_set axes) {
    for (std::size_t i = 0; i < sets.size(); ++i)
      if (sets[i] == axes) return comms_[i];
    if (axes == ends) return comms_.back();
    require(false, "moefold: no communicator is kept for ", axes.name(), "; add the set to group_set::sets");
    return comms_.front();
  }
  template <class... Tags>
  Comm& over() {
    return (*this)[set_of<Tags...>];
  }

 private:
  Comm* world_;
  std::vector<Comm> comms_;
};

}  // namespace moefold
