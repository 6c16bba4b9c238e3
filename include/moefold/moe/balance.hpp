#pragma once
// Load balance: what a router remembers between steps, and the auxiliary losses of one micro-batch. N_e is a constant of the loss; its gradient goes
// through the scores, as one number per expert and sequence: the pull.
//
//   fr_e = N_e / T of a set (micro-batch, sequence), or k times a share (previous step, running)
//   T * L = c * E / k * sum over e of fr_e * P_e          pull [B, E] = loss_weight * sum over losses of c * E / k * fr_e
//   bias_e += u * sign(sum of counts - E * count_e), after a step, in integers
// Sources: Fedus et al. 2021, arXiv 2101.03961 (loss); Wang et al. 2024, arXiv 2408.15664 (bias); Zoph et al. 2022, arXiv 2202.08906 (z-loss).
#include <moefold/core/model_shape.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/moe/groups.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/ops/balance.hpp>
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/tensor.hpp>

#include <numeric>

namespace moefold {

namespace detail {

/// A copy in Memory of a tensor on the host; on the host the tensor itself.
template <class T, class Memory>
struct shown_copy {
  tensor<T, Memory> copy;
  explicit shown_copy(const tensor<T>& host) : copy(host.shape()) {}
  tensor<T, Memory>& of(tensor<T>&) { return copy; }
  template <class Exec>
  void publish(Exec e, tensor<T>& host) {
    upload(e, host.view(), copy.view());
  }
};
template <class T>
struct shown_copy<T, host_memory> {
  explicit shown_copy(const tensor<T>&) {}
  static tensor<T>& of(tensor<T>& host) { return host; }
  template <class Exec>
  static void publish(Exec, tensor<T>&) {}
};

}  // namespace detail

/// What one layer's router remembers, in memory of the exec that somebody else keeps. Equal on all ranks that hold the layer.
template <class A>
struct router_state {
  view<const A> bias{};           // [E]; empty: none
  view<const double> previous{};  // [E] k times the share of choices in the previous step; empty: even
  view<std::int64_t> running{};   // [micro-batches, E] choices of micro-batches 0..m over all DP ranks, written in forward
};

/// The states of all layers of a model on one rank, and their update after a step. Part of a checkpoint: bias and shares. The host holds them; where Memory
/// is a device's, the layers see a copy there, which publish() makes: call it before the first step, and whenever the host has changed something.
template <class A, class Memory = host_memory>
class router_states {
 public:
  router_states(const model_shape& model, const balance_losses& balance, extent_t micro_batches)
      : bias_({model.expert_bias ? model.layers : 0, model.experts}, A(0)),
        previous_({balance.global > 0 ? model.layers : 0, model.experts}, double(model.top_k) / double(model.experts)),
        running_({balance.global_running > 0 ? model.layers : 0, micro_batches, model.experts}), shown_bias_(bias_),
        shown_previous_(previous_), top_k_(model.top_k), step_(balance.bias_step) {
    if constexpr (std::is_same_v<Memory, host_memory>) std::fill(running_.begin(), running_.end(), 0);  // every step writes before it reads
  }

  router_state<A> of(extent_t layer) {
    const auto row = [layer](auto& t) { return t.size() > 0 ? t.view().rows(layer, 1) : t.view(); };
    auto& bias = shown_bias_.of(bias_);
    auto& previous = shown_previous_.of(previous_);
    router_state<A> state;
    if (bias.size() > 0) state.bias = row(bias).as({bias.extent(1)});
    if (previous.size() > 0) state.previous = row(previous).as({previous.extent(1)});
    if (running_.size() > 0) state.running = row(running_).as({running_.extent(1), running_.extent(2)});
    return state;
  }
  /// What the host has becomes what the layers of e see. Nothing to do where both are one.
  template <class Exec>
  void publish(Exec e) {
    shown_bias_.publish(e, bias_);
    shown_previous_.publish(e, previous_);
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
  tensor<std::int64_t, Memory> running_;
  [[no_unique_address]] detail::shown_copy<A, Memory> shown_bias_;
  [[no_unique_address]] detail::shown_copy<double, Memory> shown_previous_;
  extent_t top_k_;
  double step_;
};

/// The losses of one micro-batch of one layer. in.counts [B, E + 1]: choices of this rank's tokens of each sequence (B = 1: of all), and in the last
/// column the tokens that are not padding; summed over tp x cp here, in that memory. in.score_sum and in.squares: of this rank's tokens (ops/route.hpp);
/// what the router remembers is taken from `state`. Assigns losses [5], this rank's share of T * L of every loss, without loss_weight, and pull [B, E].
/// Collective over what the losses need: all_reduce of B * (E + 1) int64 over tp x cp, of E over tp x cp x dp.
template <class A, class Exec, class Comm>
void balance_terms(Exec e, const balance_losses& balance, extent_t top_k, view<std::int64_t> counts, view<const double> score_sum,
                   view<const double> squares, const routing_context& where, const router_state<A>& state, const moe_groups<Comm>& groups,
                   view<A> pull, view<double> losses) {
  const extent_t experts = counts.extent(1) - 1;
  scratch local(e);
  const view<std::int64_t> running = local.template take<std::int64_t>(experts);
  if (balance.global_running > 0) {
    sum_sequences(e, counts, running);
    Comm& all = require_group(groups.batch, "batch", "tp x cp x dp", "the running balance loss");
    all.all_reduce(e, std::span<const std::int64_t>(running.span()), running.span(), sum{}).wait(e);
    require(where.micro_batch < state.running.extent(0), "moefold: the running balance loss keeps counts of ", state.running.extent(0),
            " micro-batches, given number ", where.micro_batch, "; give router_state::running a row for each micro-batch of a step");
    const auto row = [&](extent_t m) { return state.running.rows(m, 1).as({experts}); };
    add_running(e, where.micro_batch > 0 ? row(where.micro_batch - 1) : view<std::int64_t>{}, running,
                row(where.micro_batch));  // assigned, not added: computing the micro-batch again changes nothing
  }
  if (balance.counts_sets())
    require_group(groups.sequence, "sequence", "tp x cp", "a balance loss over a micro-batch or a sequence")
        .all_reduce(e, std::span<const std::int64_t>(counts.span()), counts.span(), sum{})
        .wait(e);
  const double weight = where.loss_weight * (mutated(mutant::aux_scaled_by_group) ? groups.sequence->size() : 1);
  balance_pull(e, balance, top_k, weight, {counts, score_sum, squares, state.previous, running}, pull, losses);
}

}  // namespace moefold
