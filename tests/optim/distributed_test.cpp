#include <moefold/optim/distributed.hpp>

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/inventory/traffic.hpp>

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
    for (std::size_t i = 0; i < master.size(); ++i) {
      master[i] = master[i] - M(rate * gradient_scale * double(gradient[i]));
      values[i] = T(master[i]);
    }
  }
};
static_assert(optimizer_policy<descent>);

/// bf16 weights with a master of their own, and moments in either type.
template <class Moments>
struct narrow {
  using storage = bf16;
  using accumulate = float;
  using reduce = float;
  using master = float;
  using moments = Moments;
  static constexpr const char* name = "narrow";
};

/// How the optimizer is driven in one run: which buckets, which overlap, whether the hooks are called, and with which delays.
struct driven {
  extent_t bucket = 0;
  bool overlap = false;
  bool ready = false;   // gradients_ready, layer by layer from the last
  bool before = false;  // gather_begin, then before_layer from the first
  std::chrono::nanoseconds latency{0};
};

/// Four steps with gradients that differ on every rank; every rank's weights after each step, as bits, and its squares.
template <class Precision>
std::map<std::string, std::vector<double>> train_driven(const folding_extents& fold, const driven& how, const model_shape& shape) {
  std::map<std::string, std::vector<double>> out;
  std::mutex guard;
  run_threads(int(fold.world()),
              [&](thread_comm& world) {
                host_context context;
                const host_exec e(context);
                group_set<thread_comm> groups(world, fold);
                parameter_store<Precision> store(shape, fold, world.rank(), how.bucket);
                store.initialise(5);
                distributed_optimizer<Precision, thread_comm> optimizer(store, groups, {}, {.overlap = how.overlap});
                CHECK(optimizer.overlaps() == (how.overlap && fold.world() > 1));
                std::vector<double> mine;
                for (int step = 1; step <= 4; ++step) {
                  store.zero_gradients();
                  for (extent_t layer = shape.layers; layer >= -1; --layer) {
                    bool held = false;
                    for (auto& entry : store.entries())
                      if (entry.layer == layer) {
                        held = true;
                        const random_stream noise(std::uint64_t(step * 100 + world.rank()), entry.fact.name());
                        for (std::size_t i = 0; i < entry.gradient.size(); ++i)
                          entry.gradient[i] = typename Precision::reduce(noise.normal(i));
                      }
                    if (held && how.ready && !(step == 3 && layer == 1)) optimizer.gradients_ready(e, layer);  // one is left for reduce
                  }
                  mine.push_back(optimizer.reduce(e));
                  optimizer.update(e, step, 0.01 * step, 0.5);
                  if (how.before) {
                    optimizer.gather_begin(e);
                    for (extent_t layer = -1; layer <= shape.layers; ++layer) {
                      optimizer.before_layer(e, layer);
                      for (auto& entry : store.entries())
                        if (entry.layer == layer)
                          for (const auto w : entry.value) mine.push_back(double(w));
                    }
                    optimizer.gather_end(e);
                  } else {
                    optimizer.gather(e);
                    for (extent_t layer = -1; layer <= shape.layers; ++layer)
                      for (auto& entry : store.entries())
                        if (entry.layer == layer)
                          for (const auto w : entry.value) mine.push_back(double(w));
                  }
                }
                std::scoped_lock lock(guard);
                out[std::to_string(world.rank())] = mine;
              },
              {.latency = how.latency});
  return out;
}

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
  TEST_CASE("with and without overlap, hooks and buckets of any size the weights are the same, bit for bit") {
    using enum axis_id;
    model_shape deep = model;
    deep.layers = 4;
    for (const folding_extents& fold : {make_folding({{dp, 3}}, {{edp, 3}}), make_folding({{tp, 2}, {cp, 2}}, {{ep, 2}, {edp, 2}}),
                                        make_folding({{dp, 2}, {pp, 2}}, {{ep, 2}, {pp, 2}}), folding_extents{}}) {
      CAPTURE(fold.attention.text());
      const auto reference = train_driven<fp32>(fold, {}, deep);
      const auto compare = [&](const driven& how, bool same_squares) {
        CAPTURE(how.bucket);
        CAPTURE(how.overlap);
        CAPTURE(how.ready);
        const auto found = train_driven<fp32>(fold, how, deep);
        for (const auto& [rank, numbers] : reference) {
          const std::vector<double>& other = found.at(rank);
          REQUIRE(other.size() == numbers.size());
          const std::size_t each = numbers.size() / 4;
          std::size_t different = 0;
          for (std::size_t i = 0; i < numbers.size(); ++i) different += i % each != 0 && numbers[i] != other[i];
          CHECK(different == 0);
          if (same_squares)  // the same shards: the same elements in the same order
            for (std::size_t i = 0; i < 4; ++i) CHECK(numbers[i * each] == other[i * each]);
        }
      };
      for (const extent_t bucket : {extent_t{0}, extent_t{1}, extent_t{150}, extent_t{500}, default_bucket}) {
        const bool one_each = bucket == 0 || bucket == default_bucket;
        compare({bucket, false}, one_each);
        compare({bucket, true}, one_each);
        compare({bucket, true, true}, one_each);
        compare({bucket, true, true, true}, one_each);
      }
      compare({1, true, true, true, std::chrono::microseconds(200)}, false);
    }
  }
  TEST_CASE("what travels is the inventory's table, in calls, messages and bytes, for any bucket size") {
    using enum axis_id;
    for (const folding_extents& fold : {make_folding({{tp, 2}, {dp, 2}}, {{ep, 2}, {edp, 2}}), make_folding({{dp, 4}}, {{edp, 4}}),
                                        make_folding({{dp, 2}, {pp, 2}}, {{edp, 2}, {pp, 2}})})
      for (const extent_t bucket : {extent_t{0}, extent_t{1}, extent_t{200}, default_bucket})
        for (const bool overlap : {false, true})
          run_threads(4, [&](thread_comm& threads) {
            host_context context;
            const host_exec e(context);
            traffic_log log;
            recording<thread_comm> world(std::move(threads), log);
            group_set<recording<thread_comm>> groups(world, fold);
            parameter_store<fp32> store(model, fold, world.rank(), bucket);
            distributed_optimizer<fp32, recording<thread_comm>> optimizer(store, groups, {}, {.overlap = overlap});
            CHECK(extent_t(optimizer.bytes()) ==
                  memory_of_parameters<fp32>(model, fold, stage_of(fold, world.rank()), 2, bucket).optimizer);
            const traffic_log before = log;
            optimizer.reduce(e);
            optimizer.update(e, 1, 0.1, 1);
            optimizer.gather(e);
            const traffic_log step = log - before;
            const activation_shape a{model, fold, 8, 1, moe_facts{}};
            const std::vector<std::int64_t> none(std::size_t(model.experts), 0);
            const auto table = step_traffic<fp32>(
                a, world.rank(), 0, [&](extent_t, extent_t, extent_t) -> std::span<const std::int64_t> { return none; }, bucket);
            std::uint64_t cells = 0;
            for (const traffic_cell& cell : table.cells()) {
              if (cell.op != operation::reduce_scatter && cell.op != operation::all_gather) continue;
              const std::string axis = cell.axis();  // without micro-batches nothing else uses these two
              CAPTURE(axis);
              CHECK(step(comm_label(axis), cell.op) == traffic_count{cell.calls, cell.messages, cell.bytes});
              cells += cell.bytes;
            }
            CHECK(cells > 0);
            CHECK(step.total().bytes == cells);
          });
  }
  TEST_CASE("a layer that is ready twice, or after its buffer was reduced, is refused") {
    CHECK_THROWS_WITH_AS(run_threads(2,
                                     [](thread_comm& world) {
                                       const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
                                       host_context context;
                                       const host_exec e(context);
                                       group_set<thread_comm> groups(world, fold);
                                       parameter_store<fp32> store(model, fold, world.rank());
                                       distributed_optimizer<fp32, thread_comm> optimizer(store, groups);
                                       optimizer.gradients_ready(e, 1);
                                       optimizer.gradients_ready(e, 1);
                                     }),
                         doctest::Contains("came twice for layer 1"), error);
  }
  TEST_CASE("a rank that fails with reductions or gathers in flight ends all ranks at once; nobody reads what it frees") {
    const folding_extents fold = make_folding({{axis_id::dp, 2}, {axis_id::tp, 2}}, {{axis_id::edp, 4}});
    const auto begin = steady::now();
    for (int round = 0; round < 12; ++round)
      CHECK_THROWS_WITH_AS(run_threads(4,
                                       [&](thread_comm& world) {
                                         host_context context;
                                         const host_exec e(context);
                                         group_set<thread_comm> groups(world, fold);
                                         model_shape wide;
                                         wide.layers = 2;
                                         parameter_store<fp32> store(wide, fold, world.rank(), 1);
                                         distributed_optimizer<fp32, thread_comm> optimizer(store, groups);
                                         const bool victim = world.rank() == round % 4;
                                         for (extent_t layer = wide.layers; layer >= -1; --layer) {
                                           if (victim && layer == round % 3 - 1) throw std::runtime_error("disk on fire");
                                           optimizer.gradients_ready(e, layer);
                                         }
                                         optimizer.reduce(e);
                                         optimizer.gather_begin(e);
                                         optimizer.before_layer(e, 0);
                                       }),
                           "disk on fire", std::runtime_error);
    CHECK(std::chrono::duration<double>(steady::now() - begin).count() < 10);
  }
  TEST_CASE("overlap is real: computing while buckets travel hides most of their time") {
    // Five layers of 8 ms each way, a bucket for each and each set of replicas; every operation takes 1 ms. What can be hidden is all but the
    // reduction of the first layer and its gather. Both run in turn, in one process; on a busy machine the best of each counts.
    model_shape deep = model;
    deep.layers = 5;
    const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
    const auto exposed = [&](bool overlap) {
      std::atomic<double> worst{0};
      run_threads(2,
                  [&](thread_comm& world) {
                    host_context context;
                    const host_exec e(context);
                    group_set<thread_comm> groups(world, fold);
                    parameter_store<fp32> store(deep, fold, world.rank(), 1);
                    distributed_optimizer<fp32, thread_comm> optimizer(store, groups, {}, {.overlap = overlap});
                    world.barrier(e);
                    const auto begin = steady::now();
                    const auto compute = [] { std::this_thread::sleep_for(std::chrono::milliseconds(8)); };
                    for (extent_t layer = 5; layer >= -1; --layer) {
                      if (layer >= 0 && layer < 5) compute();
                      optimizer.gradients_ready(e, layer);
                    }
                    optimizer.reduce(e);
                    optimizer.update(e, 1, 0.01, 1);
                    optimizer.gather_begin(e);
                    for (extent_t layer = -1; layer <= 5; ++layer) {
                      optimizer.before_layer(e, layer);
                      if (layer >= 0 && layer < 5) compute();
                    }
                    optimizer.gather_end(e);
                    const double time = std::chrono::duration<double>(steady::now() - begin).count() - 2 * 5 * 0.008;
                    double seen = worst;
                    while (seen < time && !worst.compare_exchange_weak(seen, time)) continue;
                  },
                  {.latency = std::chrono::milliseconds(1)});
      return worst.load();
    };
    double without = 1e9, with = 1e9;
    for (int run = 0; run < 10 && with >= 0.4 * without; ++run)
      without = std::min(without, exposed(false)), with = std::min(with, exposed(true));
    CAPTURE(without);
    CAPTURE(with);
    CHECK(with < 0.4 * without);
  }
  TEST_CASE("bf16 weights follow a master that is the fp32 run's, bit for bit, from the same start and gradients") {
    const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
    run_threads(2, [&](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      group_set<thread_comm> groups(world, fold);
      parameter_store<narrow<float>> bf16_store(model, fold, world.rank(), 200);
      parameter_store<narrow<bf16>> rough_store(model, fold, world.rank(), 200);
      parameter_store<fp32> store(model, fold, world.rank(), 200);
      bf16_store.initialise(5), rough_store.initialise(5), store.initialise(9);
      for (std::size_t i = 0; i < store.entries().size(); ++i)
        std::copy(bf16_store.entries()[i].value.begin(), bf16_store.entries()[i].value.end(), store.entries()[i].value.begin());
      distributed_optimizer<narrow<float>, thread_comm> with_master(bf16_store, groups);
      distributed_optimizer<narrow<bf16>, thread_comm> with_rough_moments(rough_store, groups);
      distributed_optimizer<fp32, thread_comm> plain(store, groups);
      const extent_t stage = 0;
      CHECK(extent_t(with_master.bytes()) == memory_of_parameters<narrow<float>>(model, fold, stage, 2, 200).optimizer);
      CHECK(extent_t(with_rough_moments.bytes()) == memory_of_parameters<narrow<bf16>>(model, fold, stage, 2, 200).optimizer);
      CHECK(with_rough_moments.bytes() * 12 == with_master.bytes() * 8);  // master and two moments
      double worst = 0, moved = 0;
      for (int step = 1; step <= 20; ++step) {
        const auto fill = [&](auto& to) {
          for (auto& entry : to.entries()) {
            const random_stream noise(std::uint64_t(step * 10 + world.rank()), entry.fact.name());
            for (std::size_t i = 0; i < entry.gradient.size(); ++i) entry.gradient[i] = float(0.3 + noise.normal(i));
          }
        };
        fill(bf16_store), fill(rough_store), fill(store);
        CHECK(with_master.reduce(e) == plain.reduce(e));
        with_rough_moments.reduce(e);
        with_master.update(e, step, 1e-4, 0.5), with_rough_moments.update(e, step, 1e-4, 0.5), plain.update(e, step, 1e-4, 0.5);
        with_master.gather(e), with_rough_moments.gather(e), plain.gather(e);
        for (std::size_t b = 0; b < store.flats().size(); ++b) {
          const std::span<const float> master = with_master.own_masters(b), same = plain.own_values(b),
                                       rough = with_rough_moments.own_masters(b);
          bool equal = true, rounded = true;
          for (std::size_t i = 0; i < master.size(); ++i) {
            equal = equal && master[i] == same[i];
            rounded = rounded && with_master.own_values(b)[i].bits == bf16(master[i]).bits;
            worst = std::max(worst, double(std::abs(rough[i] - same[i])));
          }
          CHECK(equal);
          CHECK(rounded);
        }
        for (std::size_t i = 0; i < store.entries().size(); ++i)  // every replica: the gathered weights are the roundings of the fp32 run's
          for (std::size_t j = 0; j < store.entries()[i].value.size(); ++j) {
            const float w = store.entries()[i].value[j];
            moved += bf16_store.entries()[i].value[j].bits == bf16(w).bits ? 0 : 1;
          }
      }
      CHECK(moved == 0);
      CHECK(worst > 0);
      CHECK(worst < 20 * 1e-4 * 0.02);  // 20 steps of at most 1e-4, and bf16 has 8 bits
    });
  }
  TEST_CASE("weights given from outside become the master when it is told, and not before") {
    self_comm world;
    host_context context;
    const host_exec e(context);
    group_set<self_comm> groups(world, {});
    parameter_store<narrow<float>> store(model, {}, 0);
    store.initialise(5);
    distributed_optimizer<narrow<float>, self_comm, descent> optimizer(store, groups);
    const auto step = [&](double rate) {
      for (auto& flat : store.flats()) std::fill(flat.gradients.begin(), flat.gradients.end(), 1.0f);
      optimizer.reduce(e);
      optimizer.update(e, 1, rate, 1.0);
    };
    step(0);  // the first update takes the weights as they are
    CHECK(optimizer.own_masters(0)[0] == float(store.flats()[0].values[0]));
    for (auto& flat : store.flats()) std::fill(flat.values.begin(), flat.values.end(), bf16(3.0f));
    optimizer.initialise_master(e);
    step(1.0 / 1024);  // less than bf16 can show at 3
    for (std::size_t b = 0; b < store.flats().size(); ++b) {
      CHECK(optimizer.own_masters(b)[0] == 3.0f - 1.0f / 1024);
      CHECK(float(store.flats()[b].values[0]) == 3.0f);
    }
    for (int i = 0; i < 100; ++i) step(1.0 / 1024);  // but the master has seen it
    CHECK(float(store.flats()[0].values[0]) < 3.0f);
  }
  TEST_CASE("experts have a learning rate of their own, and nothing else has it") {
    self_comm world;
    host_context context;
    const host_exec e(context);
    group_set<self_comm> groups(world, {});
    model_shape shared = model;
    shared.shared_ffn = 4, shared.shared_gate = true;
    parameter_store<fp64> store(shared, {}, 0), before(shared, {}, 0);
    store.initialise(5), before.initialise(5);
    distributed_optimizer<fp64, self_comm, descent> optimizer(store, groups);
    for (auto& flat : store.flats()) std::fill(flat.gradients.begin(), flat.gradients.end(), 1.0);
    optimizer.reduce(e);
    optimizer.update(e, 1, {0.5, 0.25}, 1.0);
    for (std::size_t i = 0; i < store.entries().size(); ++i) {
      const std::string name = store.entries()[i].fact.name();
      CAPTURE(name);
      const bool expert = name.ends_with("moe.gate") || name.ends_with("moe.up") || name.ends_with("moe.down");
      bool right = true;
      for (std::size_t j = 0; j < store.entries()[i].value.size(); ++j)
        right = right && store.entries()[i].value[j] == before.entries()[i].value[j] - (expert ? 0.25 : 0.5);
      CHECK(right);
    }
  }
  TEST_CASE("a bad number in any parameter's gradient on any rank is named, with or without overlap, and no state changes before update") {
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 2}, {axis_id::edp, 2}});
    for (const bool overlap : {false, true})
      run_threads(4, [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        group_set<thread_comm> groups(world, fold);
        parameter_store<fp32> store(model, fold, world.rank(), 100);
        store.initialise(5);
        distributed_optimizer<fp32, thread_comm> optimizer(store, groups, {}, {overlap, bad_gradients::find});
        const auto fill = [&] {
          for (auto& flat : store.flats())
            for (std::size_t i = 0; i < flat.gradients.size(); ++i) flat.gradients[i] = i < std::size_t(flat.fact.elements) ? 1.0f : 0.0f;
        };
        const auto bytes = [&] {
          std::vector<float> all;
          for (std::size_t b = 0; b < store.flats().size(); ++b) {
            for (std::size_t i = 0; i < 2; ++i) all.insert(all.end(), optimizer.own_state(b, i).begin(), optimizer.own_state(b, i).end());
            all.insert(all.end(), store.flats()[b].values.begin(), store.flats()[b].values.end());
          }
          return all;
        };
        fill();
        optimizer.reduce(e);
        CHECK_FALSE(optimizer.first_bad().has_value());
        optimizer.update(e, 1, 0.1, 1);
        optimizer.gather(e);
        const std::vector<float> state = bytes();
        const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()};
        for (std::size_t i = 0; i < store.entries().size(); ++i) {
          const int rank = int(i) % 4;
          auto& entry = store.entries()[i];
          const std::size_t at = i % entry.gradient.size();
          fill();
          if (world.rank() == rank) entry.gradient[at] = bad[i % 3];
          for (extent_t layer = model.layers; layer >= -1; --layer) optimizer.gradients_ready(e, layer);
          const double squares = optimizer.reduce(e);
          const auto found = optimizer.first_bad();
          CHECK(found.has_value() == (world.rank() == rank));
          if (found) {
            CHECK(found->parameter == entry.fact.name());
            CHECK(found->entry == i);
            CHECK(found->index == extent_t(at));
            CHECK(std::memcmp(&bad[i % 3], std::array<float, 1>{float(found->value)}.data(), 4) == 0);
            CHECK(found->count == 1);
          }
          double all = squares;
          world.all_reduce(e, std::span<const double>(&squares, 1), std::span(&all, 1), sum{}).wait(e);
          CHECK_FALSE(is_finite(all));
        }
        CHECK(bytes() == state);
      });
  }
  TEST_CASE("of several bad parameters the first in the store's order is named, whichever is reduced first, and all elements are counted") {
    const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
    for (const bool overlap : {false, true})
      run_threads(2, [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        group_set<thread_comm> groups(world, fold);
        parameter_store<fp64> store(model, fold, world.rank(), 1);
        distributed_optimizer<fp64, thread_comm> optimizer(store, groups, {}, {overlap, bad_gradients::find});
        const std::size_t last = store.entries().size() - 1;
        store.entries()[last].gradient[0] = std::numeric_limits<double>::infinity();
        store.entries()[3].gradient[5] = std::numeric_limits<double>::quiet_NaN();
        store.entries()[3].gradient[7] = std::numeric_limits<double>::quiet_NaN();
        store.entries()[8].gradient[0] = std::numeric_limits<double>::infinity();
        optimizer.reduce(e);
        REQUIRE(optimizer.first_bad().has_value());
        CHECK(optimizer.first_bad()->entry == 3);
        CHECK(optimizer.first_bad()->index == 5);
        CHECK(optimizer.first_bad()->count == 4);
        store.zero_gradients();
        optimizer.reduce(e);
        CHECK_FALSE(optimizer.first_bad().has_value());
      });
  }
  TEST_CASE("zeroed: the result is that of a run whose bad elements are 0") {
    const folding_extents fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
    std::map<bool, std::vector<float>> results;
    std::mutex guard;
    for (const bool planted : {false, true})
      run_threads(2, [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        group_set<thread_comm> groups(world, fold);
        parameter_store<fp32> store(model, fold, world.rank(), 100);
        store.initialise(5);
        distributed_optimizer<fp32, thread_comm> optimizer(store, groups, {}, {true, bad_gradients::zero});
        for (auto& entry : store.entries()) {
          const random_stream noise(std::uint64_t(world.rank()), entry.fact.name());
          for (std::size_t i = 0; i < entry.gradient.size(); ++i) entry.gradient[i] = float(noise.normal(i));
          if (world.rank() == 1) entry.gradient[2] = planted ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
        }
        for (extent_t layer = model.layers; layer >= -1; --layer) optimizer.gradients_ready(e, layer);
        optimizer.reduce(e);
        CHECK(optimizer.first_bad().has_value() == (planted && world.rank() == 1));
        if (optimizer.first_bad()) CHECK(optimizer.first_bad()->count == extent_t(store.entries().size()));
        optimizer.update(e, 1, 0.1, 1);
        optimizer.gather(e);
        std::scoped_lock lock(guard);
        if (world.rank() == 0)
          for (const auto& flat : store.flats()) results[planted].insert(results[planted].end(), flat.values.begin(), flat.values.end());
      });
    CHECK(results[true] == results[false]);
  }
}
