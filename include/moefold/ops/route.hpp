#pragma once
// The router after its matrix product, row by row: choose k experts of a token by its logits and weigh them; and the way back, where the gradients
// of weights, balance losses and z-loss meet in one pass. The CUDA twin gives a row to a warp.
//
//   choosing score    softmax: the logits; sigmoid: s + bias. Groups: only the best g of G groups (sum of their best k / g) may be chosen from
//   order             descending choosing score, ties to the lowest expert, among groups to the lowest group; NaN last
//   weight            scale * softmax over the chosen | softmax over all | s / (sum of the chosen s + 1e-20), k = 1: s
//   aux score a [E]   softmax over all E | s / (sum of all s + 1e-20): what balance losses see
#include <moefold/core/model_shape.hpp>
#include <moefold/ops/exp.hpp>
#include <moefold/ops/permute.hpp>
#include <moefold/ops/top_k.hpp>

namespace moefold {

struct route_rule {
  score_function score = score_function::softmax_after;
  extent_t top_k = 2;
  extent_t groups = 1, chosen_groups = 1;
  double scale = 1;

  constexpr route_rule() = default;
  constexpr explicit route_rule(const model_shape& m)
      : score(m.score), top_k(m.top_k), groups(m.expert_groups), chosen_groups(m.chosen_groups), scale(m.weight_scale) {}
};

namespace detail {

/// Leaves the best g groups of a row of choosing scores as they are and makes the others -inf. kept [g], value [max(k / g, g)]: workspace.
template <class A>
inline void mask_groups(const route_rule& rule, extent_t experts, A* score, A* group_score, std::int32_t* kept, A* value) {
  const extent_t each = experts / rule.groups, best = rule.top_k / rule.chosen_groups;
  for (extent_t g = 0; g < rule.groups; ++g) {
    best_of(score + g * each, each, best, kept, value);
    A sum = A(0);
    for (extent_t i = 0; i < best; ++i) sum += value[i];
    group_score[g] = sum;
  }
  best_of(group_score, rule.groups, rule.chosen_groups, kept, value);
  for (extent_t g = 0; g < rule.groups; ++g) {
    bool stays = false;
    for (extent_t i = 0; i < rule.chosen_groups; ++i) stays = stays || kept[i] == g;
    for (extent_t e = g * each; !stays && e < (g + 1) * each; ++e) score[e] = -std::numeric_limits<A>::infinity();
  }
}

/// Weights of the chosen experts from a row of logits.
template <class A>
inline void weigh(const route_rule& rule, const A* logit, extent_t experts, const std::int32_t* expert, A* weight) {
  const extent_t k = rule.top_k;
  const A scale = A(rule.scale);
  A sum = A(0);
  if (rule.score == score_function::sigmoid) {
    for (extent_t j = 0; j < k; ++j) sum += weight[j] = logistic(logit[expert[j]]);
    const A by = k > 1 ? scale / (sum + A(1e-20)) : scale;
    for (extent_t j = 0; j < k; ++j) weight[j] *= by;
    return;
  }
  A top = logit[expert[0]];  // any shift will do; that of all columns where all are summed
  if (rule.score == score_function::softmax_before) {
    top = lane_max<A>(experts, [=](extent_t c) { return logit[c]; });
    sum = lane_sum<A>(experts, [=](extent_t c) { return exp_of(logit[c] - top); });
  }
  for (extent_t j = 0; j < k; ++j)
    if (rule.score == score_function::softmax_after && logit[expert[j]] > top) top = logit[expert[j]];  // replayed choices come unsorted
  for (extent_t j = 0; j < k; ++j) weight[j] = exp_of(logit[expert[j]] - top);
  if (rule.score == score_function::softmax_after)
    for (extent_t j = 0; j < k; ++j) sum += weight[j];
  for (extent_t j = 0; j < k; ++j) weight[j] *= scale / sum;
}

/// a [E] from a row of logits; returns logsumexp(logits).
template <class A>
inline A aux_scores(const route_rule& rule, const A* logit, extent_t experts, A* a) {
  const A top = lane_max<A>(experts, [=](extent_t c) { return logit[c]; });
  for (extent_t c = 0; c < experts; ++c) a[c] = exp_of(logit[c] - top);
  const A sum = lane_sum<A>(experts, [=](extent_t c) { return a[c]; });
  A by = A(1) / sum;
  if (rule.score == score_function::sigmoid) {
    for (extent_t c = 0; c < experts; ++c) a[c] = logistic(logit[c]);
    by = A(1) / (lane_sum<A>(experts, [=](extent_t c) { return a[c]; }) + A(1e-20));
  }
  for (extent_t c = 0; c < experts; ++c) a[c] *= by;
  return top + A(std::log(double(sum)));
}

inline void require_padding(const char* op, view<const std::uint8_t> padding, extent_t n) {
  require(padding.empty() || extent_t(padding.size()) == n, "moefold: ", op, " needs a padding flag for each of ", n,
          " tokens, or none, given ", padding.size());
}

}  // namespace detail

/// Choosing scores [n, E] of a router: what its choices are sorted by, groups that do not stay at -inf. bias [E] may be empty.
template <class A>
void choosing_scores(host_exec e, const route_rule& rule, input<A> logits, std::span<const A> bias, view<A> score) {
  const extent_t n = rows_of(score), experts = cols_of(score);
  require_matrix("choosing_scores", "logits", logits, n, experts);
  require(bias.empty() || extent_t(bias.size()) == experts, "moefold: choosing_scores needs one bias for each of ", experts,
          " experts, or none, given ", bias.size());
  scratch<host_exec> local(e);
  const extent_t most = std::max(rule.top_k / rule.chosen_groups, rule.chosen_groups);
  A* const group_score = local.template take<A>(rule.groups).data();
  A* const value = local.template take<A>(most).data();
  std::int32_t* const kept = local.template take<std::int32_t>(most).data();
  for (extent_t t = 0; t < n; ++t) {
    const A* const logit = logits.data() + t * experts;
    A* const row = score.data() + t * experts;
    const bool sigmoid = rule.score == score_function::sigmoid;
    for (extent_t c = 0; c < experts; ++c) row[c] = sigmoid ? logistic(logit[c]) : logit[c];
    if (!bias.empty())
      for (extent_t c = 0; c < experts; ++c) row[c] += bias[std::size_t(c)];
    if (rule.chosen_groups < rule.groups) detail::mask_groups(rule, experts, row, group_score, kept, value);
  }
}

/// weight [n, k] of the chosen experts, times the scale.
template <class A>
void route_weights(host_exec, const route_rule& rule, input<A> logits, view<const std::int32_t> expert, view<A> weight) {
  const extent_t n = rows_of(weight), experts = cols_of(logits), k = rule.top_k;
  require_matrix("route_weights", "logits", logits, n, experts);
  require_matrix("route_weights", "expert", expert, n, k);
  require_matrix("route_weights", "weight", weight, n, k);
  for (extent_t t = 0; t < n; ++t) {
    const std::int32_t* const chosen = expert.data() + t * k;
    for (extent_t j = 0; j < k; ++j)
      require(chosen[j] >= 0 && chosen[j] < experts, "moefold: route_weights has ", experts, " experts, given expert ", chosen[j],
              " for token ", t);
    detail::weigh(rule, logits.data() + t * experts, experts, chosen, weight.data() + t * k);
  }
}

/// Sums of aux scores over the tokens of each of B sequences (token t belongs to sequence t % B), padding left out: score_sum [B, E], assigned.
/// Returns the sum of logsumexp(logits)^2 over the same tokens.
template <class A>
double aux_sums(host_exec e, const route_rule& rule, input<A> logits, std::span<const std::uint8_t> padding, view<double> score_sum) {
  const extent_t n = rows_of(logits), experts = cols_of(logits), batch = rows_of(score_sum);
  require_matrix("aux_sums", "score_sum", score_sum, batch, experts);
  detail::require_padding("aux_sums", padding, n);
  scratch<host_exec> local(e);
  A* const a = local.template take<A>(experts).data();
  std::fill(score_sum.begin(), score_sum.end(), 0.0);
  double squares = 0;
  for (extent_t t = 0; t < n; ++t) {
    if (!padding.empty() && padding[std::size_t(t)]) continue;
    const double lse = double(detail::aux_scores(rule, logits.data() + t * experts, experts, a));
    squares += lse * lse;
    double* const sum = score_sum.data() + t % batch * experts;
    for (extent_t c = 0; c < experts; ++c) sum[c] += double(a[c]);
  }
  return squares;
}

/// Choices by sequence, assigned: counts [B, E + 1], of tokens that are not padding (token t belongs to sequence t % B), and in the last column these
/// tokens. A choice of -1 is not counted.
inline void count_choices(host_exec, view<const std::int32_t> expert, view<const std::uint8_t> padding, view<std::int64_t> counts) {
  const extent_t n = rows_of(expert), k = cols_of(expert), batch = rows_of(counts), experts = cols_of(counts) - 1;
  detail::require_padding("count_choices", padding, n);
  std::fill(counts.begin(), counts.end(), 0);
  for (extent_t t = 0; t < n; ++t) {
    if (!padding.empty() && padding(t)) continue;
    std::int64_t* const row = counts.data() + t % batch * (experts + 1);
    for (extent_t j = t * k; j < (t + 1) * k; ++j) {
      const std::int32_t c = expert.data()[j];
      require_choice(c, experts, t);
      if (c >= 0) ++row[c];
    }
    ++row[experts];
  }
}

/// What a router sees. Token t belongs to sequence t % batch.
template <class A>
struct route_inputs {
  view<const A> logits{};              // [n, E]
  view<const A> bias{};                // [E]; empty: none
  view<const std::uint8_t> padding{};  // [n], not 0: padding; empty: none
  extent_t batch = 1;
};
/// What it says, all assigned; what is not wanted is left empty.
template <class A>
struct route_outputs {
  view<std::int32_t> expert{};  // [n, k] in descending choosing score
  view<A> weight{};             // [n, k]
  view<std::int64_t> counts{};  // [B, E + 1] choices of tokens that are not padding, in the last column these tokens
  view<std::int64_t>
      aux_counts{};          // [E] what the scores alone would choose, without bias and groups, of the same tokens; not wanted: empty
  view<double> score_sum{};  // [B, E] sums of aux scores over the same tokens; not wanted: empty, and squares too
  view<double> squares{};    // [1] sum of logsumexp(logits)^2
  view<A> scores{};          // [n, E] choosing scores; not wanted: empty
};

namespace detail {

template <class A>
void require_route(const route_rule& rule, const route_inputs<A>& in, const route_outputs<A>& out) {
  const extent_t n = rows_of(in.logits), experts = cols_of(in.logits);
  require(rule.top_k >= 1 && rule.top_k <= experts, "moefold: route_forward chooses k = ", rule.top_k, " of ", experts, " experts");
  require(rule.groups >= 1 && experts % rule.groups == 0 && rule.chosen_groups >= 1 && rule.chosen_groups <= rule.groups &&
              rule.top_k % rule.chosen_groups == 0 && rule.top_k / rule.chosen_groups <= experts / rule.groups,
          "moefold: route_forward cannot choose ", rule.top_k, " of ", experts, " experts from the best ", rule.chosen_groups, " of ",
          rule.groups, " groups; give equal groups, and of each chosen one an equal number of experts");
  require(in.bias.empty() || extent_t(in.bias.size()) == experts, "moefold: route_forward needs one bias for each of ", experts,
          " experts, or none, given ", in.bias.size());
  require(in.batch >= 1, "moefold: route_forward needs at least one sequence, given ", in.batch);
  require_padding("route_forward", in.padding, n);
  require_matrix("route_forward", "expert", out.expert, n, rule.top_k);
  require_matrix("route_forward", "weight", out.weight, n, rule.top_k);
  require_matrix("route_forward", "counts", out.counts, in.batch, experts + 1);
  if (!out.aux_counts.empty()) require_count("route_forward", "aux_counts", out.aux_counts.size(), experts);
  if (!out.score_sum.empty()) require_matrix("route_forward", "score_sum", out.score_sum, in.batch, experts);
  require_count("route_forward", "squares", out.squares.size(), out.score_sum.empty() ? 0 : 1);
  if (!out.scores.empty()) require_matrix("route_forward", "scores", out.scores, n, experts);
}

}  // namespace detail

/// Everything the router does between its matrix product and the dispatch.
template <class A>
void route_forward(host_exec e, const route_rule& rule, const std::type_identity_t<route_inputs<A>>& in, const route_outputs<A>& out) {
  detail::require_route<A>(rule, in, out);
  const extent_t n = rows_of(in.logits), experts = cols_of(in.logits), k = rule.top_k;
  const bool sigmoid = rule.score == score_function::sigmoid, corrected = !in.bias.empty() || rule.chosen_groups < rule.groups;
  scratch<host_exec> local(e);
  const view<A> chosen = local.template take<A>(n, k);
  view<const A> scores = in.logits;
  if (sigmoid || corrected || !out.scores.empty()) {
    const view<A> into = out.scores.empty() ? local.template take<A>(n, experts) : out.scores;
    choosing_scores<A>(e, rule, in.logits, in.bias.span(), into);
    scores = into;
  }
  top_k<A>(e, scores, k, out.expert, chosen);
  route_weights<A>(e, rule, in.logits, out.expert, out.weight);
  count_choices(e, out.expert, in.padding, out.counts);
  if (!out.aux_counts.empty()) {
    view<const std::int64_t> counts = out.counts;
    if (corrected) {
      const view<std::int32_t> plain = local.template take<std::int32_t>(n, k);
      view<const A> free_scores = in.logits;
      if (sigmoid) {
        route_rule free = rule;
        free.groups = free.chosen_groups = 1;
        const view<A> into = local.template take<A>(n, experts);
        choosing_scores<A>(e, free, in.logits, {}, into);
        free_scores = into;
      }
      top_k<A>(e, free_scores, k, plain, chosen);
      const view<std::int64_t> whole = local.template take<std::int64_t>(1, experts + 1);
      count_choices(e, plain, in.padding, whole);
      counts = whole;
    }
    std::fill(out.aux_counts.begin(), out.aux_counts.end(), 0);
    for (extent_t b = 0; b < rows_of(counts); ++b)
      for (extent_t c = 0; c < experts; ++c) out.aux_counts(c) += counts.data()[b * (experts + 1) + c];
  }
  if (!out.score_sum.empty()) out.squares(0) = aux_sums<A>(e, rule, in.logits, in.padding.span(), out.score_sum);
}

/// The gradient of the logits, assigned: of the weights (dweight [n, k]) for every token; and, for tokens that are not padding, of
/// sum over e of pull[t % B, e] * a_te (pull [B, E] or empty) and of z * logsumexp(logits)^2.
template <class A>
void route_backward(host_exec e, const route_rule& rule, input<A> dweight, input<A> logits, view<const std::int32_t> expert,
                    input<A> weight, std::span<const std::uint8_t> padding, input<A> pull, double z, view<A> dlogits) {
  const extent_t n = rows_of(dlogits), experts = cols_of(dlogits), k = rule.top_k, batch = pull.empty() ? 1 : rows_of(pull);
  require_matrix("route_backward", "dweight", dweight, n, k);
  require_matrix("route_backward", "logits", logits, n, experts);
  require_matrix("route_backward", "expert", expert, n, k);
  require_matrix("route_backward", "weight", weight, n, k);
  if (!pull.empty()) require_matrix("route_backward", "pull", pull, batch, experts);
  detail::require_padding("route_backward", padding, n);
  scratch<host_exec> local(e);
  A* const a = local.template take<A>(experts).data();
  const A scale = A(rule.scale);
  const bool sigmoid = rule.score == score_function::sigmoid;
  for (extent_t t = 0; t < n; ++t) {
    const A* const logit = logits.data() + t * experts;
    const A* const dw = dweight.data() + t * k;
    const A* const w = weight.data() + t * k;
    const std::int32_t* const chosen = expert.data() + t * k;
    for (extent_t j = 0; j < k; ++j)
      require(chosen[j] >= 0 && chosen[j] < experts, "moefold: route_backward has ", experts, " experts, given expert ", chosen[j],
              " for token ", t);
    A* const out = dlogits.data() + t * experts;
    for (extent_t c = 0; c < experts; ++c) out[c] = A(0);
    A along = A(0);  // sum of dw_j * w_j / scale
    for (extent_t j = 0; j < k; ++j) along += dw[j] * w[j] / scale;
    if (rule.score == score_function::softmax_after) {
      for (extent_t j = 0; j < k; ++j) out[chosen[j]] += w[j] * (dw[j] - along);
    } else if (rule.score == score_function::softmax_before) {
      detail::aux_scores(rule, logit, experts, a);
      for (extent_t c = 0; c < experts; ++c) out[c] = -scale * along * a[c];
      for (extent_t j = 0; j < k; ++j) out[chosen[j]] += w[j] * dw[j];
    } else {
      A sum = A(0);
      for (extent_t j = 0; j < k; ++j) sum += logistic(logit[chosen[j]]);
      for (extent_t j = 0; j < k; ++j) {
        const A s = logistic(logit[chosen[j]]);
        const A ds = k > 1 ? scale * (dw[j] - along) / (sum + A(1e-20)) : scale * dw[j];
        out[chosen[j]] += ds * s * (A(1) - s);
      }
    }
    if ((pull.empty() && z == 0) || (!padding.empty() && padding[std::size_t(t)])) continue;
    const A lse = detail::aux_scores(rule, logit, experts, a);
    if (!pull.empty()) {
      const A* const g = pull.data() + t % batch * experts;
      const A mean = lane_sum<A>(experts, [=](extent_t c) { return g[c] * a[c]; });
      if (sigmoid) {
        for (extent_t c = 0; c < experts; ++c) out[c] += (g[c] - mean) * a[c] * (A(1) - logistic(logit[c]));
      } else {
        for (extent_t c = 0; c < experts; ++c) out[c] += (g[c] - mean) * a[c];
      }
    }
    if (z != 0) {
      const A twice = A(2 * z) * lse;
      for (extent_t c = 0; c < experts; ++c) out[c] += twice * exp_of(logit[c] - lse);
    }
  }
}

}  // namespace moefold
