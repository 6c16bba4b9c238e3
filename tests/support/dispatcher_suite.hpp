#pragma once
// What every dispatcher must do, once, on thread ranks: a new dispatcher adds one line, dispatcher_suite<it>(). Alone, numbers stand for the experts:
// expert e multiplies its rows by weight * c(e), in shares that the etp ranks add up, so that the right result is known in closed form. Then inside
// the whole layer, against the oracle (moe_suite.hpp); and with experts and ranks that get nothing.
//
//   y_t = sum_k p_tk c(e_tk) x_t        dx_t = sum_k p_tk c(e_tk) dy_t        dp_tk = c(e_tk) dy_t . x_t        dropped pairs: nothing
#include <moefold/comm/thread.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/tensor/tensor.hpp>

#include "close.hpp"
#include "moe_suite.hpp"
#include "packed_comm.hpp"
#include "random.hpp"

#include <doctest/doctest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace moefold::test {

struct dispatch_case {
  std::string name;
  std::vector<extent_t> tokens;                                                 // of each rank, repeated as needed
  std::function<std::int32_t(int rank, extent_t token, extent_t slot)> expert;  // distinct in the slots of a token; -1: dropped
};

inline std::vector<dispatch_case> dispatch_cases(extent_t experts) {
  const auto scattered = [=](int rank, extent_t t, extent_t slot) { return std::int32_t((5 * rank + 3 * t + t * t + slot) % experts); };
  return {
      {"the same number of tokens everywhere", {6}, scattered},
      {"different numbers of tokens, none on some ranks", {5, 0, 9, 1}, scattered},
      {"one rank has all tokens", {0, 0, 0, 0, 7, 0, 0, 0}, scattered},
      {"no tokens at all", {0}, scattered},
      {"all tokens to the first expert and the last",
       {4, 0, 3},
       [=](int, extent_t, extent_t slot) { return std::int32_t(slot * (experts - 1)); }},
      {"some pairs dropped, both of some tokens",
       {5, 0, 9, 1},
       [=](int rank, extent_t t, extent_t slot) { return (t + slot * slot + rank) % 3 == 0 ? -1 : scattered(rank, t, slot); }},
      {"every pair dropped", {3}, [=](int, extent_t, extent_t) { return -1; }},
      {"all tokens to two neighbours", {4, 7, 3}, [=](int, extent_t, extent_t slot) { return std::int32_t(experts / 2 + slot); }},
  };
}

