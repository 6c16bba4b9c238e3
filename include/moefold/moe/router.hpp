#pragma once
// The router: scores each token against every expert, chooses k and weighs them (ops/route.hpp), counts the load, and adds the gradients of balance
// losses and z-loss to its own. Works on this rank's own tokens; its weight is replicated over tp, cp and dp.
//
//   x [n, H] -jitter-> logits [n, E] = x Wg^T in accumulate_t -> expert [n, k], weight [n, k]; load [E]; balance terms
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/deferred.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/moe/balance.hpp>
#include <moefold/ops/gemm.hpp>
#include <moefold/ops/jitter.hpp>
#include <moefold/ops/route.hpp>
#include <moefold/tensor/arena.hpp>
#include <moefold/tensor/copy.hpp>

namespace moefold {

template <class Precision>
struct router_layer {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  parameter<Precision, replicated> weight;  // [E, H]
  route_rule rule{};
  balance_losses balance{};
  double jitter = 0;
  router_state<A> state{};

  struct saved {
    view<const T> x;              // [n, H], the caller's
    routing<A> choice;            // before anything is dropped
    view<A> logits;               // [n, E]
    view<std::int64_t> load;      // [E] choices of tokens that are not padding
    view<std::int64_t> aux_load;  // [E] what the scores alone would choose, without bias and groups; else the same memory
    view<A> pull;                 // [B, E] gradient of the balance losses by aux score; empty: none
    view<double> losses;          // [5] this rank's share of T * L, without loss_weight; empty: none
    routing_context where{};
    extent_t layer = 0;
  };

  /// x [n, H] -> s.choice. Local, but for balance losses: collective over what they need (moe/balance.hpp), also with n = 0.
  template <class Exec, class Arena, class Comm>
  void forward(Exec e, view<const T> x, Arena& keep, saved& s, extent_t layer, const routing_context& where,
               const moe_groups<Comm>& groups) const {
    const extent_t n = x.extent(0), experts = weight.value.extent(0), k = rule.top_k;
    require(where.padding.empty() || extent_t(where.padding.size()) == n, "moefold: the router needs a padding flag for each of ", n,
            " tokens, or none, given ", where.padding.size());
    s.x = x;
    s.where = where;
    s.layer = layer;
    s.choice = {keep.template take<std::int32_t>(n, k), keep.template take<A>(n, k)};
    s.logits = keep.template take<A>(n, experts);
    s.load = keep.template take<std::int64_t>(experts);
    s.aux_load = corrected() ? keep.template take<std::int64_t>(experts) : s.load;
    s.pull = {};
    s.losses = {};
    scratch local(e);
    gemm_nt(e, jittered(e, x, s, local), weight.value, s.logits);

    const bool losses = where.training && balance.any();
    const extent_t batch = losses && balance.sequence > 0 ? where.place.batch : 1;
    const view<const std::uint8_t> padding(where.padding);
    route_outputs<A> out{s.choice.expert, s.choice.weight, local.template take<std::int64_t>(batch, experts + 1)};
    if (losses) out.score_sum = local.template take<double>(batch, experts), out.squares = local.template take<double>(1);
    if (where.tap) out.scores = local.template take<A>(n, experts);
    route_forward(e, rule, {s.logits, state.bias, padding, batch}, out);
    const bool forced = where.tap && where.tap->forces(where.place.step);
    if (where.tap) follow(e, *where.tap, layer, where.place, view<const A>(out.scores), s.choice.expert);
    if (forced) {
      route_weights(e, rule, s.logits, s.choice.expert, s.choice.weight);
      count_choices(e, s.choice.expert, padding, out.counts);
    }
    view<std::int64_t> seen = out.counts;  // by the losses: what was done, or else what the scores alone would do
    sum_sequences(e, out.counts, s.load);
    if (corrected()) {
      if (!forced) seen = counts_of_scores(e, s.logits, padding, batch, local);
      sum_sequences(e, seen, s.aux_load);
    }
    if (!losses) return;
    s.pull = keep.template take<A>(batch, experts);
    s.losses = keep.template take<double>(extent_t(balance_kinds));
    balance_terms<A>(e, balance, k, seen, out.score_sum, out.squares, where, state, groups, s.pull, s.losses);
  }

