#pragma once
// The numbers behind load balance, from counts of choices: loads, the balance losses of a micro-batch, and the pull of their gradient on the scores
// (the formulas stand in moe/balance.hpp). Nothing here communicates.
//
//   counts [B, E + 1]   choices of the tokens of each sequence; in the last column its tokens that are not padding
//   sum_sequences   load[e] = sum over b of counts[b, e]             balance_pull   counts, score sums, shares -> pull [B, E], losses [5]
//   add_running     counts of micro-batches 0..m from those 0..m-1   add_counts     to[i] += double(from[i])
#include <moefold/core/moe_facts.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

/// What the balance losses of one micro-batch see.
struct balance_inputs {
  view<const std::int64_t> counts;   // [B, E + 1], of all ranks of the set
  view<const double> score_sum;      // [B, E] sums of aux scores, of this rank
  view<const double> squares;        // [1] sum of logsumexp(logits)^2, of this rank
  view<const double> previous{};     // [E] k times the share of choices in the previous step; empty: even
  view<const std::int64_t> running;  // [E] choices so far of the step; read only with a running loss
};

namespace detail {

/// The four load losses of one expert in one sequence before they meet its scores: c * fr_e / E * k of each.
struct load_terms {
  double of[4];
  MOEFOLD_HD constexpr double all() const { return 0.0 + of[0] + of[1] + of[2] + of[3]; }
};
/// whole, here: choices of this expert in the micro-batch and in the sequence; tokens, own: tokens of either that are not padding.
MOEFOLD_HD constexpr load_terms load_terms_of(const balance_losses& balance, double k, double whole, double tokens, double here, double own,
                                              double previous, double running, double chosen) {
  return {{tokens > 0 ? balance.micro_batch * whole / tokens : 0, own > 0 ? balance.sequence * here / own : 0, balance.global * previous,
           chosen > 0 ? balance.global_running * k * running / chosen : 0}};
}

inline void require_balance(const balance_losses& balance, const balance_inputs& in, shape pull, std::size_t losses) {
  require(in.counts.rank() == 2 && in.counts.extent(1) >= 2, "moefold: balance_pull needs counts [sequences, experts + 1], given ",
          in.counts.rank(), " extents");
  const extent_t batch = in.counts.extent(0), experts = in.counts.extent(1) - 1;
  require_matrix("balance_pull", "score_sum", in.score_sum, batch, experts);
  require_count("balance_pull", "squares", in.squares.size(), 1);
  require_count("balance_pull", "pull", std::size_t(pull.size()), batch * experts);
  require_count("balance_pull", "losses", losses, extent_t(balance_kinds));
  if (!in.previous.empty()) require_count("balance_pull", "previous", in.previous.size(), experts);
  if (balance.global_running > 0) require_count("balance_pull", "running", in.running.size(), experts);
}
inline void require_sequences(view<const std::int64_t> counts, view<std::int64_t> load) {
  require(counts.rank() == 2 && counts.extent(1) >= extent_t(load.size()), "moefold: sum_sequences needs counts of at least ", load.size(),
          " columns, given ", cols_of(counts));
}
inline void require_running(view<const std::int64_t> before, view<std::int64_t> running, view<std::int64_t> now) {
  if (!before.empty()) require_count("add_running", "before", before.size(), extent_t(running.size()));
  require_count("add_running", "now", now.size(), extent_t(running.size()));
}

}  // namespace detail

/// load [E] of counts [B, E or more], assigned.
inline void sum_sequences(host_exec, view<const std::int64_t> counts, view<std::int64_t> load) {
  detail::require_sequences(counts, load);
  for (extent_t x = 0; x < extent_t(load.size()); ++x) {
    load[std::size_t(x)] = 0;
    for (extent_t b = 0; b < counts.extent(0); ++b) load[std::size_t(x)] += counts(b, x);
  }
}

/// running [E], choices of micro-batch m, becomes that of micro-batches 0..m, and now [E] the same: before [E] is that of 0..m-1, or empty.
inline void add_running(host_exec, view<const std::int64_t> before, view<std::int64_t> running, view<std::int64_t> now) {
  detail::require_running(before, running, now);
  for (std::size_t x = 0; x < running.size(); ++x) {
    if (!before.empty()) running[x] += before[x];
    now[x] = running[x];
  }
}

/// to[i] += from[i].
inline void add_counts(host_exec, view<const std::int64_t> from, view<double> to) {
  require_count("add_counts", "from", from.size(), extent_t(to.size()));
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += double(from[i]);
}

/// pull [B, E] and losses [5], both assigned: this rank's share of T * L of every loss, without loss_weight; the pull is times loss_weight.
template <class A>
void balance_pull(host_exec e, const balance_losses& balance, extent_t top_k, double loss_weight, const balance_inputs& in, view<A> pull,
                  view<double> losses) {
  detail::require_balance(balance, in, pull.shape(), losses.size());
  const extent_t batch = in.counts.extent(0), experts = in.counts.extent(1) - 1;
  scratch<host_exec> local(e);
  const view<double> whole = local.take<double>(experts);
  double tokens = 0, chosen = 0;
  for (extent_t b = 0; b < batch; ++b) tokens += double(in.counts(b, experts));
  for (extent_t x = 0; x < experts; ++x) {
    whole(x) = 0;
    for (extent_t b = 0; b < batch; ++b) whole(x) += double(in.counts(b, x));
    chosen += balance.global_running > 0 ? double(in.running[std::size_t(x)]) : 0;
  }
  const double k = double(top_k), ratio = double(experts) / k;
  for (double& loss : losses) loss = 0;
  for (extent_t b = 0; b < batch; ++b)
    for (extent_t x = 0; x < experts; ++x) {
      const double previous = in.previous.empty() ? k / double(experts) : in.previous[std::size_t(x)];
      const double running = balance.global_running > 0 ? double(in.running[std::size_t(x)]) : 0;
      const detail::load_terms terms = detail::load_terms_of(balance, k, whole(x), tokens, double(in.counts(b, x)),
                                                             double(in.counts(b, experts)), previous, running, chosen);
      for (std::size_t i = 0; i < 4; ++i) losses[i] += ratio * terms.of[i] * in.score_sum[std::size_t(b * experts + x)];
      pull[std::size_t(b * experts + x)] = A(loss_weight * ratio * terms.all());
    }
  losses[4] = balance.z * in.squares[0];
}

}  // namespace moefold
