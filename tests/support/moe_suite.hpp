#pragma once
// The whole MoE layer with any dispatcher, on every folding and with every token rule, against the oracle on one rank: the router's gradient first, then
// outputs, dx, expert and shared-expert gradients, loads, dropped pairs and balance losses. Foldings, rules and models are values: a dispatcher
// compiles one layer.
#include <moefold/mesh/group.hpp>
#include <moefold/mesh/slice.hpp>
#include <moefold/moe/moe.hpp>
#include <moefold/tensor/copy.hpp>

#include "close.hpp"
#include "oracle_moe.hpp"
#include "packed_comm.hpp"
#include "random.hpp"

#include <doctest/doctest.h>

#include <cstdio>
#include <map>
#include <mutex>
#include <tuple>

namespace moefold::test {

/// Attention on tp x cp x dp, experts on etp x ep x edp over the same ranks.
struct layout {
  extent_t tp, cp, dp, ep, etp;

  extent_t world() const { return tp * cp * dp; }
  folding_extents fold() const {
    return make_folding({{axis_id::tp, tp}, {axis_id::cp, cp}, {axis_id::dp, dp}},
                        {{axis_id::etp, etp}, {axis_id::ep, ep}, {axis_id::edp, world() / (ep * etp)}});
  }
  std::string name() const { return sentence("tp ", tp, " cp ", cp, " dp ", dp, " | ep ", ep, " etp ", etp); }
};

inline const std::vector<layout>& layouts() {
  static const std::vector<layout> all = {{1, 1, 1, 1, 1}, {2, 1, 1, 2, 1}, {1, 2, 1, 2, 1}, {1, 1, 2, 2, 1}, {2, 1, 1, 1, 2},
                                          {1, 2, 1, 1, 2}, {1, 1, 2, 1, 1}, {2, 2, 1, 4, 1}, {2, 2, 1, 2, 2}, {4, 1, 1, 2, 2},
                                          {1, 4, 1, 4, 1}, {1, 2, 2, 4, 1}, {2, 1, 2, 2, 1}, {1, 2, 2, 1, 4}, {1, 1, 4, 2, 2},
                                          {2, 2, 2, 8, 1}, {2, 2, 2, 4, 2}, {2, 4, 1, 4, 2}, {4, 2, 1, 8, 1}, {1, 4, 2, 4, 1},
                                          {2, 1, 4, 2, 4}, {1, 2, 4, 2, 2}, {8, 1, 1, 4, 2}, {2, 2, 2, 1, 2}, {1, 8, 1, 8, 1}};
  return all;
}

struct moe_case {
  model_shape model;
  moe_facts facts;
  std::string name() const { return describe(facts.tokens) + (model.expert_bias ? ", sigmoid, groups, gelu, shared" : ""); }
};

constexpr model_shape plain_moe{.layers = 1, .hidden = 6, .experts = 8, .top_k = 2, .ffn = 8};
constexpr model_shape rich_moe{.layers = 1,
                               .hidden = 6,
                               .experts = 8,
                               .top_k = 2,
                               .ffn = 8,
                               .score = score_function::sigmoid,
                               .weight_scale = 2.5,
                               .expert_groups = 2,
                               .chosen_groups = 1,  // fewer than k: only then do groups forbid what the scores would choose
                               .expert_bias = true,
                               .activation = activation_function::gelu,
                               .shared_ffn = 8,
                               .shared_gate = true};
constexpr balance_losses every_loss{.micro_batch = 0.3, .sequence = 0.2, .global = 0.4, .global_running = 0.5, .z = 0.05};

/// {dropless, capacity 50 / 100 / 125} x {padded or not} x {sub or full sequence}, by position too; and a model with everything else.
inline std::vector<moe_case> moe_cases() {
  std::vector<moe_case> cases{{plain_moe, {{}, every_loss}}};
  for (const extent_t percent : {50, 100, 125})
    for (const bool padded : {false, true})
      for (const bool full : {false, true}) cases.push_back({plain_moe, {{percent, full, false, padded}, every_loss}});
  cases.push_back({plain_moe, {{100, false, true, false}, {}}});
  cases.push_back({plain_moe, {{75, true, true, true}, {}}});
  model_shape shared = plain_moe;
  shared.shared_ffn = 16;
  shared.score = score_function::softmax_before;
  cases.push_back({shared, {{}, {.sequence = 0.2}, 0.1}});
  cases.push_back({rich_moe, {{}, every_loss}});
  cases.push_back({rich_moe, {{100, true, false, true}, every_loss, 0.05}});
  cases.push_back({rich_moe, {{50, false, false, false}, {.z = 0.1}}});
  return cases;
}

/// The tokens of one data-parallel rank's micro-batch, and what the oracle makes of them. Nothing here depends on the folding.
struct moe_problem {
  static constexpr extent_t sequence = 16, batch = 2, tokens = sequence * batch;
  static constexpr double loss_weight = 0.7;
  static constexpr std::uint64_t seed = 77;
  moe_case what;
  oracle_weights weights;
  std::vector<double> previous;  // of `global`

