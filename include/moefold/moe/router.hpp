#pragma once
// The router: scores each token against every expert, chooses the best k, and weighs them by softmax over the chosen. With k = 1 that would be
// 1 whatever the scores are, so the weight is then the chosen expert's share of the softmax over all experts.
// Works on this rank's own tokens; its weight is replicated over tp, cp and dp.
//
//   logits [n, E] = x Wg^T in accumulate_t    expert [n, k] = top-k, ties to the lowest id    weight [n, k] = softmax(logits[top-k])
//                                                                                             k = 1: softmax(logits)[top-1]
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/ops/gemm.hpp>
#include <moefold/ops/softmax.hpp>
#include <moefold/ops/top_k.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

template <class Precision>
struct router_layer {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  static_assert(std::is_same_v<T, A>, "moefold: the router needs storage in its accumulate type; use fp32 or fp64");
  parameter<Precision, replicated> weight;  // [E, H]
  extent_t k = 2;                           // experts of a token

  struct saved {
    view<const T> x;  // [n, H], the caller's
    routing<A> choice;
  };

  /// x [n, H] -> s.choice. Local. `layer` and `place` only matter to the tap.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, Arena& keep, saved& s, extent_t layer, const batch_place& place, routing_tap* tap) const {
    const extent_t n = x.extent(0), experts = weight.value.extent(0);
    s = {x, {keep.template take<std::int32_t>(n, k), keep.template take<A>(n, k)}};
    scratch local(e);
    view<A> logits = local.template take<A>(n, experts), chosen = local.template take<A>(n, k);
    gemm_nt(e, x, weight.value, logits);
    top_k(e, view<const A>(logits), k, s.choice.expert, chosen);
    if (tap) follow(*tap, layer, place, logits, s.choice.expert, chosen);
    if (k > 1) return softmax_forward(e, view<const A>(chosen), s.choice.weight);
    softmax_forward(e, view<const A>(logits), logits);
    pick(e, view<const A>(logits), s.choice.expert, s.choice.weight);
  }

  /// dweight [n, k] -> dx [n, H], added to what is there; the router's gradient is accumulated. Local.
  template <class Exec>
  void backward(Exec e, view<const A> dweight, view<T> dx, const saved& s) const {
    const extent_t n = s.x.extent(0);
    scratch local(e);
    view<A> dchosen = local.template take<A>(n, k), dlogits = local.template take<A>(n, weight.value.extent(0));
    if (k > 1) {
      softmax_backward(e, dweight, view<const A>(s.choice.weight), dchosen);
      top_k_backward(e, view<const A>(dchosen), view<const std::int32_t>(s.choice.expert), dlogits);
    } else {  // the scores are computed again: cheaper than keeping [n, E]
      view<A> share = local.template take<A>(n, weight.value.extent(0));
      gemm_nt(e, s.x, weight.value, share);
      softmax_forward(e, view<const A>(share), share);
      top_k_backward(e, dweight, view<const std::int32_t>(s.choice.expert), dlogits);
      softmax_backward(e, view<const A>(dlogits), view<const A>(share), dlogits);
    }
    gemm_tn(e, view<const A>(dlogits), s.x, weight.gradient, T(1));
    gemm_nn(e, view<const A>(dlogits), weight.value, dx, T(1));
  }

 private:
  /// Margins, record and replay: host only, off the fast path.
  void follow(routing_tap& tap, extent_t layer, const batch_place& place, view<const A> logits, view<std::int32_t> expert,
              view<A> chosen) const {
    for (extent_t i = 0; i < logits.extent(0); ++i) {
      if (tap.replay && place.step >= tap.replay_from && place.step < tap.replay->steps()) {
        const std::int32_t* choice = tap.replay->at(place, layer, i);
        for (extent_t s = 0; s < k; ++s) {
          require(choice[s] >= 0 && choice[s] < logits.extent(1), "moefold: the replayed trace has expert ", choice[s], " of ",
                  logits.extent(1), " at step ", place.step, ", layer ", layer, "; record it with the same model, batch and steps");
          expert(i, s) = choice[s];
          chosen(i, s) = logits(i, choice[s]);
        }
      } else if (k < logits.extent(1)) {
        A next = -std::numeric_limits<A>::infinity();
        for (extent_t other = 0; other < logits.extent(1); ++other)
          if (std::find(&expert(i, 0), &expert(i, 0) + k, other) == &expert(i, 0) + k) next = std::max(next, logits(i, other));
        tap.margin = std::min(tap.margin, double(chosen(i, k - 1) - next));
      }
      if (tap.record && place.step < tap.record->steps()) std::copy_n(&expert(i, 0), k, tap.record->at(place, layer, i));
    }
  }
};

}  // namespace moefold
