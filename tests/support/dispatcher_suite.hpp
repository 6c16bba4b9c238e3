#pragma once
// What every dispatcher must do, once, on thread ranks: a new dispatcher adds one line per element type. Numbers stand for the experts:
// expert e multiplies its rows by weight * c(e), in shares that the etp ranks add up, so that the right result is known in closed form.
//
//   y_t = sum_k p_tk c(e_tk) x_t        dx_t = sum_k p_tk c(e_tk) dy_t        dp_tk = c(e_tk) dy_t . x_t
#include <moefold/comm/thread.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/moe/dispatcher.hpp>
#include <moefold/tensor/tensor.hpp>

#include "close.hpp"
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
  std::function<std::int32_t(int rank, extent_t token, extent_t slot)> expert;  // distinct in the slots of a token
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
      {"all tokens to two neighbours", {4, 7, 3}, [=](int, extent_t, extent_t slot) { return std::int32_t(experts / 2 + slot); }},
  };
}

/// Over ep x etp threads; etp_first: etp varies fastest. Dispatcher: (experts, top_k, ep, etp) -> object.
template <class Dispatcher>
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
    run_threads(int(mesh.ranks()), [&](thread_comm& world) {
      const int rank = world.rank();
      const auto split = [&](axis_set axes) {
        return world.split(int(group_index(mesh, axes, rank)), int(group_of(mesh, axes, rank).index_of(rank)), comm_label(axes.name()));
      };
      thread_comm ep = split(axis_id::ep), etp = split(axis_id::etp);
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

      // Conservation: every (token, slot) stands in the batch of exactly one expert, once for each etp rank.
      const std::int64_t here[2] = {std::int64_t(batch.extent(0)), std::int64_t(n * k * etp_ranks)};
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
          for (extent_t h = 0; h < hidden; ++h) {
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

/// All splits of up to 8 ranks that 8 experts allow.
template <class Dispatcher>
void check_dispatcher() {
  for (const std::pair<int, int>& split : {std::pair{1, 1}, {2, 1}, {4, 1}, {8, 1}, {1, 2}, {2, 2}, {4, 2}, {1, 4}, {2, 4}})
    for (const bool etp_first : {true, false}) {
      if (!etp_first && (split.first == 1 || split.second == 1)) continue;
      CAPTURE(split.first);
      CAPTURE(split.second);
      CAPTURE(etp_first);
      check_dispatcher<Dispatcher>(split.first, split.second, etp_first);
    }
}

}  // namespace moefold::test
