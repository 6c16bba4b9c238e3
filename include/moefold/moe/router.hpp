#pragma once
// The router: scores each token against every expert, chooses k and weighs them (ops/route.hpp), counts the load, and adds the gradients of balance
// losses and z-loss to its own. Works on this rank's own tokens; its weight is replicated over tp, cp and dp.
//
//   x [n, H] -jitter-> logits [n, E] = x Wg^T in accumulate_t -> expert [n, k], weight [n, k]; load [E]; balance terms
#include <moefold/core/rng.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/deferred.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/moe/balance.hpp>
#include <moefold/ops/gemm.hpp>
#include <moefold/tensor/arena.hpp>

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
    balance_values losses{};      // this rank's share of T * L, without loss_weight
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
    view<A> chosen = local.template take<A>(n, k), scores = s.logits;
    gemm_nt(e, jittered(e, x, s, local), weight.value, s.logits);
    if (rule.score == score_function::sigmoid || corrected()) {
      scores = local.template take<A>(n, experts);
      choosing_scores<A>(e, rule, s.logits, state.bias.span(), scores);
    }
    top_k(e, view<const A>(scores), k, s.choice.expert, chosen);
    if (where.tap) follow(*where.tap, layer, where.place, scores, s.choice.expert, chosen);
    route_weights<A>(e, rule, s.logits, s.choice.expert, s.choice.weight);

    // Choices by sequence, and its tokens that are not padding in the last column.
    const bool losses = where.training && balance.any();
    const extent_t batch = losses && balance.sequence > 0 ? where.place.batch : 1;
    const view<std::int64_t> counts = local.template take<std::int64_t>(batch, experts + 1);
    count(s.choice.expert, where, counts);
    add_sequences(counts, s.load);
    if (corrected() && where.tap && where.tap->forces(where.place.step)) {  // the losses see what was done
      std::copy(s.load.begin(), s.load.end(), s.aux_load.begin());
    } else if (corrected()) {
      const view<std::int32_t> plain = local.template take<std::int32_t>(n, k);
      if (rule.score == score_function::sigmoid) {
        route_rule free = rule;
        free.groups = free.chosen_groups = 1;
        choosing_scores<A>(e, free, s.logits, {}, scores);
      }
      top_k(e, view<const A>(rule.score == score_function::sigmoid ? scores : s.logits), k, plain, chosen);
      count(plain, where, counts);
      add_sequences(counts, s.aux_load);
    }
    if (!losses) return;
    s.pull = keep.template take<A>(batch, experts);
    s.losses = balance_terms<A>(e, balance, rule, s.logits, where, state, groups, counts, s.pull);
  }

  /// dweight [n, k] -> dx [n, H], added to what is there; the router's gradient is accumulated. Local.
  template <class Exec>
  void backward(Exec e, view<const A> dweight, view<T> dx, const saved& s) const {
    const extent_t n = s.x.extent(0), experts = weight.value.extent(0);
    scratch local(e);
    const view<A> dlogits = local.template take<A>(n, experts);
    const bool losses = !s.pull.empty();
    route_backward<A>(e, rule, dweight, s.logits, s.choice.expert, s.choice.weight, s.where.padding,
                      balance.any_load() ? s.pull : view<A>{}, losses ? balance.z * s.where.loss_weight : 0, dlogits);
    weight_gradient(e, view<const A>(dlogits), jittered(e, s.x, s, local), weight.gradient);
    if (jitter == 0 || !s.where.training) return gemm_nn(e, view<const A>(dlogits), weight.value, dx, T(1));
    const view<A> part = local.template take<A>(s.x.shape());
    gemm_nn(e, view<const A>(dlogits), weight.value, part);
    apply_jitter(view<const A>(part), s, part);
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] = T(A(dx[i]) + part[i]);
  }

 private:
  /// Whether bias or groups may choose otherwise than the scores alone.
  bool corrected() const { return !state.bias.empty() || rule.chosen_groups < rule.groups; }

  static void count(view<const std::int32_t> expert, const routing_context& where, view<std::int64_t> counts) {
    const extent_t n = expert.extent(0), k = expert.extent(1), batch = counts.extent(0), last = counts.extent(1) - 1;
    std::fill(counts.begin(), counts.end(), 0);
    for (extent_t t = 0; t < n; ++t) {
      if (!where.padding.empty() && where.padding[std::size_t(t)]) continue;
      for (extent_t j = 0; j < k; ++j) ++counts(t % batch, expert(t, j));
      ++counts(t % batch, last);
    }
  }
  static void add_sequences(view<const std::int64_t> counts, view<std::int64_t> load) {
    for (extent_t x = 0; x < load.extent(0); ++x) {
      load(x) = 0;
      for (extent_t b = 0; b < counts.extent(0); ++b) load(x) += counts(b, x);
    }
  }

  template <class Exec>
  view<const T> jittered(Exec, view<const T> x, const saved& s, scratch<Exec>& local) const {
    if (jitter == 0 || !s.where.training) return x;
    const view<T> out = local.template take<T>(x.shape());
    apply_jitter(x, s, out);
    return out;
  }
  /// out = in times the factor of (seed, step, layer, global token, element): the same in every mapping, and in backward.
  template <class U>
  void apply_jitter(view<const U> in, const saved& s, view<U> out) const {
    const batch_place& place = s.where.place;
    const random_stream draw(s.where.seed + std::uint64_t(place.step) * 0x9e3779b97f4a7c15u,
                             hash_of("router.jitter") + std::uint64_t(s.layer));
    const extent_t hidden = in.extent(1), sequence = std::max<extent_t>(1, place.part.sequence);
    for (extent_t t = 0; t < in.extent(0); ++t) {
      const extent_t token = place.sample(t) * sequence + place.position(t);
      for (extent_t h = 0; h < hidden; ++h)
        out(t, h) = U(A(in(t, h)) * A(1 + jitter * (2 * draw.uniform(std::uint64_t(token * hidden + h)) - 1)));
    }
  }

  /// Margins, record, replay and even choices: host only, off the fast path.
  void follow(routing_tap& tap, extent_t layer, const batch_place& place, view<const A> scores, view<std::int32_t> expert,
              view<const A> chosen) const {
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
        tap.margin = std::min(tap.margin, double(chosen(i, k - 1) - next));
      }
      if (tap.record && place.step < tap.record->steps()) std::copy_n(&expert(i, 0), k, tap.record->at(place, layer, i));
    }
  }
};

}  // namespace moefold