  bool narrow = false;  // inputs and weights are bf16 numbers

  explicit moe_problem(const moe_case& c, bool in_bf16 = false) : what(c), weights(c.model, 5), narrow(in_bf16) {
    for (tensor<double>* w : {&weights.router, &weights.gate, &weights.up, &weights.down, &weights.shared_gate, &weights.shared_up,
                              &weights.shared_down, &weights.shared_switch})
      *w = stored(std::move(*w));
    for (extent_t e = 0; e < c.model.experts; ++e) previous.push_back(0.1 + 0.05 * double(e));
  }
  tensor<double> x(extent_t d) const { return stored(random_tensor<double>({tokens, plain_moe.hidden}, 100 + std::uint64_t(d))); }
  tensor<double> dy(extent_t d) const { return stored(random_tensor<double>({tokens, plain_moe.hidden}, 200 + std::uint64_t(d))); }
  /// Unevenly over positions and data-parallel ranks.
  static std::vector<std::uint8_t> padding(extent_t d) {
    std::vector<std::uint8_t> flags(tokens, 0);
    for (extent_t t = 7; t < tokens; ++t) flags[std::size_t(t)] = t % 5 == d % 5 || t >= tokens - 3 * d;
    return flags;
  }
  batch_place place(extent_t d, const sequence_part& part) const { return {3, d * batch, batch, part}; }

  /// One answer per data-parallel rank of the layout.
  const std::vector<oracle_result>& answers(const layout& l) const {
    const bool by_rank = what.facts.tokens.drops() && !what.facts.tokens.full_sequence;
    const auto key = std::tuple(l.dp, by_rank ? l.tp : 0, by_rank ? l.cp : 0);
    auto known = answers_.find(key);
    if (known != answers_.end()) return known->second;
    std::vector<oracle_result> results;
    std::vector<double> running(std::size_t(what.model.experts), 0.0);
    double chosen = 0;
    for (const bool final : {false, true}) {  // the running loss needs the counts of all data-parallel ranks first
      if (!final && what.facts.balance.global_running == 0) continue;
      for (extent_t d = 0; d < l.dp; ++d) {
        oracle_options o;
        o.model = what.model, o.tokens = what.facts.tokens, o.balance = what.facts.balance, o.previous_share = previous;
        o.weight = loss_weight, o.batch = batch, o.padding = padding(d);
        if (final && chosen > 0)
          for (const double count : running) o.running_share.push_back(double(what.model.top_k) * count / chosen);
        if (what.facts.jitter > 0) o.jitter = jitter(d);
        for (extent_t c = 0; by_rank && c < l.cp; ++c)
          for (extent_t t = 0; t < l.tp; ++t) {
            const batch_place at = place(d, {sequence, l.cp, c, l.tp, t});
            auto& set = o.drop_sets.emplace_back();
            for (extent_t i = 0; i < tokens / (l.cp * l.tp); ++i) set.push_back(at.number(i));
          }
        oracle_result r = run_oracle(o, weights, x(d), dy(d));
        CHECK(r.margin > (narrow ? 2e-6 : 1e-9));  // logits are made in fp32 from the same numbers
        if (final) {
          results.push_back(std::move(r));
        } else {
          for (std::size_t e = 0; e < running.size(); ++e) running[e] += double(r.aux_count[e]), chosen += double(r.aux_count[e]);
        }
      }
    }
    return answers_.emplace(key, std::move(results)).first->second;
  }

