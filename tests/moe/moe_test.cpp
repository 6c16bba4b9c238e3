#include <moefold/moe/moe.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/mesh/slice.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/dense_moe.hpp"
#include "../support/gradient.hpp"
#include "../support/oracle_moe.hpp"

#include <mutex>

using namespace moefold;
using test::dense_moe;
using test::random_tensor;

namespace {

constexpr model_shape model{.layers = 1, .hidden = 6, .experts = 8, .top_k = 2, .ffn = 8};

/// One rank's weights and gradients in memory of its own, cut from the dense layer's by placement.
struct slices {
  std::vector<double> router, gate, up, down, drouter, dgate, dup, ddown;
  shape router_shape, rows_shape, columns_shape;
  box rows, columns;

  slices(const dense_moe& all, const folding_extents& fold, extent_t rank)
      : rows(box_of(value_of<expert_rows>, {all.model.experts, all.model.ffn, all.model.hidden}, fold, rank)),
        columns(box_of(value_of<expert_columns>, {all.model.experts, all.model.hidden, all.model.ffn}, fold, rank)) {
    router.assign(all.router.begin(), all.router.end());
    drouter.assign(router.size(), 0.0);
    const auto cut = [](const tensor<double>& from, const box& b, std::vector<double>& value, std::vector<double>& gradient) {
      for (extent_t i = 0; i < b.size(); ++i) value.push_back(from[std::size_t(b.global_index(i))]);
      gradient.assign(value.size(), 0.0);
    };
    cut(all.gate, rows, gate, dgate);
    cut(all.up, rows, up, dup);
    cut(all.down, columns, down, ddown);
    router_shape = all.router.shape();
    rows_shape = {rows.extent[0], rows.extent[1], rows.extent[2]};
    columns_shape = {columns.extent[0], columns.extent[1], columns.extent[2]};
  }
  moe_weights<fp64> weights() {
    return {{{router.data(), router_shape}, {drouter.data(), router_shape}},
            {{gate.data(), rows_shape}, {dgate.data(), rows_shape}},
            {{up.data(), rows_shape}, {dup.data(), rows_shape}},
            {{down.data(), columns_shape}, {ddown.data(), columns_shape}}};
  }
  /// Largest error of this rank's expert gradients against their slices of the dense ones.
  double error_against(const dense_moe& all) const {
    const auto compare = [](const tensor<double>& dense, const box& b, const std::vector<double>& mine) {
      double most = 0, size = 0;
      for (double g : dense) size = std::max(size, std::abs(g));
      for (std::size_t i = 0; i < mine.size(); ++i)
        most = std::max(most, std::abs(mine[i] - dense[std::size_t(b.global_index(extent_t(i)))]));
      return size > 0 ? most / size : most;
    };
    return std::max({compare(all.dgate, rows, dgate), compare(all.dup, rows, dup), compare(all.ddown, columns, ddown)});
  }
};

struct folded_case {
  const char* name;
  std::vector<extent_t> tokens;      // of each rank, repeated as needed
  std::vector<std::int32_t> forced;  // the experts of every token; empty: the router's own choice
};
const folded_case cases[] = {
    {"the same number of tokens everywhere", {6}, {}},
    {"different numbers of tokens, none on some ranks", {5, 0, 9, 1}, {}},
    {"no tokens at all", {0}, {}},
    {"all tokens to the same two experts of one rank", {4, 0, 3}, {1, 0}},
    {"all tokens to the first expert and the last", {3, 5}, {7, 0}},
};

/// Forward and backward on ep x etp threads against the dense layer: y, dx, and every weight gradient.
void check_folded(extent_t ep_ranks, extent_t etp_ranks, const folded_case& c) {
  const extent_t ranks = ep_ranks * etp_ranks, H = model.hidden;
  const folding_extents fold = make_folding({{axis_id::dp, ranks}}, {{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}});
  dense_moe dense(model);
  std::vector<tensor<double>> x, dy, y, dx;
  for (extent_t r = 0; r < ranks; ++r) {
    const shape own{c.tokens[std::size_t(r) % c.tokens.size()], H};
    x.push_back(random_tensor<double>(own, 20 + std::uint64_t(r)));
    dy.push_back(random_tensor<double>(own, 40 + std::uint64_t(r)));
    y.emplace_back(own), dx.emplace_back(own);
    dense.run(x.back(), dy.back(), y.back(), dx.back(), c.forced);
  }
  std::vector<double> drouter(dense.drouter.size(), 0.0);
  std::mutex guard;
  run_threads(int(ranks), [&](thread_comm& world) {
    const int rank = world.rank();
    const std::size_t r = std::size_t(rank);
    const auto split = [&](axis_id axis) {
      return world.split(int(group_index(fold.moe, axis, rank)), int(group_of(fold.moe, axis, rank).index_of(rank)), name_of(axis));
    };
    thread_comm ep = split(axis_id::ep), etp = split(axis_id::etp);
    slices own(dense, fold, rank);
    const moe_layer<fp64, thread_comm> layer(model, own.weights(), ep, etp);
    host_context context;
    const host_exec e(context);
    arena keep;
    moe_layer<fp64, thread_comm>::saved saved;
    const extent_t n = x[r].extent(0);
    routing_trace trace(1, 1, 1, n, model.top_k);
    const batch_place place{0, 0, 1, {n}};
    for (extent_t t = 0; t < n && !c.forced.empty(); ++t) std::copy(c.forced.begin(), c.forced.end(), trace.at(place, 0, t));
    routing_tap tap{nullptr, c.forced.empty() ? nullptr : &trace, 0};
    tensor<double> out({n, H}, -1.0), din({n, H}, -1.0);
    layer.forward(e, x[r].view(), out.view(), keep, saved, 0, {.place = place, .tap = &tap});
    layer.backward(e, dy[r].view(), din.view(), saved);
    CHECK(test::largest_error(out, y[r]) < 1e-12);
    CHECK(test::largest_error(din, dx[r]) < 1e-12);
    CHECK(own.error_against(dense) < 1e-12);
    CHECK(tap.margin > 1e-9);
    std::scoped_lock lock(guard);
    for (std::size_t i = 0; i < drouter.size(); ++i) drouter[i] += own.drouter[i];
  });
  CHECK(test::largest_error(drouter, dense.drouter) < 1e-12);
}

/// A rank whose all_to_all_v and all_gather_v only begin when they are called, and end when they are waited for.
template <class Base>
struct patient : Base {
  std::vector<std::string>* order;
  patient(Base inner, std::vector<std::string>* log) : Base(std::move(inner)), order(log) {}

