#include <moefold/mesh/group.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

using namespace moefold;
using doctest::Contains;

namespace {

using ranks = std::vector<extent_t>;

std::vector<ranks> listed(const group_list& all) {
  std::vector<ranks> out;
  for (const group& g : all) out.emplace_back(g.begin(), g.end());
  return out;
}

/// The definition, word for word: two ranks share a group if they differ only along `axes`. Ranks ascending with the first axis of the
/// mesh fastest is the order of ranks; groups by their remaining coordinates, the last axis most significant.
std::vector<ranks> naive_groups(const extents& mesh, axis_set axes) {
  std::map<std::vector<extent_t>, ranks> by_rest;
  for (extent_t rank = 0; rank < mesh.ranks(); ++rank) {
    std::vector<extent_t> rest;
    extent_t left = rank;
    for (const axis_extent& a : mesh.list()) {
      if (!axes.contains(a.axis)) rest.insert(rest.begin(), left % a.ranks);
      left /= a.ranks;
    }
    by_rest[rest].push_back(rank);
  }
  std::vector<ranks> out;
  for (auto& [rest, members] : by_rest) out.push_back(members);
  return out;
}

}  // namespace

TEST_SUITE("mesh/group") {
  using attention = mesh<tp<2>, cp<2>, dp<1>, pp<2>>;
  using moe = mesh<etp<1>, ep<4>, edp<1>, pp<2>>;

  TEST_CASE("the paper's worked example on 8 ranks") {
    CHECK(listed(groups<attention, tag::tp>()) == std::vector<ranks>{{0, 1}, {2, 3}, {4, 5}, {6, 7}});
    CHECK(listed(groups<attention, tag::cp>()) == std::vector<ranks>{{0, 2}, {1, 3}, {4, 6}, {5, 7}});
    CHECK(listed(groups<attention, tag::pp>()) == std::vector<ranks>{{0, 4}, {1, 5}, {2, 6}, {3, 7}});
    CHECK(listed(groups<moe, tag::ep>()) == std::vector<ranks>{{0, 1, 2, 3}, {4, 5, 6, 7}});
    CHECK(groups<moe, tag::ep>() == groups<attention, tag::tp, tag::cp>());  // EP is folded over TP x CP
    CHECK(groups<moe, tag::pp>() == groups<attention, tag::pp>());
  }
  TEST_CASE("groups are constants of the program") {
    static_assert(groups<attention, tag::cp>().size() == 4 && groups<attention, tag::cp>()[1][1] == 3);
    static_assert(group_of(extents_of<moe>(), axis_id::ep, 6).index_of(6) == 2);
    static_assert(std::ranges::random_access_range<group> && std::ranges::random_access_range<group_list>);
    static_assert(std::ranges::sized_range<group>);
    CHECK(*std::ranges::find(groups<moe, tag::ep>()[1], 6) == 6);  // owns its numbers: nothing dangles
  }
  TEST_CASE("the order of the query does not matter, the order of the mesh does") {
    CHECK(groups<attention, tag::tp, tag::pp>() == groups<attention, tag::pp, tag::tp>());
    CHECK(listed(groups<attention, tag::pp, tag::tp>()) == std::vector<ranks>{{0, 1, 4, 5}, {2, 3, 6, 7}});
    using paper_listing = mesh<tp<2>, cp<2>, pp<2>, dp<2>>;  // data parallelism slowest
    CHECK(listed(groups<paper_listing, tag::dp>())[1] == ranks{1, 9});
    CHECK(listed(groups<paper_listing, tag::pp>())[4] == ranks{8, 12});
  }
  TEST_CASE("a dyn extent is filled in by the world") {
    using dynamic = mesh<tp<2>, dp<dyn>, pp<2>>;
    CHECK(listed(groups<dynamic, tag::dp>(12)) == std::vector<ranks>{{0, 2, 4}, {1, 3, 5}, {6, 8, 10}, {7, 9, 11}});
    CHECK_THROWS_AS((groups<dynamic, tag::dp>(10)), config_error);
  }
  TEST_CASE("axes the mesh does not name count as one rank") {
    CHECK(listed(groups<mesh<tp<2>>, tag::cp>()) == std::vector<ranks>{{0}, {1}});
    CHECK(groups<mesh<tp<2>>, tag::tp, tag::ep>() == groups<mesh<tp<2>>, tag::tp>());
    CHECK(listed(groups<mesh<>>()) == std::vector<ranks>{{0}});
  }

  TEST_CASE("groups equal the definition, for many meshes, orders and axis sets") {
    const std::vector<std::vector<extent_t>> sizes = {{2, 3, 2}, {1, 4, 2}, {3, 1, 1}, {2, 2, 2}, {5, 2, 3}};
    const std::vector<axis_id> four = {axis_id::tp, axis_id::cp, axis_id::dp, axis_id::pp};
    int compared = 0;
    for (const auto& s : sizes) {
      std::vector<axis_id> order = four;
      do {
        const extents mesh{{order[0], s[0]}, {order[1], s[1]}, {order[2], s[2]}, {order[3], 2}};
        for (unsigned mask = 0; mask < 16; ++mask) {
          axis_set axes;
          for (unsigned i = 0; i < 4; ++i)
            if (mask >> i & 1) axes = axes | four[i];
          const group_list all = groups(mesh, axes);
          const std::vector<ranks> expected = naive_groups(mesh, axes);
          REQUIRE(listed(all) == expected);
          for (extent_t g = 0; g < all.size(); ++g) {
            const ranks& members = expected[std::size_t(g)];
            REQUIRE(all[g].size() == extent_t(members.size()));
            for (extent_t rank = 0; rank < mesh.ranks(); ++rank) {
              const auto at = std::find(members.begin(), members.end(), rank);
              REQUIRE(all[g].contains(rank) == (at != members.end()));
              if (at == members.end()) continue;
              REQUIRE(all[g].index_of(rank) == at - members.begin());
              REQUIRE(group_of(mesh, axes, rank) == all[g]);
              REQUIRE(group_index(mesh, axes, rank) == g);
            }
          }
          ++compared;
        }
      } while (std::next_permutation(order.begin(), order.end()));
    }
    CHECK(compared == 5 * 24 * 16);
  }
  TEST_CASE("two lists are equal exactly if they hold the same groups, whichever meshes they come from") {
    const extents left{{axis_id::tp, 2}, {axis_id::cp, 2}, {axis_id::dp, 3}}, right{{axis_id::ep, 4}, {axis_id::etp, 3}};
    for (unsigned a = 0; a < 8; ++a)
      for (unsigned b = 0; b < 4; ++b) {
        axis_set over_left, over_right;
        for (unsigned i = 0; i < 3; ++i)
          if (a >> i & 1) over_left = over_left | left.axis[i].axis;
        for (unsigned i = 0; i < 2; ++i)
          if (b >> i & 1) over_right = over_right | right.axis[i].axis;
        const group_list from_left = groups(left, over_left), from_right = groups(right, over_right);
        CHECK((from_left == from_right) == (listed(from_left) == listed(from_right)));
      }
  }
  TEST_CASE("ranks outside a group or a world are refused") {
    const extents e = extents_of<attention>();
    const group g = group_of(e, axis_id::tp, 2);
    CHECK_FALSE(group_of(e, axis_id::tp, 0).contains(-1));
    CHECK_FALSE(g.contains(8 + 2));
    CHECK_THROWS_WITH_AS(g.index_of(4), Contains("rank 4 is no member of the group of rank 2 (2 ranks)"), error);
    CHECK_THROWS_WITH_AS(group_of(e, axis_id::tp, 8), Contains("rank 8 is outside this mesh of 8 ranks"), config_error);
    CHECK_THROWS_AS(group_index(e, axis_id::tp, -1), config_error);
  }

  TEST_CASE("one rank of 1,048,576 asks for all its groups in microseconds") {
    using big = folding<mesh<tp<8>, cp<4>, dp<dyn>, pp<16>>, mesh<etp<1>, ep<64>, edp<dyn>, pp<16>>>;
    constexpr extent_t world = 1 << 20;
    const auto start = std::chrono::steady_clock::now();
    constexpr int queries = 1000;
    extent_t sum = 0;
    for (int i = 0; i < queries; ++i) {
      const extent_t rank = extent_t(i) * 7919 % world;
      const folding_extents f = resolve<big>(world);
      const group peers = group_of(f.moe, axis_id::ep, rank), replicas = group_of(f.attention, {axis_id::cp, axis_id::dp}, rank);
      sum += peers[peers.size() - 1] + replicas.index_of(rank) + group_index(f.attention, axis_id::pp, rank);
    }
    const double us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / queries;
    MESSAGE("resolve + three group queries: " << us << " us");
    CHECK(sum > 0);
    CHECK(us < 100);  // about 1 us; a table of the world would take milliseconds
    static_assert(group_of(extents_of<big::attention>(world), {axis_id::cp, axis_id::dp}, world - 1).size() == 8192);
  }
}
