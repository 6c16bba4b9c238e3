#pragma once
// Load balance: what a router remembers between steps, and the auxiliary losses of one micro-batch. N_e is a constant of the loss; its gradient goes
// through the scores, as one number per expert and sequence: the pull.
//
//   fr_e = N_e / T of a set (micro-batch, sequence), or k times a share (previous step, running)
//   T * L = c * E / k * sum over e of fr_e * P_e          pull [B, E] = loss_weight * sum over losses of c * E / k * fr_e
//   bias_e += u * sign(sum of counts - E * count_e), after a step, in integers
// Sources: Fedus et al. 2021, arXiv 2101.03961 (loss); Wang et al. 2024, arXiv 2408.15664 (bias); Zoph et al. 2022, arXiv 2202.08906 (z-loss).
#include <moefold/core/moe_facts.hpp>
#include <moefold/moe/groups.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/ops/route.hpp>
#include <moefold/tensor/tensor.hpp>

#include <numeric>

namespace moefold {

/// What one layer's router remembers, in memory that somebody else keeps. Equal on all ranks that hold the layer.
template <class A>
struct router_state {
  view<const A> bias{};           // [E]; empty: none
  view<const double> previous{};  // [E] k times the share of choices in the previous step; empty: even
  view<std::int64_t> running{};   // [micro-batches, E] choices of micro-batches 0..m over all DP ranks, written in forward
};

/// The states of all layers of a model on one rank, and their update after a step. Part of a checkpoint: bias and shares.
template <class A>
class router_states {
 public:
  router_states(const model_shape& model, const balance_losses& balance, extent_t micro_batches)
      : bias_({model.expert_bias ? model.layers : 0, model.experts}, A(0)),
        previous_({balance.global > 0 ? model.layers : 0, model.experts}, double(model.top_k) / double(model.experts)),
        running_({balance.global_running > 0 ? model.layers : 0, micro_batches, model.experts}, 0), top_k_(model.top_k),
        step_(balance.bias_step) {}

  router_state<A> of(extent_t layer) {
    const auto row = [layer](auto& t) { return t.size() > 0 ? t.view().rows(layer, 1) : t.view(); };
    router_state<A> state;
    if (bias_.size() > 0) state.bias = row(bias_).as({bias_.extent(1)});
    if (previous_.size() > 0) state.previous = row(previous_).as({previous_.extent(1)});
    if (running_.size() > 0) state.running = row(running_).as({running_.extent(1), running_.extent(2)});
    return state;
  }

  /// After a step, with the choices of all its tokens that are not padding, over all ranks [layers, E]: load, what was chosen; aux_load, what the
  /// scores alone would choose. Local; the same on every rank.
  void update(view<const std::int64_t> load, view<const std::int64_t> aux_load) {
    for (extent_t layer = 0; layer < bias_.extent(0); ++layer) move_bias(load.rows(layer, 1), bias_.view().rows(layer, 1), step_);
    for (extent_t layer = 0; layer < previous_.extent(0); ++layer) {
      const auto counts = aux_load.rows(layer, 1);
      const auto share = previous_.view().rows(layer, 1);
      const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
      for (std::size_t e = 0; e < share.size() && total > 0; ++e) share[e] = double(top_k_) * double(counts[e]) / double(total);
    }
  }

  /// bias_e += u * sign(sum(count) - E * count_e).
  static void move_bias(view<const std::int64_t> count, view<A> bias, double u) {
    const std::int64_t total = std::accumulate(count.begin(), count.end(), std::int64_t{0}), experts = std::int64_t(count.size());
    for (std::size_t e = 0; e < bias.size(); ++e) {
      const std::int64_t gap = total - experts * count[e];
      bias[e] += A(u * double((gap > 0) - (gap < 0)));
    }
  }

  view<A> bias() { return bias_; }               // [layers, E], or no rows
  view<double> previous() { return previous_; }  // [layers, E], or no rows

 private:
  tensor<A> bias_;
  tensor<double> previous_;
  tensor<std::int64_t> running_;
  extent_t top_k_;
  double step_;
};

/// The losses of one micro-batch of one layer. counts [B, E + 1]: choices of this rank's tokens of each sequence (B = 1: of all), and in the last
/// column the tokens that are not padding; summed over tp x cp here. Returns this rank's share of T * L of every loss, without loss_weight,
/// and assigns pull [B, E]. Collective over what the losses need: all_reduce of B * (E + 1) int64 over tp x cp, of E over tp x cp x dp.
template <class A, class Exec, class Comm>
balance_values balance_terms(Exec e, const balance_losses& balance, const route_rule& rule, view<const A> logits,
                             const routing_context& where, const router_state<A>& state, const moe_groups<Comm>& groups,
                             view<std::int64_t> counts, view<A> pull) {
  const extent_t batch = counts.extent(0), experts = counts.extent(1) - 1;
  scratch local(e);
  const view<std::int64_t> running = local.template take<std::int64_t>(experts);
  if (balance.global_running > 0) {
    for (extent_t x = 0; x < experts; ++x) {
      running(x) = 0;
      for (extent_t b = 0; b < batch; ++b) running(x) += counts(b, x);
    }
    Comm& all = require_group(groups.batch, "batch", "tp x cp x dp", "the running balance loss");
    all.all_reduce(e, std::span<const std::int64_t>(running.span()), running.span(), sum{}).wait(e);
    require(where.micro_batch < state.running.extent(0), "moefold: the running balance loss keeps counts of ", state.running.extent(0),
            " micro-batches, given number ", where.micro_batch, "; give router_state::running a row for each micro-batch of a step");
    for (extent_t x = 0; x < experts; ++x) {  // assigned, not added: computing the micro-batch again changes nothing
      if (where.micro_batch > 0) running(x) += state.running(where.micro_batch - 1, x);
      state.running(where.micro_batch, x) = running(x);
    }
  }
  if (balance.counts_sets())
    require_group(groups.sequence, "sequence", "tp x cp", "a balance loss over a micro-batch or a sequence")
        .all_reduce(e, std::span<const std::int64_t>(counts.span()), counts.span(), sum{})
        .wait(e);

  const view<double> scores = local.template take<double>(batch, experts), whole = local.template take<double>(experts);
  const double squares = aux_sums<A>(e, rule, logits, where.padding, scores);
  double tokens = 0, chosen = 0;
  for (extent_t b = 0; b < batch; ++b) tokens += double(counts(b, experts));
  for (extent_t x = 0; x < experts; ++x) {
    whole(x) = 0;
    for (extent_t b = 0; b < batch; ++b) whole(x) += double(counts(b, x));
    chosen += balance.global_running > 0 ? double(running(x)) : 0;
  }
  const double k = double(rule.top_k), ratio = double(experts) / k;
  balance_values sums{};
  for (extent_t b = 0; b < batch; ++b) {
    const double own = double(counts(b, experts));
    for (extent_t x = 0; x < experts; ++x) {
      const double terms[4] = {tokens > 0 ? balance.micro_batch * whole(x) / tokens : 0,
                               own > 0 ? balance.sequence * double(counts(b, x)) / own : 0,
                               balance.global * (state.previous.empty() ? k / double(experts) : state.previous(x)),
                               chosen > 0 ? balance.global_running * k * double(running(x)) / chosen : 0};
      double all = 0;
      for (std::size_t i = 0; i < 4; ++i) {
        sums[i] += ratio * terms[i] * scores(b, x);
        all += terms[i];
      }
      pull(b, x) = A(where.loss_weight * ratio * all);
    }
  }
  sums[4] = balance.z * squares;
  return sums;
}

}  // namespace moefold
