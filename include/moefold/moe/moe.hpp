#pragma once
// The Mixture-of-Experts layer: router -> dispatch -> experts -> combine, over a flat bag of tokens. It does not know how attention lies on the
// machine: that independence is parallel folding.
//
//   x [n, H] -router-> choices [n, k] -dispatch-> batch [R, H] -experts-> [R, H] -combine-> y [n, H]
#include <moefold/inventory/legality.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/moe/experts.hpp>
#include <moefold/moe/policy.hpp>
#include <moefold/moe/router.hpp>

namespace moefold {

template <class Precision>
struct moe_weights {
  parameter<Precision, replicated> router;     // [E, H]
  parameter<Precision, expert_rows> gate, up;  // [E/EP, F/ETP, H]
  parameter<Precision, expert_columns> down;   // [E/EP, H, F/ETP]
};

/// The layer over values: communicators and numbers instead of a mesh, so that all foldings share one instantiation.
template <class Precision, class Comm, class Policy = moe_defaults>
class moe_layer {
 public:
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  using dispatcher_type = typename Policy::template dispatcher<T, Comm, typename Policy::tokens>;
  static_assert(dispatcher<dispatcher_type, host_exec>);
  static_assert(std::constructible_from<dispatcher_type, extent_t, extent_t, Comm&, Comm&>,
                "moefold: a dispatcher is made of (experts, top_k, ep, etp)");

  struct saved {
    typename router_layer<Precision>::saved router;
    typename dispatcher_type::ticket ticket;
    typename experts_layer<Precision>::saved experts;
  };

  /// Local. ep and etp must outlive the layer. Throws config_error if model or weights do not fit the groups.
  moe_layer(const model_shape& model, moe_weights<Precision> weights, Comm& ep, Comm& etp)
      : router_{fitting(model, weights, ep, etp).router, model.top_k}, experts_{weights.gate, weights.up, weights.down},
        dispatcher_(model.experts, model.top_k, ep, etp) {}

  /// x [n, H] -> y [n, H], assigned. Collective over ep and etp, also with n = 0.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s, extent_t layer = 0, const batch_place& place = {},
               routing_tap* tap = nullptr) const {
    router_.forward(e, x, keep, s.router, layer, place, tap);
    s.ticket = dispatcher_.dispatch(e, x, s.router.choice, keep);
    scratch local(e);
    view<T> out = local.template take<T>(s.ticket.batch.extent(0), x.extent(1));
    experts_.forward(e, view<const T>(s.ticket.batch), view<const A>(s.ticket.weight),
                     std::span<const std::int64_t>(s.ticket.offsets.span()), out, keep, s.experts);
    dispatcher_.combine(e, view<const T>(out), y, s.ticket);
  }

  /// dy [n, H] -> dx [n, H], assigned; weight gradients are accumulated. Collective over ep and etp, also with n = 0.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    const extent_t rows = s.ticket.batch.extent(0), hidden = dy.extent(1);
    scratch local(e);
    view<T> dout = local.template take<T>(rows, hidden), dbatch = local.template take<T>(rows, hidden);
    view<A> dweight = local.template take<A>(rows), dchoice = local.template take<A>(dy.extent(0), s.router.choice.weight.extent(1));
    dispatcher_.combine_backward(e, dy, dout, s.ticket);
    experts_.backward(e, view<const T>(dout), dbatch, dweight, s.experts);
    dispatcher_.dispatch_backward(e, view<const T>(dbatch), view<const A>(dweight), dx, dchoice, s.ticket);
    router_.backward(e, view<const A>(dchoice), dx, s.router);
  }

 private:
  /// The weights, once they have this rank's shapes: said before the members below are made of them.
  static const moe_weights<Precision>& fitting(const model_shape& model, const moe_weights<Precision>& weights, const Comm& ep,
                                               const Comm& etp) {
    check(model);
    require_experts(model.experts, ep.size());
    require_ffn(model.ffn, etp.size());
    const extent_t experts = model.experts / ep.size(), ffn = model.ffn / etp.size();
    require_weight(name_of(parameter_kind::router), weights.router, {model.experts, model.hidden});
    require_weight(name_of(parameter_kind::gate), weights.gate, {experts, ffn, model.hidden});
    require_weight(name_of(parameter_kind::up), weights.up, {experts, ffn, model.hidden});
    require_weight(name_of(parameter_kind::down), weights.down, {experts, model.hidden, ffn});
    return weights;
  }

  router_layer<Precision> router_;
  experts_layer<Precision> experts_;
  dispatcher_type dispatcher_;
};

/// The block at the surface: carries its mesh in its type, and a wrong one does not compile. For trainers of one's own, on weights in one's own memory.
template <class Policy, class Mesh, class Comm>
class moe : check_experts<Policy::model.experts, extent_of<Mesh, tag::ep>>,
            check_ffn<Policy::model.ffn, extent_of<Mesh, tag::etp>>,
            public moe_layer<typename Policy::precision, Comm, Policy> {
 public:
  using base = moe_layer<typename Policy::precision, Comm, Policy>;
  /// ep and etp are the communicators of this rank's groups<Mesh, tag::ep> and groups<Mesh, tag::etp>.
  moe(moe_weights<typename Policy::precision> weights, Comm& ep, Comm& etp) : base(Policy::model, weights, sized(ep, etp), etp) {}

 private:
  /// ep, once both groups have the sizes of the mesh: said before the layer below looks at the weights.
  static Comm& sized(Comm& ep, const Comm& etp) {
    constexpr extent_t ep_ranks = extent_of<Mesh, tag::ep>, etp_ranks = extent_of<Mesh, tag::etp>;
    require<config_error>(ep.size() == ep_ranks && etp.size() == etp_ranks, "moefold: moe on a mesh with ep ", ep_ranks, " and etp ",
                          etp_ranks, " was given groups of ", ep.size(), " and ", etp.size(),
                          " ranks; split the world by groups<Mesh, tag::ep> and groups<Mesh, tag::etp>");
    return ep;
  }
};

}  // namespace moefold