/// Over ep x etp threads; etp_first: etp varies fastest. Dispatcher: (experts, top_k, ep, etp) -> object.
template <class Dispatcher, class Comm>
void check_dispatcher(extent_t ep_ranks, extent_t etp_ranks, bool etp_first) {
  using T = typename Dispatcher::value_type;
  using A = typename Dispatcher::weight_type;
  constexpr extent_t experts = 8, k = 2, hidden = 3;
  const extents mesh =
      etp_first ? extents{{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}} : extents{{axis_id::ep, ep_ranks}, {axis_id::etp, etp_ranks}};
  const auto factor = [](extent_t expert) { return 1.0 + 0.25 * double(expert); };
  const auto share = [&](extent_t expert, int q) {  // of etp rank q; they add up to factor(expert)
    return q + 1 < etp_ranks ? 0.5 * double(q) + double(expert)
                             : factor(expert) - double(q) * double(expert) - 0.25 * double(q) * double(q - 1);
  };
  for (const dispatch_case& c : dispatch_cases(experts)) {
    CAPTURE(c.name);
    const auto tokens_of = [&](extent_t rank) { return c.tokens[std::size_t(rank) % c.tokens.size()]; };
    run_threads(int(mesh.ranks()), [&](thread_comm& threads) {
      Comm world(std::move(threads));
      const int rank = world.rank();
      const auto split = [&](axis_set axes) {
        return world.split(int(group_index(mesh, axes, rank)), int(group_of(mesh, axes, rank).index_of(rank)), comm_label(axes.name()));
      };
      Comm ep = split(axis_id::ep), etp = split(axis_id::etp);
      const extent_t n = tokens_of(rank), own = experts / ep_ranks, first = ep.rank() * own;
      const auto id = [](extent_t source, extent_t token) { return T(double(100 * source + token)); };
      tensor<T> x({n, hidden}), y({n, hidden}, T(-1)), dx({n, hidden}, T(-1));
      const auto dy = random_tensor<T>({n, hidden}, 3 + std::uint64_t(rank));
      const auto noise = random_tensor<T>({n, hidden}, 90 + std::uint64_t(rank));
      tensor<std::int32_t> expert({n, k});
      tensor<A> weight({n, k}), dchoice({n, k}, A(-1));
      const auto weight_of = [](extent_t source, extent_t token, extent_t slot) {
        return A(0.125) * A(1 + slot) + A(0.01) * A(source) + A(0.001) * A(token);
      };
      for (extent_t t = 0; t < n; ++t) {
        for (extent_t h = 0; h < hidden; ++h) x.view()(t, h) = h == 0 ? id(rank, t) : noise.view()(t, h);
        for (extent_t s = 0; s < k; ++s) expert.view()(t, s) = c.expert(rank, t, s), weight.view()(t, s) = weight_of(rank, t, s);
      }
      host_context context;
      const host_exec e(context);
      arena keep;
      const Dispatcher dispatcher(experts, k, ep, etp);
      const auto ticket = dispatcher.dispatch(e, view<const T>(x), routing<A>{expert.view(), weight.view()}, keep);

      // The batch: exactly the rows that chose my experts, by (expert, ep source, etp source, token), each with its own weight.
      std::vector<T> ids;
      std::vector<A> weights;
      std::vector<std::int64_t> offsets{0};
      for (extent_t local = first; local < first + own; ++local) {
        for (extent_t r = 0; r < ep_ranks; ++r)
          for (extent_t q = 0; q < etp_ranks; ++q) {
            const extent_t source = group_of(mesh, axis_id::etp, group_of(mesh, axis_id::ep, rank)[r])[q];
            for (extent_t t = 0; t < tokens_of(source); ++t)
              for (extent_t s = 0; s < k; ++s)
                if (c.expert(int(source), t, s) == local) ids.push_back(id(source, t)), weights.push_back(weight_of(source, t, s));
          }
        offsets.push_back(std::int64_t(ids.size()));
      }
      const view<const T> batch = ticket.batch;
      REQUIRE(batch.extent(0) == extent_t(ids.size()));
      std::vector<T> seen;
      for (extent_t r = 0; r < batch.extent(0); ++r) seen.push_back(batch(r, 0));
      CHECK(seen == ids);
      CHECK(std::equal(weights.begin(), weights.end(), ticket.weight.begin(), ticket.weight.end()));
      CHECK(std::equal(offsets.begin(), offsets.end(), ticket.offsets.begin(), ticket.offsets.end()));

      // Conservation: every kept (token, slot) stands in the batch of exactly one expert, once for each etp rank.
      const std::int64_t kept = std::count_if(expert.begin(), expert.end(), [](std::int32_t x_) { return x_ >= 0; });
      const std::int64_t here[2] = {std::int64_t(batch.extent(0)), kept * etp_ranks};
      std::int64_t all[2];
      world.all_reduce(e, std::span<const std::int64_t>(here), std::span<std::int64_t>(all), sum{}).wait(e);
      CHECK(all[0] == all[1]);

      tensor<T> out({batch.extent(0), hidden}), dout({batch.extent(0), hidden}), dbatch({batch.extent(0), hidden});
      tensor<A> dweight({batch.extent(0)});
      for (extent_t local = 0; local < own; ++local)
        for (extent_t r = offsets[std::size_t(local)]; r < offsets[std::size_t(local) + 1]; ++r)
          for (extent_t h = 0; h < hidden; ++h)
            out.view()(r, h) = T(double(ticket.weight(r)) * share(first + local, etp.rank())) * batch(r, h);
      dispatcher.combine(e, view<const T>(out), y.view(), ticket);
      dispatcher.combine_backward(e, view<const T>(dy), dout.view(), ticket);
      for (extent_t local = 0; local < own; ++local)
        for (extent_t r = offsets[std::size_t(local)]; r < offsets[std::size_t(local) + 1]; ++r) {
          const T mine = T(share(first + local, etp.rank()));
          dweight.view()(r) = A(0);
          for (extent_t h = 0; h < hidden; ++h) {
            dbatch.view()(r, h) = T(ticket.weight(r)) * mine * dout.view()(r, h);
            dweight.view()(r) += A(mine * dout.view()(r, h) * batch(r, h));
          }
        }
      dispatcher.dispatch_backward(e, view<const T>(dbatch), view<const A>(dweight), dx.view(), dchoice.view(), ticket);

      tensor<double> y_right({n, hidden}, 0.0), dx_right({n, hidden}, 0.0), dchoice_right({n, k}, 0.0);
      for (extent_t t = 0; t < n; ++t)
        for (extent_t s = 0; s < k; ++s)
          for (extent_t h = 0; h < hidden && c.expert(rank, t, s) >= 0; ++h) {
            const double scale = factor(c.expert(rank, t, s));
            y_right.view()(t, h) += double(weight.view()(t, s)) * scale * double(x.view()(t, h));
            dx_right.view()(t, h) += double(weight.view()(t, s)) * scale * double(dy.view()(t, h));
            dchoice_right.view()(t, s) += scale * double(dy.view()(t, h)) * double(x.view()(t, h));
          }
      CHECK(largest_error(y, y_right) < 8 * rounding<T>);
      CHECK(largest_error(dx, dx_right) < 8 * rounding<T>);
      CHECK(largest_error(dchoice, dchoice_right) < 8 * rounding<T>);
    });
  }
}

