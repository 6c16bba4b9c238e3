#pragma once
// The MoE layer as the numerical contract says it, sections 4 to 6: token by token in double on one rank, for one micro-batch. Only the
// forward formulas are written; every gradient comes from the tape.
//
//   scalar = sum(dy * y) + weight * (micro_batch + sequence + global + global_running + z)          each loss as T * L, summed over its sets
// Choices, kept pairs and counts are decided on plain numbers and are constants of the scalar; gradients flow through p and the aux scores.
// Written without a look at the layers it judges, and slow on purpose: 64 tokens take milliseconds.
#include <moefold/core/model_shape.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/tensor/tensor.hpp>

#include "random.hpp"
#include "tape.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace moefold::test {

/// Of a model without a gate matrix, a shared expert or its switch the tensors are empty.
struct oracle_weights {
  tensor<double> router;                               // [E, H]
  tensor<double> gate, up, down;                       // [E, F, H], [E, F, H], [E, H, F]
  tensor<double> shared_gate, shared_up, shared_down;  // [Fs, H], [Fs, H], [H, Fs]
  tensor<double> shared_switch;                        // [H]
  std::vector<double> bias;                            // [E], empty: none

  explicit oracle_weights(const model_shape& m, std::uint64_t seed = 1) {
    const extent_t E = m.experts, H = m.hidden, F = m.ffn, S = m.shared_ffn;
    const bool gated = m.activation == activation_function::swiglu;
    router = random_tensor<double>({E, H}, seed);
    if (gated) gate = random_tensor<double>({E, F, H}, seed + 1, 0.4);
    up = random_tensor<double>({E, F, H}, seed + 2, 0.4);
    down = random_tensor<double>({E, H, F}, seed + 3, 0.4);
    if (S > 0 && gated) shared_gate = random_tensor<double>({S, H}, seed + 4, 0.4);
    if (S > 0) shared_up = random_tensor<double>({S, H}, seed + 5, 0.4);
    if (S > 0) shared_down = random_tensor<double>({H, S}, seed + 6, 0.4);
    if (m.shared_gate) shared_switch = random_tensor<double>({H}, seed + 7, 0.4);
    if (!m.expert_bias) return;
    const auto numbers = random_tensor<double>({E}, seed + 8, 0.3);
    bias.assign(numbers.begin(), numbers.end());
  }
};

struct oracle_options {
  model_shape model;
  token_rule tokens;
  balance_losses balance;
  std::vector<double> previous_share;            // [E] f_e of `global`; empty: k / E each
  std::vector<double> running_share;             // [E] f_e of `global_running`; empty: of this micro-batch alone
  double weight = 1;                             // N / T_step, on every loss
  extent_t batch = 1;                            // B: token number = position * B + sequence
  std::vector<std::uint8_t> padding;             // [tokens], 1: padding; empty: none
  std::vector<std::int32_t> forced;              // [tokens, k] choices; empty: the router's own
  std::vector<std::vector<extent_t>> drop_sets;  // sub-sequence capacity: token numbers of each rank; empty: one set of all tokens
  std::vector<double> jitter;                    // [tokens, H] factors on the router's input; empty: none
};

struct oracle_result {
  tensor<double> y, dx;  // [tokens, H]
  tensor<double> drouter, dgate, dup, ddown, dshared_gate, dshared_up, dshared_down, dshared_switch;
  std::vector<std::int32_t> expert;           // [tokens, k] in slot order
  std::vector<double> p;                      // [tokens, k]
  std::vector<std::uint8_t> kept;             // [tokens, k]
  std::vector<std::int64_t> load, aux_count;  // [E] actual choices before dropping; N_e. Neither counts padding
  double micro_batch = 0, sequence = 0, global = 0, global_running = 0, z = 0;  // T * L summed over the sets, without `weight`
  double margin = std::numeric_limits<double>::infinity();                      // the smallest gap of any decision
};

