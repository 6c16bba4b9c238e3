#pragma once
// The Mixture-of-Experts layer: router -> drop -> dispatch -> experts -> combine, over a flat bag of tokens, and beside it the shared expert while the
// tokens travel. It does not know how attention lies on the machine: that independence is parallel folding.
//
//   x [n, H] -router-> choices [n, k] -tokens-> kept -dispatch-> batch [R, H] -experts-> [R, H] -combine-> + -> y [n, H]
//                                                     meanwhile: x -> shared expert -> [n, H] -------------^
#include <moefold/inventory/legality.hpp>
#include <moefold/inventory/traffic.hpp>
#include <moefold/layers/mlp.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/moe/experts.hpp>
#include <moefold/moe/policy.hpp>
#include <moefold/moe/router.hpp>

namespace moefold {

template <class Precision>
struct moe_weights {
  parameter<Precision, replicated> router;     // [E, H]
  parameter<Precision, expert_rows> gate, up;  // [E/EP, F/ETP, H]; gelu has no gate
  parameter<Precision, expert_columns> down;   // [E/EP, H, F/ETP]
  mlp_weights<Precision> shared{};             // where the model has a shared expert
  expert_inputs<Precision> inputs{};           // what the experts' products remember (layers/scaled_product.hpp); may be left out
};

/// The layer over values: communicators and numbers instead of a mesh, so that all foldings share one instantiation.
template <class Precision, class Comm, class Policy = moe_defaults>
class moe_layer {
 public:
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  using dispatcher_type = typename Policy::template dispatcher<T, Comm>;
  using experts_type = typename Policy::template experts<Precision>;
  static_assert(moe_choices<Policy>, "moefold: a MoE policy has what moe_defaults has; derive from it");
  static_assert(dispatcher<dispatcher_type, host_exec>);
  static_assert(std::constructible_from<dispatcher_type, extent_t, extent_t, Comm&, Comm&>,
                "moefold: a dispatcher is made of (experts, top_k, ep, etp)");

  struct saved {
    typename router_layer<Precision>::saved router;
    routing<A> kept;               // the choices that were not dropped
    view<std::int64_t> dropped{};  // [1] pairs of tokens that are not padding; empty: nothing can be dropped
    typename dispatcher_type::ticket ticket;
    typename experts_type::saved experts;
    typename mlp_layer<Precision, Comm>::saved shared;
  };

  /// Local. The groups must outlive the layer, the memory behind `state` too. Throws config_error if model, weights, groups and choices do not fit.
  /// keep_activations: off, what the activation function gives is computed again in backward (core/recompute.hpp).
  moe_layer(const model_shape& model, const moe_weights<Precision>& weights, const moe_groups<Comm>& groups, router_state<A> state = {},
            const moe_facts& facts = facts_of<Policy>(), bool keep_activations = true)
      : groups_(fitting(model, weights, groups, state, facts)),
        tokens_(facts.tokens), router_{weights.router, route_rule(model), facts.balance, facts.jitter, state},
        experts_(experts_of(model, weights, keep_activations)), shared_{weights.shared, model.activation, groups.tp, keep_activations},
        has_shared_(model.shared_ffn > 0), dispatcher_(model.experts, model.top_k, *groups.ep, *groups.etp) {}
  moe_layer(const model_shape& model, const moe_weights<Precision>& weights, Comm& ep, Comm& etp)
      : moe_layer(model, weights, moe_groups<Comm>{&ep, &etp}) {}

  /// x [n, H] -> y [n, H], assigned. Collective over ep and etp, and over what shared expert, dropping and balance losses need; also with n = 0.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s, extent_t layer = 0, const routing_context& where = {}) const {
    const extent_t n = x.extent(0), hidden = router_.weight.value.extent(1), experts = router_.weight.value.extent(0);
    require_matrix("moe forward", "x", x, n, hidden);
    require_matrix("moe forward", "y", y, n, hidden);
    router_.forward(e, x, keep, s.router, layer, where, groups_);
    s.kept = keep_pairs<A>(e, tokens_, s.router.choice, experts, where.place, groups_.sequence, keep);
    s.dropped = tokens_.drops() ? keep.template take<std::int64_t>(1) : view<std::int64_t>{};
    if (tokens_.drops()) count_dropped(e, s.kept.expert, where.padding, s.dropped);
    scratch local(e);
    if (where.tap && where.tap->kept && where.place.step < where.tap->kept->steps()) {
      const view<const std::int32_t> expert = on_host(e, s.kept.expert, local);
      where.tap->kept->require_top_k(expert.extent(1));
      for (extent_t i = 0; i < n; ++i) std::copy_n(&expert(i, 0), expert.extent(1), where.tap->kept->at(where.place, layer, i));
    }
    const view<T> beside = local.template take<T>(has_shared_ ? n : 0, hidden);
    s.ticket = dispatcher_.dispatch(e, x, s.kept, keep, [&] {
      if (has_shared_) shared_.forward(e, x, beside, keep, s.shared);
    });
    const view<T> out = local.template take<T>(s.ticket.batch.extent(0), hidden);
    experts_.forward(e, view<const T>(s.ticket.batch), view<const A>(s.ticket.weight),
                     std::span<const std::int64_t>(s.ticket.offsets.span()), out, keep, s.experts);
    dispatcher_.combine(e, view<const T>(out), y, s.ticket);
    if (has_shared_) accumulate(e, view<const T>(beside), y);
  }