 private:
  tensor<double> stored(tensor<double> x) const {
    for (double& v : x)
      if (narrow) v = double(float(bf16(float(v))));
    return x;
  }
  /// The factor of every element, written here once more: a stream of (seed, step, layer), indexed by global token and element.
  std::vector<double> jitter(extent_t d) const {
    const batch_place whole = place(d, {sequence});
    const random_stream draw(seed + 3 * 0x9e3779b97f4a7c15u, hash_of("router.jitter") + 1);
    std::vector<double> factors;
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t h = 0; h < what.model.hidden; ++h) {
        const extent_t token = (whole.first_sample + t % batch) * sequence + t / batch;
        factors.push_back(1 + what.facts.jitter * (2 * draw.uniform(std::uint64_t(token * what.model.hidden + h)) - 1));
      }
    return factors;
  }
  mutable std::map<std::tuple<extent_t, extent_t, extent_t>, std::vector<oracle_result>> answers_;
};

/// One parameter cut by placement into a rank's own memory, and the sum of all ranks' gradients in its global place.
template <class Precision, class Placement>
struct cut_parameter {
  box slice;
  std::vector<typename Precision::storage> value;
  std::vector<typename Precision::reduce> gradient;

  cut_parameter(const tensor<double>& whole, const shape& global, const folding_extents& fold, extent_t rank)
      : slice(box_of(value_of<Placement>, global, fold, rank)) {
    for (extent_t i = 0; whole.size() > 0 && i < slice.size(); ++i) value.emplace_back(whole[std::size_t(slice.global_index(i))]);
    gradient.assign(value.size(), 0);
  }
  parameter<Precision, Placement> get() {
    if (value.empty()) return {};
    return {{value.data(), slice.extent}, {gradient.data(), slice.extent}};
  }
  /// The same in memory of e; fetch() brings its gradient back.
  template <class Exec, class Arena>
  parameter<Precision, Placement> get(Exec e, Arena& memory) {
    if (value.empty()) return {};
    using T = typename Precision::storage;
    using R = typename Precision::reduce;
    const view<T> there = memory.template take<T>(slice.extent);
    accumulated = memory.template take<R>(slice.extent);
    upload(e, get().value, there);
    upload(e, view<const R>(get().gradient), accumulated);
    return {there, accumulated};
  }
  template <class Exec>
  void fetch(Exec e) {
    if (!value.empty()) download(e, view<const typename Precision::reduce>(accumulated), get().gradient);
  }
  view<typename Precision::reduce> accumulated{};
  void add_to(std::vector<double>& sum) const {
    if (value.empty()) return;
    sum.resize(std::size_t(slice.global.size()), 0.0);
    for (extent_t i = 0; i < slice.size(); ++i) sum[std::size_t(slice.global_index(i))] += double(gradient[std::size_t(i)]);
  }
};

struct moe_outcome {
  std::vector<std::vector<double>> y, dx;  // [dp][tokens * H]
  std::map<std::string, std::vector<double>> gradients;
  std::vector<double> load, losses;
  double dropped = 0;
};

inline moe_outcome nothing_yet(const layout& l, const moe_problem& p) {
  const std::vector<double> rows(std::size_t(p.tokens * p.what.model.hidden), 0.0);
  return {std::vector(std::size_t(l.dp), rows),
          std::vector(std::size_t(l.dp), rows),
          {},
          std::vector<double>(std::size_t(p.what.model.experts), 0.0),
          std::vector<double>(balance_kinds, 0.0)};
}

/// A copy of x in memory of e.
template <class Exec, class T>
view<T> copy_on(Exec e, view<const T> x, basic_arena<typename Exec::memory>& memory) {
  const view<T> there = memory.template take<T>(x.shape());
  upload(e, x, there);
  return there;
}
template <class Exec, class T>
tensor<T> copy_from(Exec e, view<T> x) {
  tensor<T> here(x.shape());
  download(e, view<const T>(x), here.view());
  return here;
}