/// One evaluation; the way to it is run_oracle.
class oracle_run {
 public:
  oracle_run(const oracle_options& options, const oracle_weights& weights, view<const double> input)
      : o(options), m(options.model), bias(weights.bias), tokens(input.extent(0)), x(planted(input)), router(planted(weights.router)),
        gate(planted(weights.gate)), up(planted(weights.up)), down(planted(weights.down)), shared_gate(planted(weights.shared_gate)),
        shared_up(planted(weights.shared_up)), shared_down(planted(weights.shared_down)), shared_switch(planted(weights.shared_switch)) {
    check(m);
    const auto fits = [](std::size_t size, extent_t full) { return size == 0 || extent_t(size) == full; };
    require(input.rank() == 2 && input.extent(1) == m.hidden && o.batch > 0 && tokens % o.batch == 0 && fits(bias.size(), m.experts) &&
                fits(o.previous_share.size(), m.experts) && fits(o.running_share.size(), m.experts) && fits(o.padding.size(), tokens) &&
                fits(o.forced.size(), tokens * m.top_k) && fits(o.jitter.size(), tokens * m.hidden),
            "moefold: the oracle's options do not fit ", tokens, " tokens of this model; compare the shapes in oracle_options");
  }

  oracle_result operator()(view<const double> dy) {
    require(dy.shape() == x.shape(), "moefold: dy has ", dy.size(), " elements and x ", x.size(), "; both are [tokens, H]");
    r.load.assign(std::size_t(m.experts), 0);
    r.aux_count = r.load;
    for (extent_t t = 0; t < tokens; ++t) route(t);
    drop();
    var scalar = o.weight * losses();
    r.y = tensor<double>(x.shape());
    for (extent_t t = 0; t < tokens; ++t) {
      const std::vector<var> y = output(t);
      for (extent_t h = 0; h < m.hidden; ++h) {
        r.y.view()(t, h) = y[std::size_t(h)].value();
        scalar += dy(t, h) * y[std::size_t(h)];
      }
    }
    variables.backward(scalar);
    r.dx = slope(x), r.drouter = slope(router), r.dgate = slope(gate), r.dup = slope(up), r.ddown = slope(down);
    r.dshared_gate = slope(shared_gate), r.dshared_up = slope(shared_up), r.dshared_down = slope(shared_down);
    r.dshared_switch = slope(shared_switch);
    return std::move(r);
  }

 private:
  using numbers = std::vector<std::int32_t>;  // of experts, groups, tokens or (token, slot) pairs

  tensor<var> planted(view<const double> values) {
    tensor<var> out(values.shape());
    std::transform(values.begin(), values.end(), out.begin(), [&](double value) { return variables.leaf(value); });
    return out;
  }
  tensor<double> slope(const tensor<var>& at) const {
    tensor<double> out(at.shape());
    std::transform(at.begin(), at.end(), out.begin(), [&](const var& v) { return variables.gradient(v); });
    return out;
  }

  static numbers count_to(extent_t end) {
    numbers out((std::size_t(end)));
    std::iota(out.begin(), out.end(), 0);
    return out;
  }
  /// The `count` of ascending `candidates` with the largest score, best first, ties to the lowest. gap shrinks to the step at the cut.
  static numbers best(extent_t count, numbers candidates, const std::vector<double>& score, double& gap) {
    const auto of = [&](std::int32_t i) { return score[std::size_t(i)]; };
    std::stable_sort(candidates.begin(), candidates.end(), [&](std::int32_t a, std::int32_t b) { return of(a) > of(b); });
    const auto cut = std::size_t(count);
    if (cut >= candidates.size()) return candidates;
    gap = std::min(gap, of(candidates[cut - 1]) - of(candidates[cut]));
    candidates.resize(cut);
    return candidates;
  }
  static std::vector<double> values(const std::vector<var>& v) {
    std::vector<double> out;
    for (const var& each : v) out.push_back(each.value());
    return out;
  }
  static double largest(const std::vector<var>& v, const numbers& members) {
    double out = -std::numeric_limits<double>::infinity();
    for (const std::int32_t e : members) out = std::max(out, v[std::size_t(e)].value());
    return out;
  }
  static var total(const std::vector<var>& v, const numbers& members) {
    var sum;
    for (const std::int32_t e : members) sum += v[std::size_t(e)];
    return sum;
  }
  /// exp(logit - largest logit of the members); the subtracted number cancels in every use.
  static std::vector<var> powers(const std::vector<var>& logit, const numbers& members) {
    std::vector<var> out;
    const double top = largest(logit, members);
    for (const var& l : logit) out.push_back(exp(l - top));
    return out;
  }
  bool counts(extent_t t) const { return o.padding.empty() || o.padding[std::size_t(t)] == 0; }