/// Outputs that do not fit the ticket are refused: peers read this memory, and a dispatcher that only copied would write past its end.
template <template <class, class> class Dispatcher, class Comm>
void check_sizes() {
  run_threads(1, [](thread_comm& threads) {
    Comm world(std::move(threads));
    Comm etp = world.split(0, 0, "etp");
    host_context context;
    const host_exec e(context);
    arena keep;
    tensor<double> x({3, 4}, 1.0), few({2, 4}, 1.0), weight({3, 2}, 0.5), one_weight({2, 2}), rows({6, 4}), five({5, 4}), six({6}, 1.0);
    tensor<std::int32_t> expert({3, 2});
    for (std::int32_t i = 0; i < 6; ++i) expert[std::size_t(i)] = i % 2;
    const Dispatcher<double, Comm> d(2, 2, world, etp);
    const auto t = d.dispatch(e, view<const double>(x), routing<double>{expert.view(), weight.view()}, keep);
    CHECK_THROWS_AS(d.combine(e, view<const double>(rows), few.view(), t), error);
    CHECK_THROWS_AS(d.combine(e, view<const double>(five), x.view(), t), error);
    CHECK_THROWS_AS(d.combine_backward(e, view<const double>(few), rows.view(), t), error);
    CHECK_THROWS_AS(d.combine_backward(e, view<const double>(x), five.view(), t), error);
    CHECK_THROWS_AS(d.dispatch_backward(e, view<const double>(rows), view<const double>(six), few.view(), one_weight.view(), t), error);
    CHECK_THROWS_AS(d.dispatch_backward(e, view<const double>(five), view<const double>(six), x.view(), weight.view(), t), error);
  });
}

/// Padded routing needs the same number of tokens on every rank: else every rank hears of it, and nothing hangs.
template <template <class, class> class Dispatcher, class Comm>
void check_uneven_padding() {
  CHECK_THROWS_AS(run_threads(2,
                              [](thread_comm& threads) {
                                Comm world(std::move(threads));
                                Comm etp = world.split(world.rank(), 0, "etp");
                                host_context context;
                                arena keep;
                                const extent_t n = 2 + world.rank();
                                tensor<double> x({n, 3}, 1.0), weight({n, 1}, 1.0);
                                tensor<std::int32_t> expert({n, 1}, 0);
                                const Dispatcher<double, Comm> dispatcher(2, 1, world, etp);
                                dispatcher.dispatch(host_exec(context), view<const double>(x), routing<double>{expert, weight, n}, keep);
                              }),
                  error);
}

/// All splits of up to 8 ranks that 8 experts allow.
template <class Dispatcher, class Comm>
void check_dispatcher() {
  for (const std::pair<int, int>& split : {std::pair{1, 1}, {2, 1}, {4, 1}, {8, 1}, {1, 2}, {2, 2}, {4, 2}, {1, 4}, {2, 4}})
    for (const bool etp_first : {true, false}) {
      if (!etp_first && (split.first == 1 || split.second == 1)) continue;
      CAPTURE(split.first);
      CAPTURE(split.second);
      CAPTURE(etp_first);
      check_dispatcher<Dispatcher, Comm>(split.first, split.second, etp_first);
    }
}

