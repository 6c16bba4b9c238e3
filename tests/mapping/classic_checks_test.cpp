// The classic checks of gradient sums on every mapping: from a rank's own gradients to the reduced ones that the optimizer reads. Expected
// sums are made here, by comparing the coordinates of all ranks along axes written out by hand; the library's groups are not asked.
#include "../support/mappings.hpp"

#include <moefold/comm/thread.hpp>
#include <moefold/optim/distributed.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <mutex>

using namespace moefold;
using namespace moefold::testing;

namespace {

constexpr model_shape model{.layers = 5, .hidden = 8, .heads = 4, .kv_heads = 4, .head_dim = 2, .experts = 8, .ffn = 12, .vocabulary = 50};

/// Over which axes gradients of this kind are summed.
axis_set replica_axes(parameter_kind kind) {
  using enum parameter_kind;
  switch (kind) {
    case attention_norm:
    case moe_norm:
    case final_norm:
    case router: return {axis_id::tp, axis_id::cp, axis_id::dp};
    case gate:
    case up:
    case down: return axis_id::edp;
    default: return {axis_id::cp, axis_id::dp};
  }
}
bool is_expert(parameter_kind kind) { return replica_axes(kind) == axis_set(axis_id::edp); }

/// The ranks that hold the same slice of a parameter as `rank`: all coordinates but those along `axes` are equal.
std::vector<extent_t> replicas_of(const extents& mesh, axis_set axes, extent_t rank) {
  std::vector<extent_t> same;
  for (extent_t other = 0; other < mesh.ranks(); ++other) {
    const coordinate a = coordinate_of(mesh, rank), b = coordinate_of(mesh, other);
    bool replica = true;
    for (int i = 0; i < axis_count; ++i) replica = replica && (axes.contains(axis_id(i)) || a[axis_id(i)] == b[axis_id(i)]);
    if (replica) same.push_back(other);
  }
  return same;
}
const extents& mesh_of(const folding_extents& fold, parameter_kind kind) { return is_expert(kind) ? fold.moe : fold.attention; }

/// A world in which one set of axes is split wrongly: the communicator called `label` lies over the axes `group` of `mesh`.
struct sabotage {
  comm_label label;
  extents mesh;
  axis_set group;
};
struct faulty_comm {
  using ticket = thread_comm::ticket;
  thread_comm inner;
  sabotage plan;

  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  faulty_comm split(int colour, int key, comm_label label = {}) {
    if (!label.empty() && label == plan.label) {
      colour = int(group_index(plan.mesh, plan.group, rank()));
      key = int(group_of(plan.mesh, plan.group, rank()).index_of(rank()));
    }
    return {inner.split(colour, key, label), {}};
  }
  template <class... Arguments>
  auto reduce_scatter(Arguments&&... arguments) {
    return inner.reduce_scatter(std::forward<Arguments>(arguments)...);
  }
  template <class... Arguments>
  auto all_gather(Arguments&&... arguments) {
    return inner.all_gather(std::forward<Arguments>(arguments)...);
  }
};

struct checks {
  double squares = 0;       // check a: sum of squares over all ranks of reduced gradients that should all be 1
  extent_t wrong_sums = 0;  // check b: reduced elements that are not the sum of 2^r over their replicas
  extent_t missing = 0;     // elements that no rank owns after the reduction, or more than one
};

/// Both checks on one folding, with the distributed optimizer's own reduction.
checks run_checks(const folding_extents& fold, const sabotage& plan = {}) {
  checks result;
  std::mutex guard;
  std::map<std::string, std::vector<int>> owners;
  run_threads(int(fold.world()), [&](thread_comm& world_threads) {
    faulty_comm world{std::move(world_threads), plan};
    const int rank = world.rank();
    host_context context;
    const host_exec e(context);
    group_set<faulty_comm> groups(world, fold);
    parameter_store<fp64> store(model, fold, rank);
    for (auto& flat : store.flats()) {  // buffers as large as the groups that were split, right or wrong
      flat.fact.replicas = groups[flat.fact.placement.replicas()].size();
      flat.gradients = tensor<double>({flat.fact.padded()}, 0.0);
      flat.values = tensor<double>({flat.fact.padded()}, 0.0);
    }
    distributed_optimizer<fp64, faulty_comm> optimizer(store, groups);
    const auto fill = [&](auto&& value) {
      for (const auto& entry : store.entries())
        for (extent_t i = 0; i < entry.slice.size(); ++i)
          store.flats()[std::size_t(entry.buffer)].gradients[std::size_t(entry.offset + i)] = value(entry, i);
    };

    fill([&](const auto& entry, extent_t i) {
      const std::size_t replicas = replicas_of(mesh_of(fold, entry.fact.kind), replica_axes(entry.fact.kind), rank).size();
      return entry.slice.global_index(i) < entry.fact.parameters() ? 1.0 / double(replicas) : 0.0;
    });
    const double squares = optimizer.reduce(e);

    fill([&](const auto&, extent_t) { return double(1 << rank); });
    for (auto& flat : store.flats())
      for (extent_t i = flat.fact.elements; i < flat.fact.padded(); ++i) flat.gradients[std::size_t(i)] = 0;
    optimizer.reduce(e);
    std::scoped_lock lock(guard);
    result.squares += squares;
    for (const auto& entry : store.entries()) {
      const auto& flat = store.flats()[std::size_t(entry.buffer)];
      const auto own = optimizer.own_gradients(std::size_t(entry.buffer));
      const extent_t first = own.data() - flat.gradients.data();
      double right = 0;
      for (const extent_t r : replicas_of(mesh_of(fold, entry.fact.kind), replica_axes(entry.fact.kind), rank)) right += double(1 << r);
      auto& seen = owners[entry.fact.name()];
      seen.resize(std::size_t(entry.fact.extent.size()));
      for (extent_t i = 0; i < entry.slice.size(); ++i) {
        const extent_t at = entry.offset + i - first;
        if (at < 0 || at >= extent_t(own.size())) continue;
        ++seen[std::size_t(entry.slice.global_index(i))];
        result.wrong_sums += own[std::size_t(at)] != right;
      }
    }
  });
  for (const auto& [name, seen] : owners) result.missing += std::count_if(seen.begin(), seen.end(), [](int ranks) { return ranks != 1; });
  return result;
}

}  // namespace