  // ---- section 4: the router -------------------------------------------------------------------------------------------------------

  void route(extent_t t) {
    const bool is_sigmoid = m.score == score_function::sigmoid;
    const numbers all = count_to(m.experts);
    std::vector<var> logit, seen;
    for (extent_t h = 0; h < m.hidden; ++h)
      seen.push_back(o.jitter.empty() ? x.view()(t, h) : o.jitter[std::size_t(t * m.hidden + h)] * x.view()(t, h));
    for (extent_t e = 0; e < m.experts; ++e) {
      var& sum = logit.emplace_back();
      for (extent_t h = 0; h < m.hidden; ++h) sum += router.view()(e, h) * seen[std::size_t(h)];
    }
    std::vector<var> s = powers(logit, all);
    log_sum.push_back(largest(logit, all) + log(total(s, all)));
    if (is_sigmoid) std::transform(logit.begin(), logit.end(), s.begin(), [](var l) { return sigmoid(l); });
    const var sum = total(s, all);  // s / sum: the aux score, softmax over all or sigmoid normalised over all
    for (const var& each : s) aux.push_back(each / sum);

    const std::vector<double> plain = values(is_sigmoid ? s : logit);
    double unused = 0;
    for (const std::int32_t e : best(m.top_k, all, plain, counts(t) && o.balance.any_load() ? r.margin : unused)) {
      aux_chosen.push_back(e);
      if (counts(t)) ++r.aux_count[std::size_t(e)];
    }
    std::vector<double> choosing = plain;
    for (std::size_t e = 0; is_sigmoid && e < bias.size(); ++e) choosing[e] += bias[e];
    const auto first = o.forced.begin() + std::ptrdiff_t(o.forced.empty() ? 0 : t * m.top_k);
    const numbers chosen = o.forced.empty() ? choose(choosing) : numbers(first, first + std::ptrdiff_t(m.top_k));

    var base = 1.0;  // p = s / base
    if (m.score == score_function::softmax_after) s = powers(logit, chosen), base = total(s, chosen);
    if (m.score == score_function::softmax_before) base = sum;
    if (is_sigmoid && m.top_k > 1) base = total(s, chosen) + 1e-20;
    for (const std::int32_t e : chosen) {
      require(e >= 0 && e < m.experts, "moefold: a forced choice of expert ", e, " of ", m.experts);
      p.push_back(m.weight_scale * (s[std::size_t(e)] / base));
      r.expert.push_back(e);
      if (counts(t)) ++r.load[std::size_t(e)];
    }
  }