  /// dweight [n, k] -> dx [n, H], added to what is there; the router's gradient is accumulated. Local.
  template <class Exec>
  void backward(Exec e, view<const A> dweight, view<T> dx, const saved& s) const {
    const extent_t n = s.x.extent(0), experts = weight.value.extent(0);
    scratch local(e);
    const view<A> dlogits = local.template take<A>(n, experts);
    const bool losses = !s.pull.empty();
    route_backward(e, rule, dweight, s.logits, s.choice.expert, s.choice.weight, s.where.padding, balance.any_load() ? s.pull : view<A>{},
                   losses ? balance.z * s.where.loss_weight : 0, dlogits);
    weight_gradient(e, view<const A>(dlogits), jittered(e, s.x, s, local), weight.gradient);
    if (jitter == 0 || !s.where.training) return gemm_nn(e, view<const A>(dlogits), weight.value, dx, T(1));
    const view<A> part = local.template take<A>(s.x.shape());
    gemm_nn(e, view<const A>(dlogits), weight.value, part);
    add_jittered(e, view<const A>(part), factors(s), dx);
  }

 private:
  /// Whether bias or groups may choose otherwise than the scores alone.
  bool corrected() const { return !state.bias.empty() || rule.chosen_groups < rule.groups; }

  /// Counts [B, E + 1] of what the scores alone would choose, without bias and groups.
  template <class Exec>
  view<std::int64_t> counts_of_scores(Exec e, view<const A> logits, view<const std::uint8_t> padding, extent_t batch,
                                      scratch<Exec>& local) const {
    route_rule free = rule;
    free.groups = free.chosen_groups = 1;
    const extent_t n = logits.extent(0), experts = logits.extent(1);
    const route_outputs<A> out{local.template take<std::int32_t>(n, rule.top_k), local.template take<A>(n, rule.top_k),
                               local.template take<std::int64_t>(batch, experts + 1)};
    route_forward(e, free, {logits, {}, padding, batch}, out);
    return out.counts;
  }

  template <class Exec>
  view<const T> jittered(Exec e, view<const T> x, const saved& s, scratch<Exec>& local) const {
    if (jitter == 0 || !s.where.training) return x;
    const view<T> out = local.template take<T>(x.shape());
    jitter_rows(e, x, factors(s), out);
    return out;
  }
  /// Of (seed, step, layer, global token, element): the same in every mapping, and in backward.
  jitter_rule factors(const saved& s) const {
    const batch_place& place = s.where.place;
    return {
        random_stream(s.where.seed + std::uint64_t(place.step) * 0x9e3779b97f4a7c15u, hash_of("router.jitter") + std::uint64_t(s.layer)),
        jitter, place.first_sample, place.batch, place.part};
  }

  /// Margins, record, replay and even choices, off the fast path: on the host, which waits for the scores, and sends back what it has changed.
  template <class Exec>
  void follow(Exec e, routing_tap& tap, extent_t layer, const batch_place& place, view<const A> scores, view<std::int32_t> choice) const {
    scratch local(e);
    const view<const A> known = on_host(e, scores, local);
    view<std::int32_t> decided = choice;
    if constexpr (!std::is_same_v<typename Exec::memory, host_memory>) decided = local.template take_host<std::int32_t>(choice.shape());
    download(e, choice, decided);
    follow(tap, layer, place, known, decided);
    upload(e, decided, choice);
  }
  void follow(routing_tap& tap, extent_t layer, const batch_place& place, view<const A> scores, view<std::int32_t> expert) const {
    const extent_t experts = scores.extent(1), k = rule.top_k;
    if (tap.replay) tap.replay->require_top_k(k);
    if (tap.record) tap.record->require_top_k(k);
    for (extent_t i = 0; i < scores.extent(0); ++i) {
      const bool stored = tap.replays(place.step);
      const std::int32_t* const choice = stored ? tap.replay->at(place, layer, i) : nullptr;
      if (stored && choice[0] >= 0) {
        for (extent_t s = 0; s < k; ++s) {
          require(choice[s] >= 0 && choice[s] < experts, "moefold: the replayed trace has expert ", choice[s], " of ", experts, " at step ",
                  place.step, ", layer ", layer, "; record it with the same model, batch and steps");
          require(std::find(choice, choice + s, choice[s]) == choice + s, "moefold: the replayed trace has expert ", choice[s],
                  " twice for one token, at step ", place.step, ", layer ", layer, "; the choices of a token are distinct");
          expert(i, s) = choice[s];
        }
      } else if (tap.even) {
        for (extent_t s = 0; s < k; ++s) expert(i, s) = std::int32_t((place.number(i) * k + s) % experts);
      } else if (k < experts) {
        A next = -std::numeric_limits<A>::infinity();
        for (extent_t other = 0; other < experts; ++other)
          if (std::find(&expert(i, 0), &expert(i, 0) + k, other) == &expert(i, 0) + k) next = std::max(next, scores(i, other));
        tap.margin = std::min(tap.margin, double(scores(i, expert(i, k - 1)) - next));
      }
      if (tap.record && place.step < tap.record->steps()) std::copy_n(&expert(i, 0), k, tap.record->at(place, layer, i));
    }
  }
};

}  // namespace moefold