TEST_SUITE("mapping/classic_checks") {
  TEST_CASE("gradients that are all 1 have a norm of exactly the square root of the number of parameters, in every mapping") {
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      CHECK(run_checks(m.fold).squares == double(count_parameters(model)));
    }
  }
  TEST_CASE("gradients of 2^rank become the sum over exactly the replicas, each element on exactly one rank, in every mapping") {
    for (const mapping& m : mappings()) {
      CAPTURE(m.name);
      const checks result = run_checks(m.fold);
      CHECK(result.wrong_sums == 0);
      CHECK(result.missing == 0);
    }
  }
  TEST_CASE("leaving any one axis out of any one replica group is seen by both checks, in every mapping") {
    int tried = 0;
    for (const mapping& m : mappings())
      for (const parameter_kind kind : {parameter_kind::query, parameter_kind::router, parameter_kind::gate}) {
        const extents& mesh = mesh_of(m.fold, kind);
        const axis_set right = replica_axes(kind);
        for (int i = 0; i < axis_count; ++i) {
          const axis_id axis = axis_id(i);
          if (!right.contains(axis) || mesh.of(axis) == 1) continue;
          CAPTURE(m.name);
          CAPTURE(name_of(kind));
          CAPTURE(name_of(axis));
          const checks result = run_checks(m.fold, {comm_label(right.name()), mesh, right - axis_set(axis)});
          CHECK(result.wrong_sums > 0);
          CHECK(result.missing > 0);
          CHECK(result.squares != double(count_parameters(model)));
          ++tried;
        }
      }
    CHECK(tried > 50);
  }
}
