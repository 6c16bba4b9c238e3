#include <moefold/optim/distributed.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

#include <map>
#include <mutex>

using namespace moefold;

namespace {

constexpr model_shape model{.layers = 2, .hidden = 6, .heads = 2, .kv_heads = 2, .head_dim = 2, .experts = 4, .ffn = 5, .vocabulary = 11};

/// A gradient that names its parameter, element, step and replica; the replicas' shares add up to what one rank would have.
double gradient_of(const std::string& name, extent_t global, int step) {
  return random_stream(std::uint64_t(step), name).normal(std::uint64_t(global));
}

using weights = std::map<std::string, std::vector<double>>;

/// Three steps on one folding; returns all weights in global order.
template <class Comm>
void train(Comm& world, const folding_extents& fold, weights& out, std::vector<double>& squares, std::mutex& guard, adamw policy = {}) {
  host_context context;
  const host_exec e(context);
  group_set<Comm> groups(world, fold);
  parameter_store<fp64> store(model, fold, world.rank());
  store.initialise(5);
  distributed_optimizer<fp64, Comm> optimizer(store, groups, policy);
  for (int step = 1; step <= 3; ++step) {
    for (auto& entry : store.entries()) {
      Comm& replicas = groups[entry.fact.placement.replicas()];
      const double share = replicas.size() == 1 ? 1.0
                         : replicas.rank() == 0 ? 4.0 - double(replicas.size())
                         : replicas.rank() == 1 ? -1.0
                                                : 1.0;
      for (extent_t i = 0; i < entry.slice.size(); ++i) {
        const extent_t global = entry.slice.global_index(i);
        entry.gradient[std::size_t(i)] = global < entry.fact.parameters() ? share * gradient_of(entry.fact.name(), global, step) : 0.0;
      }
    }
    const double own = optimizer.reduce(e);
    {
      std::scoped_lock lock(guard);
      squares.resize(3);
      squares[std::size_t(step - 1)] += own;
    }
    optimizer.update(e, step, 0.01 * step, 0.5);
    optimizer.gather(e);
  }
  std::scoped_lock lock(guard);
  for (const auto& entry : store.entries()) {
    auto& all = out[entry.fact.name()];
    all.resize(std::size_t(entry.fact.extent.size()));
    for (extent_t i = 0; i < entry.slice.size(); ++i) all[std::size_t(entry.slice.global_index(i))] = entry.value[std::size_t(i)];
  }
}
void train(const folding_extents& fold, weights& out, std::vector<double>& squares) {
  std::mutex guard;
  run_threads(int(fold.world()), [&](thread_comm& world) { train(world, fold, out, squares, guard); });
}

/// The smallest policy: no state at all.
struct descent {
  static constexpr const char* name = "descent";
  static constexpr std::size_t state_tensors = 0;
  template <class Exec, class M, class G, class V, class T>
  void update(Exec, std::int64_t, double rate, double gradient_scale, bool, std::span<M> master, std::span<const G> gradient,
              const std::array<std::span<V>, 0>&, std::span<T> values) const {
    for (std::size_t i = 0; i < master.size(); ++i) values[i] = T(master[i] - M(rate * gradient_scale * double(gradient[i])));
  }
};
static_assert(optimizer_policy<descent>);

}  // namespace