  /// dy [n, H] -> dx [n, H], assigned; weight gradients are accumulated, those of the balance losses included. Collective over ep and etp, and
  /// over tp with a shared expert; also with n = 0.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    const extent_t n = s.router.x.extent(0), rows = s.ticket.batch.extent(0), hidden = router_.weight.value.extent(1);
    require_matrix("moe backward", "dy", dy, n, hidden);
    require_matrix("moe backward", "dx", dx, n, hidden);
    scratch local(e);
    const view<T> dout = local.template take<T>(rows, hidden), dbatch = local.template take<T>(rows, hidden);
    const view<T> beside = local.template take<T>(has_shared_ ? n : 0, hidden);
    const view<A> dweight = local.template take<A>(rows), dchoice = local.template take<A>(n, s.router.choice.weight.extent(1));
    dispatcher_.combine_backward(e, dy, dout, s.ticket, [&] {
      if (has_shared_) shared_.backward(e, dy, beside, s.shared);
    });
    experts_.backward(e, view<const T>(dout), dbatch, dweight, s.experts);
    dispatcher_.dispatch_backward(e, view<const T>(dbatch), view<const A>(dweight), dx, dchoice, s.ticket);
    router_.backward(e, view<const A>(dchoice), dx, s.router);
    if (has_shared_) accumulate(e, view<const T>(beside), dx);
  }

  /// Adds what was counted in a micro-batch to its layer's numbers [layer_numbers::count], in memory of the exec. Local.
  template <class Exec>
  static void add_numbers(Exec e, const saved& s, const layer_numbers& numbers, view<double> to) {
    require_count("moe add_numbers", "to", to.size(), numbers.count);
    const auto part = [&](extent_t first, extent_t count) { return view<double>(to.data() + first, {count}); };
    const extent_t experts = extent_t(s.router.load.size());
    add_counts(e, s.router.load, part(0, experts));
    if (numbers.aux_load >= 0) add_counts(e, s.router.aux_load, part(numbers.aux_load, experts));
    if (numbers.dropped >= 0 && !s.dropped.empty()) add_counts(e, s.dropped, part(numbers.dropped, 1));
    if (numbers.losses >= 0 && !s.router.losses.empty())
      accumulate(e, view<const double>(s.router.losses), part(numbers.losses, extent_t(balance_kinds)));
  }
  /// What add_numbers reads moves to `keep`: out of an arena that is released before.
  template <class Exec, class Arena>
  static void keep_numbers(Exec e, Arena& keep, saved& s) {
    const auto moved = [&](auto numbers) {
      using U = typename decltype(numbers)::value_type;
      if (numbers.empty()) return numbers;
      const view<U> to = keep.template take<U>(numbers.shape());
      copy(e, view<const U>(numbers), to);
      return to;
    };
    const bool one = s.router.aux_load.data() == s.router.load.data();
    s.router.load = moved(s.router.load);
    s.router.aux_load = one ? s.router.load : moved(s.router.aux_load);
    s.router.losses = moved(s.router.losses);
    s.dropped = moved(s.dropped);
  }

 private:
  static experts_type experts_of(const model_shape& model, const moe_weights<Precision>& weights, bool keep_activations) {
    experts_type experts;
    experts.keep_act = keep_activations;
    experts.gate = weights.gate, experts.up = weights.up, experts.down = weights.down, experts.activation = model.activation;
    if constexpr (quantising_policy<Precision>) experts.inputs = weights.inputs;
    return experts;
  }

  /// The groups, once everything fits: said before the members are made.
  static const moe_groups<Comm>& fitting(const model_shape& model, const moe_weights<Precision>& weights, const moe_groups<Comm>& groups,
                                         const router_state<A>& state, const moe_facts& facts) {
    check(model);
    check(facts);
    const extent_t ep = require_group(groups.ep, "ep", "ep", "a MoE layer").size();
    const extent_t etp = require_group(groups.etp, "etp", "etp", "a MoE layer").size();
    require_experts(model.experts, ep);
    require_ffn(model.ffn, etp);
    const extent_t experts = model.experts / ep, ffn = model.ffn / etp;
    using enum parameter_kind;
    require_weight(name_of(router), weights.router, {model.experts, model.hidden});
    if (model.activation == activation_function::swiglu) require_weight(name_of(gate), weights.gate, {experts, ffn, model.hidden});
    require_weight(name_of(up), weights.up, {experts, ffn, model.hidden});
    require_weight(name_of(down), weights.down, {experts, model.hidden, ffn});
    if (model.shared_ffn > 0) {
      const extent_t tp = require_group(groups.tp, "tp", "tp", "a shared expert").size();
      require_shared_ffn(model.shared_ffn, tp);
      const extent_t width = model.shared_ffn / tp;
      if (model.activation == activation_function::swiglu)
        require_weight(name_of(shared_gate), weights.shared.gate.weight, {width, model.hidden});
      require_weight(name_of(shared_up), weights.shared.up.weight, {width, model.hidden});
      require_weight(name_of(shared_down), weights.shared.down.weight, {model.hidden, width});
      if (model.shared_gate) require_weight(name_of(shared_output_gate), weights.shared.output, {1, model.hidden});
    }
    if (facts.tokens.full_sequence) require_group(groups.sequence, "sequence", "tp x cp", "full-sequence dropping");
    if (facts.balance.counts_sets())
      require_group(groups.sequence, "sequence", "tp x cp", "a balance loss over a micro-batch or a sequence");
    if (facts.balance.global_running > 0) require_group(groups.batch, "batch", "tp x cp x dp", "the running balance loss");
    require<config_error>(state.previous.empty() || extent_t(state.previous.size()) == model.experts,
                          "moefold: router_state::previous holds a share for each of ", model.experts, " experts, or none, given ",
                          state.previous.size());
    require<config_error>(facts.balance.global_running == 0 ||
                              (state.running.rank() == 2 && state.running.extent(0) > 0 && state.running.extent(1) == model.experts),
                          "moefold: the running balance loss needs router_state::running [micro-batches of a step, ", model.experts,
                          "]; router_states (moe/balance.hpp) keeps one for every layer");
    require<config_error>(extent_t(state.bias.size()) == (model.expert_bias ? model.experts : 0), "moefold: a router ",
                          model.expert_bias ? "with an expert bias needs " : "without expert bias takes ",
                          model.expert_bias ? model.experts : 0, " numbers in router_state::bias, given ", state.bias.size());
    return groups;
  }

  moe_groups<Comm> groups_;
  token_rule tokens_;
  router_layer<Precision> router_;
  experts_type experts_;
  mlp_layer<Precision, Comm> shared_;
  bool has_shared_;
  dispatcher_type dispatcher_;
};