  /// The top k of the best g groups; a group counts as much as its best k / g experts together.
  numbers choose(const std::vector<double>& score) {
    const extent_t size = m.experts / m.expert_groups;
    const auto group = [&](extent_t q) {
      numbers members = count_to(size);
      for (std::int32_t& e : members) e += std::int32_t(q * size);
      return members;
    };
    std::vector<double> group_score;
    double unused = 0;
    for (extent_t q = 0; q < m.expert_groups; ++q) {
      double& sum = group_score.emplace_back(0.0);
      for (const std::int32_t e : best(m.top_k / m.chosen_groups, group(q), score, unused)) sum += score[std::size_t(e)];
    }
    numbers candidates;
    for (const std::int32_t q : best(m.chosen_groups, count_to(m.expert_groups), group_score, r.margin))
      for (const std::int32_t e : group(q)) candidates.push_back(e);
    std::sort(candidates.begin(), candidates.end());
    return best(m.top_k, candidates, score, r.margin);
  }

  // ---- section 4: balance losses, each as T * L summed over its sets ---------------------------------------------------------------

  /// Tokens that are not padding, of the whole micro-batch or of one sequence of it.
  std::vector<extent_t> counted(extent_t first, extent_t step) const {
    std::vector<extent_t> out;
    for (extent_t t = first; t < tokens; t += step)
      if (counts(t)) out.push_back(t);
    return out;
  }
  /// f_e = N_e / T.
  std::vector<double> share(const std::vector<extent_t>& set) const {
    std::vector<double> f(std::size_t(m.experts), 0.0);
    for (const extent_t t : set)
      for (extent_t s = 0; s < m.top_k; ++s) f[std::size_t(aux_chosen[std::size_t(t * m.top_k + s)])] += 1 / double(set.size());
    return f;
  }
  /// T * L = c * E / k * sum over e of f_e * P_e
  var load_loss(double c, const std::vector<extent_t>& set, const std::vector<double>& f) const {
    var sum;
    for (extent_t e = 0; e < m.experts; ++e) {
      var P;
      for (const extent_t t : set) P += aux[std::size_t(t * m.experts + e)];
      sum += f[std::size_t(e)] * P;
    }
    return c * double(m.experts) / double(m.top_k) * sum;
  }
  var losses() {
    const balance_losses& c = o.balance;
    const std::vector<extent_t> set = counted(0, 1);
    const std::vector<double> even(std::size_t(m.experts), double(m.top_k) / double(m.experts));
    var sequence, z;
    if (c.sequence > 0)
      for (extent_t b = 0; b < o.batch; ++b) sequence += load_loss(c.sequence, counted(b, o.batch), share(counted(b, o.batch)));
    if (c.z > 0)
      for (const extent_t t : set) z += c.z * log_sum[std::size_t(t)] * log_sum[std::size_t(t)];
    const auto load = [&](double coefficient, const std::vector<double>& f) {
      return coefficient > 0 ? load_loss(coefficient, set, f) : var();
    };
    const var micro_batch = load(c.micro_batch, share(set));
    const var global = load(c.global, o.previous_share.empty() ? even : o.previous_share);
    const var global_running = load(c.global_running, o.running_share.empty() ? share(set) : o.running_share);
    r.micro_batch = micro_batch.value(), r.sequence = sequence.value(), r.global = global.value();
    r.global_running = global_running.value(), r.z = z.value();
    return micro_batch + sequence + global + global_running + z;
  }

  // ---- section 5: capacity ---------------------------------------------------------------------------------------------------------