TEST_SUITE("optim/distributed") {
  TEST_CASE("in every mapping store and optimizer take from the allocator exactly the bytes of the inventory") {
    for (const testing::mapping& m : testing::mappings()) {
      CAPTURE(m.name);
      model_shape shape;  // the default model, as every mapping can cut it
      shape.vocabulary = 50;
      std::mutex guard;
      run_threads(int(m.fold.world()), [&](thread_comm& world) {
        group_set<thread_comm> groups(world, m.fold);
        const extent_t start = extent_t(host_memory::bytes_of_this_thread());
        parameter_store<fp32> store(shape, m.fold, world.rank());
        const extent_t stored = extent_t(host_memory::bytes_of_this_thread());
        const distributed_optimizer<fp32, thread_comm> optimizer(store, groups);
        const extent_t all = extent_t(host_memory::bytes_of_this_thread());
        const parameter_memory table = memory_of_parameters<fp32>(shape, m.fold, stage_of(m.fold, world.rank()));
        std::scoped_lock lock(guard);
        CHECK(stored - start == table.parameters + table.gradients);
        CHECK(all - stored == table.optimizer);
        CHECK(extent_t(optimizer.bytes()) == table.optimizer);
      });
    }
  }
  TEST_CASE("another policy takes AdamW's place, with the state it asks for") {
    self_comm world;
    host_context context;
    const host_exec e(context);
    group_set<self_comm> groups(world, {});
    parameter_store<fp64> store(model, {}, 0), before(model, {}, 0);
    store.initialise(5), before.initialise(5);
    distributed_optimizer<fp64, self_comm, descent> optimizer(store, groups);
    CHECK(optimizer.bytes() == 0);
    CHECK(memory_of_parameters<fp64>(model, {}, 0, int(descent::state_tensors)).optimizer == 0);
    for (auto& flat : store.flats()) std::fill(flat.gradients.begin(), flat.gradients.end(), 2.0);
    optimizer.reduce(e);
    optimizer.update(e, 1, 0.25, 0.5);
    optimizer.gather(e);
    for (std::size_t i = 0; i < store.entries().size(); ++i)
      for (std::size_t j = 0; j < store.entries()[i].value.size(); ++j)
        CHECK(store.entries()[i].value[j] == before.entries()[i].value[j] - 0.25);
  }
  TEST_CASE("one rank is plain AdamW on every parameter, with decay on matrices and none on gains") {
    weights trained;
    std::vector<double> squares;
    std::mutex guard;
    self_comm world;
    train(world, {}, trained, squares, guard);
    parameter_store<fp64> store(model, {}, 0);
    store.initialise(5);
    const adamw p;
    double expected_squares = 0;
    for (const auto& entry : store.entries()) {
      const std::string name = entry.fact.name();
      CAPTURE(name);
      const bool gain = name.find("norm") != std::string::npos;
      double worst = 0;
      for (std::size_t i = 0; i < entry.value.size(); ++i) {
        double w = entry.value[i], m = 0, v = 0;
        for (int t = 1; t <= 3; ++t) {
          const double raw = gradient_of(name, extent_t(i), t), g = 0.5 * raw, rate = 0.01 * t;
          if (t == 1) expected_squares += raw * raw;
          m = p.beta1 * m + (1 - p.beta1) * g, v = p.beta2 * v + (1 - p.beta2) * g * g;
          w = w * (1 - (gain ? 0.0 : rate * p.weight_decay)) -
              rate * (m / (1 - std::pow(p.beta1, t))) / (std::sqrt(v / (1 - std::pow(p.beta2, t))) + p.eps);
        }
        worst = std::max(worst, std::abs(trained.at(name)[i] - w));
      }
      CHECK(worst < 1e-13);
    }
    CHECK(squares[0] == doctest::Approx(expected_squares).epsilon(1e-12));
  }
  TEST_CASE("many ranks give the weights and norms of one, whatever the replica groups, uneven shards included") {
    using enum axis_id;
    weights one;
    std::vector<double> squares;
    train(folding_extents{}, one, squares);
    for (const folding_extents& fold :
         {make_folding({{dp, 2}}, {{edp, 2}}), make_folding({{tp, 2}, {dp, 2}}, {{ep, 2}, {edp, 2}}), make_folding({{dp, 4}}, {{edp, 4}}),
          make_folding({{cp, 2}, {dp, 2}}, {{ep, 4}}), make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 2}, {edp, 2}, {pp, 2}})}) {
      CAPTURE(fold.attention.text());
      weights many;
      std::vector<double> many_squares;
      train(fold, many, many_squares);
      for (int s = 0; s < 3; ++s) CHECK(many_squares[std::size_t(s)] == doctest::Approx(squares[std::size_t(s)]).epsilon(1e-12));
      for (const auto& parameter : one) {
        CAPTURE(parameter.first);
        const std::vector<double>&all = parameter.second, &same = many.at(parameter.first);
        double worst = 0;
        for (std::size_t i = 0; i < all.size(); ++i) worst = std::max(worst, std::abs(same[i] - all[i]));
        CHECK(worst < 1e-11);
      }
    }
  }
  TEST_CASE("the state is sharded: each replica holds an equal part of both moments and no more") {
    const folding_extents fold = make_folding({{axis_id::dp, 4}}, {{axis_id::edp, 4}});
    run_threads(4, [&](thread_comm& world) {
      group_set<thread_comm> groups(world, fold);
      parameter_store<fp64> store(model, fold, world.rank());
      distributed_optimizer<fp64, thread_comm> optimizer(store, groups);
      std::size_t elements = 0;
      for (const auto& flat : store.flats()) elements += std::size_t((flat.fact.elements + 3) / 4);
      CHECK(optimizer.bytes() == elements * 2 * sizeof(double));
    });
  }
  TEST_CASE("a second reduction of the same step's zeros reads zeros: nothing of the last step is left over") {
    self_comm world;
    const folding_extents one{};
    group_set<self_comm> groups(world, one);
    parameter_store<fp64> store(model, one, 0);
    distributed_optimizer<fp64, self_comm> optimizer(store, groups);
    host_context context;
    const host_exec e(context);
    for (auto& entry : store.entries()) std::fill(entry.gradient.begin(), entry.gradient.end(), 1.0);
    CHECK(optimizer.reduce(e) == double(count_parameters(model)));
    store.zero_gradients();
    CHECK(optimizer.reduce(e) == 0.0);
  }
}
