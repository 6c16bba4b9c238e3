#include <moefold/comm/groups.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/placement.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"
#include "../support/run_ranks.hpp"

#include <algorithm>
#include <vector>

using namespace moefold;

namespace {

/// From the definition: all ranks of the mesh that differ from `rank` in the named axes only, ascending.
std::vector<extent_t> peers_of(const extents& mesh, axis_set axes, extent_t rank) {
  std::vector<extent_t> peers;
  for (extent_t other = 0; other < mesh.ranks(); ++other) {
    const coordinate a = coordinate_of(mesh, rank), b = coordinate_of(mesh, other);
    bool same = true;
    for (int i = 0; i < axis_count; ++i) same = same && (axes.contains(axis_id(i)) || a[axis_id(i)] == b[axis_id(i)]);
    if (same) peers.push_back(other);
  }
  return peers;
}
bool on_moe_mesh(axis_set axes) { return axes.contains(axis_id::etp) || axes.contains(axis_id::ep) || axes.contains(axis_id::edp); }

}  // namespace

TEST_SUITE("comm/groups") {
  TEST_CASE("in every mapping each communicator has exactly the ranks of its group, in order, under its name") {
    for (const auto& mapping : testing::mappings())
      run_ranks(int(mapping.fold.world()), [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        group_set<thread_comm> comms(world, mapping.fold);
        for (const axis_set axes : comms.sets) {
          CAPTURE(mapping.name);
          CAPTURE(axes.name());
          CAPTURE(world.rank());
          thread_comm& comm = comms[axes];
          const std::vector<std::int64_t> me{world.rank()};
          std::vector<std::int64_t> ranks(std::size_t(comm.size()));
          comm.all_gather(e, me, ranks).wait(e);
          const extents& mesh = on_moe_mesh(axes) ? mapping.fold.moe : mapping.fold.attention;
          const group expected = group_of(mesh, axes, world.rank());
          CHECK(std::ranges::equal(ranks, expected));
          CHECK(std::ranges::equal(ranks, peers_of(mesh, axes, world.rank())));
          CHECK((comm.rank() < comm.size() && ranks[std::size_t(comm.rank())] == world.rank()));
          CHECK(comm.label() == comm_label(axes.name()));
        }
      });
  }
  TEST_CASE("replicas of a tied embedding: the first and the last stage, over cp and dp; a stage between is alone") {
    for (const auto& mapping : testing::mappings())
      run_ranks(int(mapping.fold.world()), [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        group_set<thread_comm> comms(world, mapping.fold);
        CAPTURE(mapping.name);
        CAPTURE(world.rank());
        const extents& mesh = mapping.fold.attention;
        const extent_t last = mesh.of(axis_id::pp) - 1;
        const auto at_end = [&](extent_t rank) { return coordinate_of(mesh, rank)[axis_id::pp] % std::max<extent_t>(last, 1) == 0; };
        std::vector<std::int64_t> expected;
        for (const extent_t peer : peers_of(mesh, comms.ends, world.rank()))
          if (at_end(world.rank()) ? at_end(peer) : peer == world.rank()) expected.push_back(peer);
        thread_comm& comm = comms[comms.ends];
        const std::vector<std::int64_t> me{world.rank()};
        std::vector<std::int64_t> ranks(std::size_t(comm.size()));
        comm.all_gather(e, me, ranks).wait(e);
        CHECK(ranks == expected);
        CHECK(comm.label() == comm_label("cp x dp x pp"));
      });
  }
  TEST_CASE("whatever a parameter's placement, there is a communicator over its replicas; stages and experts have theirs") {
    self_comm world;
    group_set<self_comm> comms(world, {});
    for (const axis_set replicas : {placement<attention_axes>::replicas, placement<attention_axes, shard<tag::tp, 0>>::replicas,
                                    placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>>::replicas})
      CHECK(comms[replicas].label() == comm_label(replicas.name()));
    CHECK(comms.over<tag::pp>().label() == comm_label("pp"));
    CHECK(&comms.over<tag::dp, tag::cp>() == &comms[set_of<tag::cp, tag::dp>]);  // a set has no order
    CHECK(&comms.world() == &world);
  }
  TEST_CASE("a world of another size than the folding's is refused on every rank before any split") {
    const folding_extents four = make_folding({{axis_id::tp, 4}}, {{axis_id::ep, 4}});
    run_ranks<2>([&](thread_comm& world) {
      CHECK_THROWS_WITH_AS(group_set<thread_comm>(world, four), "moefold: the folding needs 4 ranks and the world has 2", config_error);
    });
  }
  TEST_CASE("a set of axes over which nothing travels has no communicator, and the error says what to do") {
    self_comm world;
    group_set<self_comm> comms(world, {});
    CHECK_THROWS_WITH_AS(comms[set_of<tag::dp>], "moefold: no communicator is kept for dp; add the set to group_set::sets", error);
    CHECK_THROWS_AS((comms.over<tag::ep, tag::edp>()), error);
  }
}
