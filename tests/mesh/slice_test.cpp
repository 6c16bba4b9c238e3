#include <moefold/mesh/slice.hpp>

#include <moefold/mesh/group.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("mesh/slice") {
  using column = placement<attention_axes, shard<tag::tp, 0>>;
  using row = placement<attention_axes, shard<tag::tp, 1>>;
  using whole = placement<attention_axes>;
  using expert = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 1>>;
  using expert_down = placement<moe_axes, shard<tag::ep, 0>, shard<tag::etp, 2>>;

  TEST_CASE("a box is where the rank's coordinates put it") {
    constexpr folding_extents f = resolve<folding<mesh<tp<4>, dp<2>>, mesh<etp<2>, ep<2>, edp<2>>>>();
    constexpr box b = box_of(value_of<expert>, {8, 144, 128}, f, 7);  // etp 1, ep 1, edp 1
    static_assert(b.offset[0] == 4 && b.offset[1] == 72 && b.offset[2] == 0);
    static_assert(b.extent == shape{4, 72, 128} && b.size() == 4 * 72 * 128);
    static_assert(b.global_index(0) == (4 * 144 + 72) * 128 && b.run() == 72 * 128);
    CHECK(box_of(value_of<row>, {16, 8}, f, 1).run() == 2);
    CHECK(box_of(value_of<whole>, {16, 8}, f, 1).run() == 128);
  }

  TEST_CASE("in every folding, each element of a tensor lies in exactly as many boxes as it has replicas, and so in each optimizer once") {
    const std::vector<folding_extents> folds = {
        folding_extents{},
        make_folding({{axis_id::tp, 2}, {axis_id::cp, 2}, {axis_id::dp, 1}, {axis_id::pp, 2}}, {{axis_id::ep, 4}, {axis_id::pp, 2}}),
        make_folding({{axis_id::tp, 2}, {axis_id::cp, 2}, {axis_id::pp, 2}, {axis_id::dp, 2}},
                     {{axis_id::ep, 4}, {axis_id::pp, 2}, {axis_id::edp, 2}}),
        make_folding({{axis_id::dp, 2}, {axis_id::tp, 4}}, {{axis_id::etp, 2}, {axis_id::edp, 2}, {axis_id::ep, 2}}),
        make_folding({{axis_id::tp, 2}, {axis_id::dp, 3}}, {{axis_id::etp, 2}, {axis_id::edp, 3}}),
    };
    const shape global{4, 4, 8};
    for (const folding_extents& f : folds)
      for (const placement_value& where : {value_of<column>, value_of<row>, value_of<whole>, value_of<expert>, value_of<expert_down>}) {
        const extents& mesh = where.mesh_of(f);
        const extent_t replicas = mesh.of(where.replicas()), stages = f.attention.of(axis_id::pp);
        std::vector<extent_t> held(std::size_t(global.size())), owned(held);
        for (extent_t rank = 0; rank < f.world(); ++rank) {
          const box b = box_of(where, global, f, rank);
          const group peers = group_of(mesh, where.replicas(), rank);
          REQUIRE(peers.size() == replicas);
          REQUIRE(b == box_of(where, global, f, peers[0]));  // replicas hold the same box
          const flat_range mine = shard_of(b.size(), peers.size(), peers.index_of(rank));
          for (extent_t i = 0; i < b.size(); ++i) {
            const std::size_t at = std::size_t(b.global_index(i));
            ++held[at];
            owned[at] += mine.begin <= i && i < mine.end;
            if (i % b.run() != 0) REQUIRE(b.global_index(i) == b.global_index(i - 1) + 1);
          }
        }
        for (std::size_t i = 0; i < held.size(); ++i) {
          REQUIRE(held[i] == replicas * stages);
          REQUIRE(owned[i] == stages);
        }
      }
  }
  TEST_CASE("a piece is read run by run, in the order of the whole tensor, and without the rows that only pad") {
    const box middle{{4, 6}, {0, 2}, {4, 3}};  // columns 2..4 of 4 rows
    const auto runs = [](const tensor_piece& p) {
      std::vector<std::array<extent_t, 3>> all;
      p.for_each_run([&](extent_t global, extent_t local, extent_t count) { all.push_back({global, local, count}); });
      return all;
    };
    CHECK(runs({middle, {1, 8}, 24}) == std::vector<std::array<extent_t, 3>>{{3, 0, 2}, {8, 2, 3}, {14, 5, 2}});
    CHECK(runs({middle, {1, 8}, 9}) == std::vector<std::array<extent_t, 3>>{{3, 0, 2}, {8, 2, 1}});  // the rest pads
    CHECK(runs({middle, {5, 5}, 24}).empty());
    CHECK(tensor_piece{middle, {1, 8}, 9}.size() == 3);
    const box rows{{4, 6}, {1, 0}, {2, 6}};
    CHECK(runs({rows, {0, 12}, 24}) == std::vector<std::array<extent_t, 3>>{{6, 0, 12}});
  }

  TEST_CASE("a rank outside the world and an uneven cut are refused") {
    const folding_extents f = make_folding({{axis_id::tp, 3}}, {{axis_id::edp, 3}});
    CHECK_THROWS_WITH_AS(box_of(value_of<column>, {6, 2}, f, 3), Contains("rank 3 is outside this mesh of 3 ranks"), config_error);
    CHECK_THROWS_WITH_AS(box_of(value_of<column>, {8, 2}, f, 0), Contains("choose a tp that divides 8"), config_error);
  }

  TEST_CASE("flat pieces are equal, in order, without gap, and the last ones shorter or empty") {
    static_assert(shard_of(10, 4, 0) == flat_range{0, 3} && shard_of(10, 4, 3) == flat_range{9, 10});
    static_assert(shard_of(5, 4, 2) == flat_range{4, 5} && shard_of(5, 4, 3).empty());
    static_assert(shard_of(0, 3, 1).empty());
    for (extent_t ranks = 1; ranks <= 9; ++ranks)
      for (extent_t count = 0; count <= 40; ++count) {
        extent_t next = 0;
        for (extent_t i = 0; i < ranks; ++i) {
          const flat_range piece = shard_of(count, ranks, i);
          REQUIRE(piece.begin == next);
          REQUIRE(piece.size() <= (count + ranks - 1) / ranks);
          if (piece.end < count) REQUIRE(piece.size() == (count + ranks - 1) / ranks);
          next = piece.end;
        }
        REQUIRE(next == count);
      }
    CHECK_THROWS_WITH_AS(shard_of(10, 4, 4), Contains("piece 4 of 10 elements over 4 ranks does not exist"), error);
    CHECK_THROWS_AS(shard_of(10, 0, 0), error);
  }
}