/// What all ranks of the layout together compute, in memory of e. Comm: thread_comm or packed_comm, or of a device.
template <class Precision, class Layer, class Exec, class Comm>
void run_rank(Exec e, Comm& world, const layout& l, const moe_problem& p, moe_outcome& out, std::mutex& guard,
              basic_arena<typename Exec::memory>& keep, bool twice) {
  const model_shape& m = p.what.model;
  const folding_extents fold = l.fold();
  const extent_t rank = world.rank();
  const coordinate at = coordinate_of(fold.attention, rank);
  const auto split = [&](const extents& mesh, axis_set axes) {
    return world.split(int(group_index(mesh, axes, rank)), int(group_of(mesh, axes, rank).index_of(rank)), comm_label(axes.name()));
  };
  Comm ep = split(fold.moe, axis_id::ep), etp = split(fold.moe, axis_id::etp), tp = split(fold.attention, axis_id::tp);
  Comm sequence = split(fold.attention, set_of<tag::tp, tag::cp>), all = split(fold.attention, set_of<tag::tp, tag::cp, tag::dp>);

  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  const oracle_weights& w = p.weights;
  const extent_t E = m.experts, F = m.ffn, H = m.hidden, S = m.shared_ffn;
  cut_parameter<Precision, replicated> router(w.router, {E, H}, fold, rank), output(w.shared_switch, {1, H}, fold, rank);
  cut_parameter<Precision, expert_rows> gate(w.gate, {E, F, H}, fold, rank), up(w.up, {E, F, H}, fold, rank);
  cut_parameter<Precision, expert_columns> down(w.down, {E, H, F}, fold, rank);
  cut_parameter<Precision, rows_over_tp> shared_gate(w.shared_gate, {S, H}, fold, rank), shared_up(w.shared_up, {S, H}, fold, rank);
  cut_parameter<Precision, columns_over_tp> shared_down(w.shared_down, {H, S}, fold, rank);
  basic_arena<typename Exec::memory> inputs;
  const auto there = [&](auto& parameter) { return parameter.get(e, inputs); };
  moe_weights<Precision> weights{
      there(router), there(gate), there(up), there(down), {{there(shared_gate)}, {there(shared_up)}, {there(shared_down)}, there(output)}};

  const tensor<std::int64_t> none({1, E}, 0);
  const std::vector<A> bias(w.bias.begin(), w.bias.end());
  router_state<A> state{{}, copy_on(e, view<const double>(p.previous), inputs), copy_on(e, none.view(), inputs)};
  if (m.expert_bias) state.bias = copy_on(e, view<const A>(std::span<const A>(bias)), inputs);
  const Layer layer(m, weights, {&ep, &etp, &tp, &sequence, &all}, state, p.what.facts);

  const batch_place place = p.place(at[axis_id::dp], sequence_part{p.sequence, l.cp, at[axis_id::cp], l.tp, at[axis_id::tp]});
  const extent_t n = p.tokens / (l.tp * l.cp);
  const auto all_x = p.x(at[axis_id::dp]), all_dy = p.dy(at[axis_id::dp]);
  const std::vector<std::uint8_t> all_padding = p.padding(at[axis_id::dp]);
  tensor<T> own_x({n, H}), own_dy({n, H});
  const tensor<T> unwritten({n, H}, T(-1));
  std::vector<std::uint8_t> padding;
  for (extent_t i = 0; i < n; ++i) {
    padding.push_back(all_padding[std::size_t(place.number(i))]);
    for (extent_t h = 0; h < H; ++h)
      own_x.view()(i, h) = T(all_x.view()(place.number(i), h)), own_dy.view()(i, h) = T(all_dy.view()(place.number(i), h));
  }
  const view<const T> x = copy_on(e, view<const T>(own_x), inputs), dy = copy_on(e, view<const T>(own_dy), inputs);
  const view<T> y = copy_on(e, unwritten.view(), inputs), dx = copy_on(e, unwritten.view(), inputs);
  const view<std::uint8_t> flags = copy_on(e, view<const std::uint8_t>(std::span<const std::uint8_t>(padding)), inputs);
  const routing_context where{.place = place, .padding = flags.span(), .loss_weight = p.loss_weight, .seed = p.seed};
  typename Layer::saved saved;
  keep.clear();
  layer.forward(e, x, y, keep, saved, 1, where);
  if (twice) {  // as recomputation does: the same micro-batch again
    keep.clear();
    layer.forward(e, x, y, keep, saved, 1, where);
  }
  layer.backward(e, dy, dx, saved);
  const tensor<T> own_y = copy_from(e, y), own_dx = copy_from(e, dx);
  const tensor<std::int64_t> load = copy_from(e, saved.router.load), dropped = copy_from(e, saved.dropped);
  const tensor<double> losses = copy_from(e, saved.router.losses);
  router.fetch(e), gate.fetch(e), up.fetch(e), down.fetch(e);
  shared_gate.fetch(e), shared_up.fetch(e), shared_down.fetch(e), output.fetch(e);

  std::scoped_lock lock(guard);
  auto& all_y = out.y[std::size_t(at[axis_id::dp])];
  auto& all_dx = out.dx[std::size_t(at[axis_id::dp])];
  for (extent_t i = 0; i < n; ++i)
    for (extent_t h = 0; h < H; ++h) {
      all_y[std::size_t(place.number(i) * H + h)] = double(own_y.view()(i, h));
      all_dx[std::size_t(place.number(i) * H + h)] = double(own_dx.view()(i, h));
    }
  router.add_to(out.gradients["router"]), gate.add_to(out.gradients["gate"]), up.add_to(out.gradients["up"]),
      down.add_to(out.gradients["down"]);
  shared_gate.add_to(out.gradients["shared_gate"]), shared_up.add_to(out.gradients["shared_up"]);
  shared_down.add_to(out.gradients["shared_down"]), output.add_to(out.gradients["shared_switch"]);
  for (std::size_t i = 0; i < std::size_t(E); ++i) out.load[i] += double(load[i]);
  for (std::size_t i = 0; i < losses.size(); ++i) out.losses[i] += losses[i];
  for (const std::int64_t pairs : dropped) out.dropped += double(pairs);
}