  struct ticket {
    std::vector<std::string>* order = nullptr;
    std::string label = {};
    template <class Exec>
    void wait(Exec) const {
      if (order) order->push_back("wait " + label);
    }
  };
  patient split(int colour, int key, comm_label label = {}) { return {Base::split(colour, key, label), order}; }
  template <class... Arguments>
  void fetch_v(Arguments&&...) = delete;
  template <class... Arguments>
  ticket all_to_all_v(Arguments&&... arguments) {
    Base::all_to_all_v(arguments...);
    return begun();
  }
  template <class... A>
  ticket barrier(A&&... a) {
    return Base::barrier(a...), ticket{};
  }
  template <class... A>
  ticket broadcast(A&&... a) {
    return Base::broadcast(a...), ticket{};
  }
  template <class... A>
  ticket reduce(A&&... a) {
    return Base::reduce(a...), ticket{};
  }
  template <class... A>
  ticket all_reduce(A&&... a) {
    return Base::all_reduce(a...), ticket{};
  }
  template <class... A>
  ticket all_gather(A&&... a) {
    return Base::all_gather(a...), ticket{};
  }
  template <class... A>
  ticket all_gather_v(A&&... a) {
    return Base::all_gather_v(a...), begun();
  }
  template <class... A>
  ticket reduce_scatter(A&&... a) {
    return Base::reduce_scatter(a...), ticket{};
  }
  template <class... A>
  ticket reduce_scatter_v(A&&... a) {
    return Base::reduce_scatter_v(a...), ticket{};
  }
  template <class... A>
  ticket all_to_all(A&&... a) {
    return Base::all_to_all(a...), ticket{};
  }
  template <class... A>
  ticket send(A&&... a) {
    return Base::send(a...), ticket{};
  }
  template <class... A>
  ticket recv(A&&... a) {
    return Base::recv(a...), ticket{};
  }