/// The block at the surface: carries its mesh in its type, and a wrong one does not compile. For trainers of one's own, on weights in one's own memory.
template <class Policy, class Mesh, class Comm>
class moe : check_model<Policy::model>,
            check_experts<Policy::model.experts, extent_of<Mesh, tag::ep>>,
            check_ffn<Policy::model.ffn, extent_of<Mesh, tag::etp>>,
            public moe_layer<typename Policy::precision, Comm, Policy> {
 public:
  using base = moe_layer<typename Policy::precision, Comm, Policy>;
  /// ep and etp are the communicators of this rank's groups<Mesh, tag::ep> and groups<Mesh, tag::etp>.
  moe(const moe_weights<typename Policy::precision>& weights, const moe_groups<Comm>& groups,
      router_state<typename Policy::precision::accumulate> state = {})
      : base(Policy::model, weights, sized(groups), state) {}
  moe(const moe_weights<typename Policy::precision>& weights, Comm& ep, Comm& etp) : moe(weights, moe_groups<Comm>{&ep, &etp}) {}

 private:
  /// The groups, once ep and etp have the sizes of the mesh: said before the layer below looks at the weights.
  static const moe_groups<Comm>& sized(const moe_groups<Comm>& groups) {
    constexpr extent_t ep_ranks = extent_of<Mesh, tag::ep>, etp_ranks = extent_of<Mesh, tag::etp>;
    const extent_t ep = require_group(groups.ep, "ep", "ep", "a MoE block").size(),
                   etp = require_group(groups.etp, "etp", "etp", "a MoE block").size();
    require<config_error>(ep == ep_ranks && etp == etp_ranks, "moefold: moe on a mesh with ep ", ep_ranks, " and etp ", etp_ranks,
                          " was given groups of ", ep, " and ", etp,
                          " ranks; split the world by groups<Mesh, tag::ep> and groups<Mesh, tag::etp>");
    return groups;
  }
};

}  // namespace moefold