  void drop() {
    r.p = values(p);
    r.kept.assign(p.size(), o.tokens.drops() ? 0 : 1);
    if (!o.tokens.drops()) return;
    std::vector<std::vector<extent_t>> sets = o.drop_sets;
    if (o.tokens.full_sequence || sets.empty()) {
      sets.assign(1, std::vector<extent_t>(std::size_t(tokens)));
      std::iota(sets[0].begin(), sets[0].end(), 0);
    }
    std::vector<int> seen(std::size_t(tokens), 0);
    for (std::vector<extent_t>& set : sets) {
      std::sort(set.begin(), set.end());
      for (const extent_t t : set) ++seen.at(std::size_t(t));
      const extent_t even = o.tokens.percent * extent_t(set.size()) * m.top_k, whole = 100 * m.experts;
      const extent_t capacity = even / whole + (even % whole > 0 ? 1 : 0);
      for (extent_t e = 0; e < m.experts; ++e) {
        numbers pairs;  // that chose e, in token order
        for (const extent_t t : set)
          for (extent_t i = t * m.top_k; i < (t + 1) * m.top_k; ++i)
            if (r.expert[std::size_t(i)] == e) pairs.push_back(std::int32_t(i));
        if (!o.tokens.by_position) pairs = best(capacity, pairs, r.p, r.margin);
        for (std::size_t i = 0; i < pairs.size() && i < std::size_t(capacity); ++i) r.kept[std::size_t(pairs[i])] = 1;
      }
    }
    require(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }),
            "moefold: the oracle's drop_sets must name each of ", tokens, " tokens once");
  }

  // ---- section 6: experts, combine and the shared expert ---------------------------------------------------------------------------

  /// W2 ( silu(W1 x) * (W3 x) * p ), or W2 ( gelu(W1 x) * p ) with W1 = up. gate, up [F, H], down [H, F]; returns [H]
  std::vector<var> ffn(const var* gate_e, const var* up_e, const var* down_e, extent_t width, const var* xt, var weight) const {
    std::vector<var> y(std::size_t(m.hidden));
    for (extent_t f = 0; f < width; ++f) {
      var g, u;
      for (extent_t h = 0; h < m.hidden; ++h) u += up_e[f * m.hidden + h] * xt[h];
      if (m.activation == activation_function::swiglu)
        for (extent_t h = 0; h < m.hidden; ++h) g += gate_e[f * m.hidden + h] * xt[h];
      const var inner = m.activation == activation_function::swiglu ? g * sigmoid(g) * u : 0.5 * u * (1 + erf(u * std::sqrt(0.5)));
      const var row = inner * weight;
      for (extent_t h = 0; h < m.hidden; ++h) y[std::size_t(h)] += down_e[h * width + f] * row;
    }
    return y;
  }
  std::vector<var> output(extent_t t) const {
    const var* const xt = x.data() + t * m.hidden;
    std::vector<var> y(std::size_t(m.hidden));
    const auto add = [&](const std::vector<var>& part, var weight) {
      for (std::size_t h = 0; h < y.size(); ++h) y[h] += weight * part[h];
    };
    for (std::size_t i = std::size_t(t * m.top_k); i < std::size_t((t + 1) * m.top_k); ++i) {
      const extent_t at = r.expert[i] * m.ffn * m.hidden;
      if (r.kept[i] != 0) add(ffn(gate.data() + (gate.size() > 0 ? at : 0), up.data() + at, down.data() + at, m.ffn, xt, p[i]), 1);
    }
    if (m.shared_ffn > 0) {
      var on = 1;
      if (m.shared_gate) {
        var logit;
        for (extent_t h = 0; h < m.hidden; ++h) logit += shared_switch[std::size_t(h)] * xt[h];
        on = sigmoid(logit);
      }
      add(ffn(shared_gate.data(), shared_up.data(), shared_down.data(), m.shared_ffn, xt, 1), on);
    }
    return y;
  }

  tape variables;  // before what is planted in it
  const oracle_options& o;
  const model_shape& m;
  const std::vector<double>& bias;
  const extent_t tokens;
  const tensor<var> x, router, gate, up, down, shared_gate, shared_up, shared_down, shared_switch;
  std::vector<var> aux, log_sum, p;  // [tokens, E], [tokens], [tokens, k]
  numbers aux_chosen;                // [tokens, k]
  oracle_result r;
};

/// x [tokens, H] in token order, dy [tokens, H] -> output, gradients of the scalar, choices, losses.
inline oracle_result run_oracle(const oracle_options& options, const oracle_weights& weights, view<const double> x, view<const double> dy) {
  return oracle_run(options, weights, x)(dy);
}

}  // namespace moefold::test