 private:
  ticket begun() {
    order->push_back("begin " + std::string(this->label().view()));
    return {order, std::string(this->label().view())};
  }
};
using patient_comm = patient<self_comm>;
static_assert(communicator<patient_comm> && !fetching<patient_comm>);

/// The AllToAll dispatcher, noting when it does other work in the meantime.
template <class T, class Comm>
struct watched_dispatcher : all_to_all_dispatcher<T, Comm> {
  using base = all_to_all_dispatcher<T, Comm>;
  using base::base;
  template <class Exec, class Arena, class Meanwhile>
  auto dispatch(Exec e, view<const T> x, const routing<T>& choice, Arena& keep, Meanwhile&& meanwhile) const;
  template <class Exec, class Meanwhile>
  void combine_backward(Exec e, view<const T> dy, view<T> out, const typename base::ticket& t, Meanwhile&& meanwhile) const;
};
struct watched : moe_defaults {
  inline static std::vector<std::string>* order = nullptr;
  template <class T, class Comm>
  using dispatcher = watched_dispatcher<T, Comm>;
};
template <class T, class Comm>
template <class Exec, class Arena, class Meanwhile>
auto watched_dispatcher<T, Comm>::dispatch(Exec e, view<const T> x, const routing<T>& choice, Arena& keep, Meanwhile&& meanwhile) const {
  return base::dispatch(e, x, choice, keep, [&] {
    if (watched::order) watched::order->push_back("meanwhile");
    meanwhile();
  });
}
template <class T, class Comm>
template <class Exec, class Meanwhile>
void watched_dispatcher<T, Comm>::combine_backward(Exec e, view<const T> dy, view<T> out, const typename base::ticket& t,
                                                   Meanwhile&& meanwhile) const {
  base::combine_backward(e, dy, out, t, [&] {
    if (watched::order) watched::order->push_back("meanwhile");
    meanwhile();
  });
}

struct surface : moe_defaults {
  static constexpr model_shape model = ::model;
  using precision = fp64;
};

}  // namespace