/// To fp64 rounding elementwise, or, with a limit, by norm.
inline void judge(const moe_outcome& out, const std::vector<oracle_result>& answers, double& worst, double limit = 0) {
  std::map<std::string, std::vector<double>> right;
  std::vector<double> load(out.load.size(), 0.0), losses(balance_kinds, 0.0);
  double dropped = 0;
  const auto add = [](std::vector<double>& sum, const tensor<double>& part) {
    sum.resize(part.size(), 0.0);
    for (std::size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
  };
  for (std::size_t d = 0; d < answers.size(); ++d) {
    const oracle_result& a = answers[d];
    add(right["router"], a.drouter), add(right["gate"], a.dgate), add(right["up"], a.dup), add(right["down"], a.ddown);
    add(right["shared_gate"], a.dshared_gate), add(right["shared_up"], a.dshared_up), add(right["shared_down"], a.dshared_down);
    add(right["shared_switch"], a.dshared_switch);
    for (std::size_t e = 0; e < load.size(); ++e) load[e] += double(a.load[e]);
    const double values[] = {a.micro_batch, a.sequence, a.global, a.global_running, a.z};
    for (std::size_t i = 0; i < balance_kinds; ++i) losses[i] += values[i];
    const auto padding = moe_problem::padding(extent_t(d));
    for (std::size_t i = 0; i < a.kept.size(); ++i) dropped += a.kept[i] == 0 && padding[i / 2] == 0;
  }
  const auto close = [&](const char* what, double error) {
    CAPTURE(what);
    CHECK(error < (limit > 0 ? limit : 1e-12));
    worst = std::max(worst, error);
  };
  const auto error = [&](const auto& a, const auto& b) { return limit > 0 ? norm_error(a, b) : largest_error(a, b); };
  close("router", error(out.gradients.at("router"), right.at("router")));
  for (std::size_t d = 0; d < answers.size(); ++d) {
    close("y", error(out.y[d], answers[d].y));
    close("dx", error(out.dx[d], answers[d].dx));
  }
  for (const auto& entry : out.gradients) close(entry.first.c_str(), error(entry.second, right.at(entry.first)));
  close("losses", error(out.losses, losses));
  CHECK(out.load == load);
  CHECK(out.dropped == dropped);
}

template <template <class, class> class Dispatcher>
struct suite_policy : moe_defaults {
  template <class T, class Comm>
  using dispatcher = Dispatcher<T, Comm>;
};

/// The suite: a dispatcher passes it on every layout with every case.
template <template <class, class> class Dispatcher, class Comm = thread_comm>
void check_moe_layer(const char* name, const std::vector<layout>& where = layouts()) {
  using layer = moe_layer<fp64, Comm, suite_policy<Dispatcher>>;
  std::vector<moe_problem> problems;
  for (const moe_case& c : moe_cases()) problems.emplace_back(c);
  double worst = 0;
  int runs = 0, twins = 0;
  std::map<std::pair<std::size_t, extent_t>, std::vector<std::vector<double>>> whole;  // by case and dp: what a full sequence gave so far
  for (const layout& l : where) {
    CAPTURE(l.name());
    std::vector<moe_outcome> outcomes;
    for (const moe_problem& p : problems) outcomes.push_back(nothing_yet(l, p));
    std::mutex guard;
    run_threads(int(l.world()), [&](thread_comm& threads) {
      Comm world(std::move(threads));
      host_context context;
      arena keep;
      for (std::size_t i = 0; i < problems.size(); ++i)
        run_rank<fp64, layer>(host_exec(context), world, l, problems[i], outcomes[i], guard, keep, i % 3 == 0);
    });
    for (std::size_t i = 0; i < problems.size(); ++i, ++runs) {
      CAPTURE(problems[i].what.name());
      judge(outcomes[i], problems[i].answers(l), worst);
      if (problems[i].what.facts.tokens.full_sequence) {  // the same result in every mapping
        const auto [known, fresh] = whole.try_emplace({i, l.dp}, outcomes[i].y);
        for (std::size_t d = 0; d < known->second.size(); ++d) CHECK(largest_error(outcomes[i].y[d], known->second[d]) < 1e-12);
      }
      for (std::size_t j = 0; j < i; ++j) {  // padded equals unpadded
        moe_case other = problems[j].what;
        if (!problems[i].what.facts.tokens.padded || other.facts.tokens.padded) continue;
        other.facts.tokens.padded = true;
        if (other.facts != problems[i].what.facts || other.model != problems[i].what.model) continue;
        for (std::size_t d = 0; d < outcomes[i].y.size(); ++d) {
          CHECK(largest_error(outcomes[i].y[d], outcomes[j].y[d]) < 1e-12);
          CHECK(largest_error(outcomes[i].dx[d], outcomes[j].dx[d]) < 1e-12);
        }
        ++twins;
      }
    }
  }
  CHECK(twins == 6 * int(where.size()));
  std::printf("%-28s %d layouts x %d cases = %d runs equal the single rank, largest error %.1e\n", name, int(where.size()),
              int(problems.size()), runs, worst);
}

/// The same layer in bf16 on a third of the layouts, on inputs and weights that are bf16 numbers, against the oracle in double. Choices, loads and
/// drops are the oracle's: the router works in fp32. A result has been stored up to 8 times on its way, each time with at most 2^-9 of itself lost,
/// and such errors add up as squares do: 2.8 / 512, here 4 / 512.
template <template <class, class> class Dispatcher, class Comm = thread_comm>
void check_moe_layer_in_bf16(const char* name) {
  using layer = moe_layer<mixed_bf16, Comm, suite_policy<Dispatcher>>;
  std::vector<moe_problem> problems;
  for (const moe_case& c : moe_cases())
    if (c.facts.jitter == 0) problems.emplace_back(c, true);  // jittered rows are stored: their choices may be others
  double worst = 0;
  int runs = 0;
  for (std::size_t at = 0; at < layouts().size(); at += 3) {
    const layout& l = layouts()[at];
    CAPTURE(l.name());
    std::vector<moe_outcome> outcomes;
    for (const moe_problem& p : problems) outcomes.push_back(nothing_yet(l, p));
    std::mutex guard;
    run_threads(int(l.world()), [&](thread_comm& threads) {
      Comm world(std::move(threads));
      host_context context;
      arena keep;
      for (std::size_t i = 0; i < problems.size(); ++i)
        run_rank<mixed_bf16, layer>(host_exec(context), world, l, problems[i], outcomes[i], guard, keep, false);
    });
    for (std::size_t i = 0; i < problems.size(); ++i, ++runs) {
      CAPTURE(problems[i].what.name());
      judge(outcomes[i], problems[i].answers(l), worst, 4.0 / 512);
    }
  }
  std::printf("%-28s %d runs in bf16 equal the single rank in double, largest error %.1e\n", name, runs, worst);
}

}  // namespace moefold::test