/// Padded to 3 rows of every expert and source, of which one is a token's: fillers are zeros, with weight and gradient 0, over whatever memory held
/// before.
template <class Dispatcher, class Comm>
void check_fillers(extent_t ep_ranks, extent_t etp_ranks) {
  using T = typename Dispatcher::value_type;
  using A = typename Dispatcher::weight_type;
  constexpr extent_t experts = 8, k = 2, hidden = 3, n = experts / k, rows = 3;
  const extents mesh{{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}};
  run_threads(int(mesh.ranks()), [&](thread_comm& threads) {
    Comm world(std::move(threads));
    const int rank = world.rank();
    const auto split = [&](axis_id axis) {
      return world.split(int(group_index(mesh, axis, rank)), int(group_of(mesh, axis, rank).index_of(rank)), name_of(axis));
    };
    Comm ep = split(axis_id::ep), etp = split(axis_id::etp);
    const auto x = random_tensor<T>({n, hidden}, 1 + std::uint64_t(rank));
    tensor<std::int32_t> expert({n, k});
    tensor<A> weight({n, k}, A(0.5));
    for (extent_t slot = 0; slot < experts; ++slot) expert[std::size_t(slot)] = std::int32_t((slot + rank) % experts);
    host_context context;
    const host_exec e(context);
    arena keep;
    const auto spoil = [](auto& memory) {
      const view<T> all = memory.template take<T>(10'000);
      std::fill(all.begin(), all.end(), std::numeric_limits<T>::quiet_NaN());
    };
    spoil(keep), keep.clear();
    {
      scratch local(e);
      spoil(local);
    }
    const Dispatcher dispatcher(experts, k, ep, etp);
    const auto ticket = dispatcher.dispatch(e, view<const T>(x), routing<A>{expert.view(), weight.view(), rows}, keep);
    const view<const T> batch = ticket.batch;
    REQUIRE(batch.extent(0) == experts * etp_ranks * rows);
    tensor<T> dout(batch.shape(), std::numeric_limits<T>::quiet_NaN());
    dispatcher.combine_backward(e, view<const T>(x), dout.view(), ticket);
    for (extent_t r = 0; r < batch.extent(0); ++r) {
      const bool filler = r % rows > 0;
      CHECK(ticket.weight(r) == (filler ? A(0) : A(0.5)));
      for (extent_t h = 0; h < hidden; ++h) {
        CHECK((batch(r, h) == 0) == filler);
        CHECK((dout.view()(r, h) == 0) == filler);
      }
    }
  });
}

/// Every way to starve some of 8 experts, on ranks that hold different numbers of tokens, one of them none: outputs and gradients are right, and those
/// of starved experts exactly zero; outputs are written over NaN. k = 1, so that one expert may take all. Returns how many of the 255 ways were right.
template <template <class, class> class Dispatcher>
int check_starved(extent_t ep_ranks, extent_t etp_ranks) {
  using layer_type = moe_layer<fp64, thread_comm, suite_policy<Dispatcher>>;
  model_shape model = plain_moe;
  model.top_k = 1, model.score = score_function::softmax_before;
  const extent_t ranks = ep_ranks * etp_ranks, H = model.hidden, E = model.experts, F = model.ffn;
  const folding_extents fold = make_folding({{axis_id::dp, ranks}}, {{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}});
  const oracle_weights weights(model, 9);
  std::vector<extent_t> first{0};
  for (extent_t r = 0; r < ranks; ++r) first.push_back(first.back() + 5 * r % 7);  // rank 0 has none
  const extent_t tokens = first.back();
  const auto x = random_tensor<double>({tokens, H}, 31), dy = random_tensor<double>({tokens, H}, 32);
  struct result {
    std::vector<double> y, dx, router, gate, up, down;
  };
  std::vector<result> results(256);
  const auto alive = [](int subset) {
    std::vector<std::int32_t> fed;
    for (std::int32_t expert = 0; expert < 8; ++expert)
      if (subset >> expert & 1) fed.push_back(expert);
    return fed;
  };
  std::mutex guard;
  run_threads(int(ranks), [&](thread_comm& world) {
    const int rank = world.rank();
    const auto split = [&](axis_id axis) {
      return world.split(int(group_index(fold.moe, axis, rank)), int(group_of(fold.moe, axis, rank).index_of(rank)), name_of(axis));
    };
    thread_comm ep = split(axis_id::ep), etp = split(axis_id::etp);
    const extent_t from = first[std::size_t(rank)], n = first[std::size_t(rank) + 1] - from;
    host_context context;
    const host_exec e(context);
    arena keep;
    for (int subset = 1; subset < 256; ++subset) {
      cut_parameter<fp64, replicated> router(weights.router, {E, H}, fold, rank);
      cut_parameter<fp64, expert_rows> gate(weights.gate, {E, F, H}, fold, rank), up(weights.up, {E, F, H}, fold, rank);
      cut_parameter<fp64, expert_columns> down(weights.down, {E, H, F}, fold, rank);
      const layer_type layer(model, {router.get(), gate.get(), up.get(), down.get()}, ep, etp);
      routing_trace trace(1, 1, 1, n, 1);
      const batch_place place{0, 0, 1, {n}};
      const std::vector<std::int32_t> fed = alive(subset);
      for (extent_t t = 0; t < n; ++t) *trace.at(place, 0, t) = fed[std::size_t(from + t) % fed.size()];
      routing_tap tap{nullptr, &trace, 0};
      tensor<double> y({n, H}, std::nan("")), dx({n, H}, std::nan(""));
      typename layer_type::saved saved;
      keep.clear();
      layer.forward(e, x.view().rows(from, n), y, keep, saved, 0, {.place = place, .tap = &tap});
      layer.backward(e, dy.view().rows(from, n), dx, saved);
      std::scoped_lock lock(guard);
      result& all = results[std::size_t(subset)];
      all.y.resize(std::size_t(tokens * H)), all.dx.resize(std::size_t(tokens * H));
      std::copy(y.begin(), y.end(), all.y.begin() + from * H);
      std::copy(dx.begin(), dx.end(), all.dx.begin() + from * H);
      router.add_to(all.router), gate.add_to(all.gate), up.add_to(all.up), down.add_to(all.down);
    }
  });
  int passed = 0;
  for (int subset = 1; subset < 256; ++subset) {
    CAPTURE(subset);
    oracle_options o;
    o.model = model;
    const std::vector<std::int32_t> fed = alive(subset);
    for (extent_t t = 0; t < tokens; ++t) o.forced.push_back(fed[std::size_t(t) % fed.size()]);
    const oracle_result right = run_oracle(o, weights, x, dy);
    const result& all = results[std::size_t(subset)];
    const double worst =
        std::max({largest_error(all.router, right.drouter), largest_error(all.y, right.y), largest_error(all.dx, right.dx),
                  largest_error(all.gate, right.dgate), largest_error(all.up, right.dup), largest_error(all.down, right.ddown)});
    CHECK(worst < 1e-12);
    bool fine = worst < 1e-12;
    const std::size_t each = std::size_t(F * H);
    for (const auto* gradient : {&all.gate, &all.up, &all.down})
      for (std::size_t expert = 0; expert < 8; ++expert) {
        const bool zero = std::all_of(gradient->begin() + std::ptrdiff_t(expert * each),
                                      gradient->begin() + std::ptrdiff_t((expert + 1) * each), [](double g) { return g == 0; });
        if (subset >> expert & 1) continue;
        CHECK(zero);
        fine = fine && zero;
      }
    passed += fine;
  }
  return passed;
}

/// Everything a dispatcher must do, on ranks that see each other's memory and on ranks that do not.
template <template <class, class> class Dispatcher>
void dispatcher_suite(const char* name) {
  check_dispatcher<Dispatcher<double, thread_comm>, thread_comm>();
  check_dispatcher<Dispatcher<double, packed_comm>, packed_comm>();
  check_dispatcher<Dispatcher<float, thread_comm>, thread_comm>(2, 2, true);
  check_uneven_padding<Dispatcher, thread_comm>();
  check_uneven_padding<Dispatcher, packed_comm>();
  check_sizes<Dispatcher, thread_comm>();
  check_sizes<Dispatcher, packed_comm>();
  for (const std::pair<int, int>& split : {std::pair{1, 1}, {4, 1}, {2, 2}}) {
    check_fillers<Dispatcher<double, thread_comm>, thread_comm>(split.first, split.second);
    check_fillers<Dispatcher<double, packed_comm>, packed_comm>(split.first, split.second);
  }
  if constexpr (std::is_same_v<typename Dispatcher<bf16, thread_comm>::weight_type,
                               float>) {  // one that carries p in T is for fp32 and fp64
    check_moe_layer_in_bf16<Dispatcher>(name);
    check_moe_layer_in_bf16<Dispatcher, packed_comm>(sentence(name, ", packed").c_str());
  }
  check_moe_layer<Dispatcher>(name);
  check_moe_layer<Dispatcher, packed_comm>(sentence(name, ", packed").c_str(),
                                           {{1, 1, 1, 1, 1}, {2, 2, 1, 2, 2}, {2, 2, 2, 4, 2}, {2, 2, 2, 8, 1}});
  const int starved =
      check_starved<Dispatcher>(1, 1) + check_starved<Dispatcher>(4, 1) + check_starved<Dispatcher>(2, 2) + check_starved<Dispatcher>(8, 1);
  CHECK(starved == 1020);
  MESSAGE("F12: ", starved, " of 1020 cases with ", std::string(name), ": every set of starved experts on 4 meshes");
}

}  // namespace moefold::test