TEST_SUITE("moe/moe") {
  TEST_CASE("the dense oracle's gradients equal finite differences") {
    dense_moe own(model), probe(model);
    auto x = random_tensor<double>({3, model.hidden}, 20);
    const auto dy = random_tensor<double>({3, model.hidden}, 40);
    tensor<double> y(x.shape()), dx(x.shape()), unused(x.shape());
    own.run(x, dy, y, dx);
    const auto loss = [&] {
      probe.run(x, dy, y, unused);
      return test::dot(y, dy);
    };
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-8);
    CHECK(test::largest_error(own.drouter, test::numerical_gradient(probe.router, loss)) < 1e-8);
    CHECK(test::largest_error(own.dgate, test::numerical_gradient(probe.gate, loss)) < 1e-8);
    CHECK(test::largest_error(own.dup, test::numerical_gradient(probe.up, loss)) < 1e-8);
    CHECK(test::largest_error(own.ddown, test::numerical_gradient(probe.down, loss)) < 1e-8);
  }
  TEST_CASE("on one rank every gradient equals finite differences, and an expert without tokens has gradients of exactly zero") {
    dense_moe probe(model);
    slices own(probe, {}, 0);
    auto x = random_tensor<double>({3, model.hidden}, 20);  // 6 pairs for 8 experts
    const auto dy = random_tensor<double>({3, model.hidden}, 40);
    self_comm ep("ep"), etp("etp");
    host_context context;
    const host_exec e(context);
    arena keep;
    moe_layer<fp64, self_comm>::saved saved;
    tensor<double> y(x.shape()), dx(x.shape());
    const auto forward = [&](slices& s) {
      keep.clear();
      moe_layer<fp64, self_comm>(model, s.weights(), ep, etp).forward(e, x.view(), y.view(), keep, saved);
    };
    forward(own);
    const auto counts = test::copy_of(saved.ticket.counts);
    moe_layer<fp64, self_comm>(model, own.weights(), ep, etp).backward(e, dy.view(), dx.view(), saved);
    slices moved(probe, {}, 0);
    const auto loss = [&] {
      forward(moved);
      return test::dot(y, dy);
    };
    const auto slope = [&](std::vector<double>& value) { return test::numerical_gradient(view<double>(std::span<double>(value)), loss); };
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-8);
    CHECK(test::largest_error(own.drouter, slope(moved.router)) < 1e-8);
    CHECK(test::largest_error(own.dgate, slope(moved.gate)) < 1e-8);
    CHECK(test::largest_error(own.dup, slope(moved.up)) < 1e-8);
    CHECK(test::largest_error(own.ddown, slope(moved.down)) < 1e-8);
    int idle = 0;
    const std::size_t size = own.dgate.size() / std::size_t(model.experts);
    for (extent_t expert = 0; expert < model.experts; ++expert) {
      if (counts[std::size_t(expert)] > 0) continue;
      ++idle;
      for (const auto* gradient : {&own.dgate, &own.dup, &own.ddown})
        CHECK(std::all_of(gradient->begin() + expert * extent_t(size), gradient->begin() + (expert + 1) * extent_t(size),
                          [](double g) { return g == 0; }));
    }
    CHECK(idle >= 2);
  }
  TEST_CASE("every ep x etp equals the dense layer on one rank: y, dx, and all four weight gradients") {
    for (const std::pair<int, int>& split : {std::pair{1, 1}, {2, 1}, {4, 1}, {8, 1}, {1, 2}, {2, 2}, {4, 2}, {1, 4}, {2, 4}})
      for (const folded_case& c : cases) {
        CAPTURE(split.first);
        CAPTURE(split.second);
        CAPTURE(c.name);
        check_folded(split.first, split.second, c);
      }
  }
  TEST_CASE("the shared expert is computed while rows travel: after an exchange has begun and before it is waited for, both ways") {
    model_shape shared = model;
    shared.shared_ffn = 4;
    const test::oracle_weights w(shared, 3);
    std::vector<std::string> order;
    patient_comm ep{self_comm("ep"), &order};
    patient_comm tp{self_comm("tp"), &order}, etp{self_comm("etp"), &order};
    std::vector<double> zeros(1000, 0.0);
    const auto of = [&](const tensor<double>& t, auto placement) {
      return parameter<fp64, decltype(placement)>{t.view(), {zeros.data(), t.shape()}};
    };
    moe_weights<fp64> weights{
        of(w.router, replicated{}), of(w.gate, expert_rows{}), of(w.up, expert_rows{}), of(w.down, expert_columns{}), {}};
    weights.shared = {{of(w.shared_gate, rows_over_tp{})}, {of(w.shared_up, rows_over_tp{})}, {of(w.shared_down, columns_over_tp{})}, {}};
    const moe_layer<fp64, patient_comm, watched> layer(shared, weights, {&ep, &etp, &tp});
    host_context context;
    arena keep;
    moe_layer<fp64, patient_comm, watched>::saved saved;
    const auto x = random_tensor<double>({4, shared.hidden}, 20);
    tensor<double> y(x.shape()), dx(x.shape());
    watched::order = &order;
    layer.forward(host_exec(context), x.view(), y.view(), keep, saved);
    CHECK(order == std::vector<std::string>{"begin ep", "meanwhile", "wait ep", "begin ep", "wait ep"});  // dispatch, combine
    order.clear();
    layer.backward(host_exec(context), x.view(), dx.view(), saved);
    CHECK(order == std::vector<std::string>{"begin ep", "meanwhile", "wait ep", "begin ep", "wait ep"});  // combine, dispatch
  }
  TEST_CASE("activations and router states of the wrong size are refused by name, before anything is read or written") {
    const dense_moe dense(model);
    slices own(dense, {}, 0);
    self_comm one;
    host_context context;
    const host_exec e(context);
    arena keep;
    moe_layer<fp64, self_comm>::saved saved;
    const moe_layer<fp64, self_comm> layer(model, own.weights(), one, one);
    tensor<double> x({4, model.hidden}, 1.0), few({3, model.hidden}), narrow({4, model.hidden - 1}), y(x.shape());
    CHECK_THROWS_WITH_AS(layer.forward(e, x, few.view(), keep, saved), doctest::Contains("moe forward needs y [4, 6]"), error);
    CHECK_THROWS_WITH_AS(layer.forward(e, narrow, y.view(), keep, saved), doctest::Contains("moe forward needs x [4, 6]"), error);
    layer.forward(e, x, y.view(), keep, saved);
    CHECK_THROWS_WITH_AS(layer.backward(e, few, y.view(), saved), doctest::Contains("moe backward needs dy [4, 6]"), error);
    CHECK_THROWS_WITH_AS(layer.backward(e, x, few.view(), saved), doctest::Contains("moe backward needs dx [4, 6]"), error);

    const std::vector<double> four(4, 0.1);
    tensor<std::int64_t> running({2, 4}, 0);
    const auto with = [&](router_state<double> state, const balance_losses& balance) {
      moe_layer<fp64, self_comm>(model, own.weights(), {&one, &one, &one, &one, &one}, state, moe_facts{{}, balance});
    };
    CHECK_THROWS_WITH_AS(with({{}, std::span<const double>(four), {}}, {.global = 1}), doctest::Contains("a share for each of 8 experts"),
                         config_error);
    CHECK_THROWS_WITH_AS(with({}, {.global_running = 1}), doctest::Contains("needs router_state::running [micro-batches of a step, 8]"),
                         config_error);
    CHECK_THROWS_AS(with({{}, {}, running.view()}, {.global_running = 1}), config_error);
    CHECK_THROWS_WITH_AS(with({}, {.z = -1}), doctest::Contains("coefficients of balance losses"), config_error);
  }
  TEST_CASE("so it is with the AllGather dispatcher: once, while the first of its exchanges is under way, both ways") {
    run_threads(4, [](thread_comm& world) {
      const int rank = world.rank();
      std::vector<std::string> order;
      patient<thread_comm> etp{world.split(rank / 2, rank % 2, "etp"), &order}, ep{world.split(rank % 2, rank / 2, "ep"), &order};
      host_context context;
      const host_exec e(context);
      arena keep;
      const auto x = random_tensor<double>({3, 2}, 1);
      tensor<std::int32_t> expert({3, 1}, rank);
      tensor<double> weight({3, 1}, 1.0);
      const auto meanwhile = [&] { order.push_back("meanwhile"); };
      const std::vector<std::string> right{"begin etp", "meanwhile", "wait etp", "begin ep", "wait ep"};
      const all_gather_dispatcher<double, patient<thread_comm>> dispatcher(4, 1, ep, etp);
      const auto ticket = dispatcher.dispatch(e, view<const double>(x), routing<double>{expert, weight}, keep, meanwhile);
      CHECK(order == right);
      order.clear();
      tensor<double> dout(ticket.batch.shape());
      dispatcher.combine_backward(e, view<const double>(x), dout.view(), ticket, meanwhile);
      CHECK(order == right);
    });
  }
  TEST_CASE("gradients of two passes add up") {
    dense_moe dense(model);
    slices own(dense, {}, 0);
    const auto x = random_tensor<double>({4, model.hidden}, 20), dy = random_tensor<double>({4, model.hidden}, 40);
    tensor<double> y(x.shape()), dx(x.shape());
    self_comm ep("ep"), etp("etp");
    host_context context;
    const host_exec e(context);
    const moe_layer<fp64, self_comm> layer(model, own.weights(), ep, etp);
    arena keep[2];
    moe_layer<fp64, self_comm>::saved saved[2];
    for (int i : {0, 1}) layer.forward(e, x.view(), y.view(), keep[i], saved[i]);  // both in flight
    for (int i : {0, 1}) layer.backward(e, dy.view(), dx.view(), saved[i]);
    dense.run(x, dy, y, dx);
    dense.run(x, dy, y, dx);
    CHECK(own.error_against(dense) < 1e-12);
    CHECK(test::largest_error(own.drouter, dense.drouter) < 1e-12);
  }
  TEST_CASE("the typed block works on weights in a std::vector and equals the dense layer") {
    using mesh = moefold::mesh<etp<2>, ep<2>>;
    const folding_extents fold = make_folding({{axis_id::dp, 4}}, extents_of<mesh>());
    dense_moe dense(model);
    tensor<double> x[4], y[4], dx[4];
    for (std::size_t r = 0; r < 4; ++r) {
      x[r] = random_tensor<double>({3, model.hidden}, 20 + r);
      y[r] = tensor<double>(x[r].shape()), dx[r] = tensor<double>(x[r].shape());
      dense.run(x[r], x[r], y[r], dx[r]);
    }
    run_threads(4, [&](thread_comm& world) {
      const std::size_t r = std::size_t(world.rank());
      const group_list ep_groups = groups<mesh, tag::ep>(), etp_groups = groups<mesh, tag::etp>();
      thread_comm ep = world.split(int(ep_groups.index_of(world.rank())), world.rank(), "ep");
      thread_comm etp = world.split(int(etp_groups.index_of(world.rank())), world.rank(), "etp");
      slices own(dense, fold, world.rank());
      const moe<surface, mesh, thread_comm> layer(own.weights(), ep, etp);
      host_context context;
      const host_exec e(context);
      arena keep;
      typename moe<surface, mesh, thread_comm>::base::saved saved;
      tensor<double> out(x[r].shape()), din(x[r].shape());
      layer.forward(e, x[r].view(), out.view(), keep, saved);
      layer.backward(e, x[r].view(), din.view(), saved);
      CHECK(test::largest_error(out, y[r]) < 1e-12);
      CHECK(test::largest_error(din, dx[r]) < 1e-12);
      CHECK(own.error_against(dense) < 1e-12);
    });
  }
  TEST_CASE("the typed block refuses groups that are not those of its mesh, and says which are") {
    const dense_moe dense(model);
    slices own(dense, {}, 0);
    self_comm one("ep");
    using mesh = moefold::mesh<etp<2>, ep<2>>;
    CHECK_THROWS_WITH_AS(
        (moe<surface, mesh, self_comm>(own.weights(), one, one)),
        "moefold: moe on a mesh with ep 2 and etp 2 was given groups of 1 and 1 ranks; split the world by groups<Mesh, tag::ep> and "
        "groups<Mesh, tag::etp>",
        config_error);
    slices quarter(dense, make_folding({{axis_id::dp, 4}}, extents_of<mesh>()), 0);  // what fits the mesh, and not the groups
    CHECK_THROWS_WITH_AS((moe<surface, mesh, self_comm>(quarter.weights(), one, one)), doctest::Contains("was given groups of 1 and 1"),
                         config_error);
  }
  TEST_CASE("each of the four weights is refused by name in a wrong shape, and so is a model that ep or etp does not divide") {
    const dense_moe dense(model);
    slices own(dense, {}, 0);
    self_comm one;
    const auto make = [&](const moe_weights<fp64>& weights) { moe_layer<fp64, self_comm>(model, weights, one, one); };
    moe_weights<fp64> wrong[4] = {own.weights(), own.weights(), own.weights(), own.weights()};
    CHECK_NOTHROW(make(own.weights()));
    wrong[0].router.value = wrong[0].router.value.as({6, 8});
    wrong[1].gate.value = wrong[1].gate.value.as({8, 6, 8});
    wrong[2].up.gradient = wrong[2].up.gradient.rows(0, 7);
    wrong[3].down.value = wrong[3].down.value.as({8, 8, 6});
    CHECK_THROWS_WITH_AS(make(wrong[0]), doctest::Contains("value of moe.router needs shape [8, 6]"), config_error);
    CHECK_THROWS_WITH_AS(make(wrong[1]), doctest::Contains("value of moe.gate needs shape [8, 8, 6]"), config_error);
    CHECK_THROWS_WITH_AS(make(wrong[2]), doctest::Contains("gradient of moe.up needs shape [8, 8, 6] on this rank, given [7, 8, 6]"),
                         config_error);
    CHECK_THROWS_WITH_AS(make(wrong[3]), doctest::Contains("value of moe.down needs shape [8, 6, 8]"), config_error);
    run_threads(3, [&](thread_comm& three) {
      thread_comm alone = three.split(three.rank(), 0);
      const auto on = [&](thread_comm& ep, thread_comm& etp) { moe_layer<fp64, thread_comm>(model, own.weights(), ep, etp); };
      CHECK_THROWS_WITH_AS(on(three, alone), doctest::Contains("the experts must be a multiple of EP"), config_error);
      CHECK_THROWS_WITH_AS(on(alone, three), doctest::Contains("the expert ffn width must be a multiple of ETP"), config_error);
    });
  }
}
