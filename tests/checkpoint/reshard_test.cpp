#include <moefold/checkpoint/reshard.hpp>

#include "../support/owned_pieces.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::testing;
using doctest::Contains;

namespace {

using pieces_of = std::map<std::string, std::vector<tensor_piece>>;

pieces_of unpadded_pieces(const folding_extents& fold, const model_shape& model) {
  pieces_of all;
  for (const auto& [name, pieces] : owned_pieces(fold, model))
    for (const owned_piece& p : pieces) all[name].push_back(unpadded(p.piece));
  return all;
}
// The piece's elements by for_each_run, each as its index in the whole tensor: the oracle.
std::vector<extent_t> elements_of(const tensor_piece& p) {
  std::vector<extent_t> all;
  p.for_each_run([&](extent_t global, extent_t, extent_t count) {
    for (extent_t i = 0; i < count; ++i) all.push_back(global + i);
  });
  return all;
}
tensor_piece piece(shape global, std::array<extent_t, 4> offset, shape extent, flat_range range) {
  return {{global, offset, extent}, range, global.size()};
}
tensor_piece whole_box(shape global, std::array<extent_t, 4> offset, shape extent) {
  return piece(global, offset, extent, {0, extent.size()});
}

}  // namespace

TEST_SUITE("checkpoint/reshard") {
  TEST_CASE("between all pairs of 26 foldings every wanted element comes from its own place, and from one piece only") {
    for (const bool tied : {false, true}) {
      const model_shape model = odd_model(tied);
      std::vector<pieces_of> by_fold;
      for (const mapping& m : many_mappings()) by_fold.push_back(unpadded_pieces(m.fold, model));
      REQUIRE(by_fold.size() == 26);
      extent_t runs = 0, wrong = 0;
      for (const pieces_of& from : by_fold) {
        std::map<std::string, std::vector<std::vector<extent_t>>> held;
        for (const auto& [name, pieces] : from)
          for (const tensor_piece& p : pieces) held[name].push_back(elements_of(p));
        for (const pieces_of& to : by_fold)
          for (const auto& [name, wanted] : to)
            for (const tensor_piece& w : wanted) {
              std::vector<extent_t> got(std::size_t(w.size()), -1);
              for (const shared_run& r : reshard(from.at(name), w)) {
                ++runs;
                for (extent_t i = 0; i < r.count; ++i) {
                  extent_t& place = got[std::size_t(r.first_in_wanted + i)];
                  wrong += place != -1;
                  place = held[name][r.saved][std::size_t(r.first_in_saved + i)];
                }
              }
              wrong += got != elements_of(w);
            }
      }
      CHECK(wrong == 0);
      CHECK(runs > 100'000);
    }
  }
  TEST_CASE("what all ranks of a folding own covers every tensor once, and one piece less, or one twice, does not") {
    for (const mapping& m : many_mappings()) {
      CAPTURE(m.name);
      for (const auto& [name, pieces] : unpadded_pieces(m.fold, odd_model(true))) {
        CAPTURE(name);
        const shape global = pieces[0].where.global;
        CHECK(cover_fault(pieces, global) == "");
        for (std::size_t i = 0; i < pieces.size(); ++i) {
          if (pieces[i].range.empty()) continue;
          std::vector<tensor_piece> less = pieces, more = pieces;
          less.erase(less.begin() + std::ptrdiff_t(i));
          more.push_back(pieces[i]);
          CHECK(cover_fault(less, global) != "");
          CHECK(cover_fault(more, global) != "");
        }
      }
    }
  }
  TEST_CASE("a hole and an overlap are said with their places") {
    const shape g{4, 6};
    const auto fault = [&](std::vector<tensor_piece> pieces) { return cover_fault(pieces, g); };
    const tensor_piece left = whole_box(g, {0, 0}, {4, 3}), right = whole_box(g, {0, 3}, {4, 3});
    CHECK(fault({left, right}) == "");
    CHECK(fault({left}) == "places 3 to 6 of extent 1 lie in no piece");
    CHECK(fault({left, right, right}) == "elements 0 to 12 of the box at [0, 3] lie in two pieces");
    CHECK(fault({left, whole_box(g, {0, 2}, {4, 4})}) == "places 2 to 3 of extent 1 lie in two pieces");
    CHECK(fault({whole_box(g, {1, 0}, {3, 6})}) == "places 0 to 1 of extent 0 lie in no piece");
    CHECK(fault({left, piece(g, {0, 3}, {4, 3}, {0, 5}), piece(g, {0, 3}, {4, 3}, {6, 12})}) ==
          "elements 5 to 6 of the box at [0, 3] lie in no piece");
    CHECK(fault({left, piece(g, {0, 3}, {4, 3}, {0, 7}), piece(g, {0, 3}, {4, 3}, {6, 12})}) ==
          "elements 6 to 7 of the box at [0, 3] lie in two pieces");
    CHECK(fault({left, piece(g, {0, 3}, {4, 3}, {0, 7})}) == "elements 7 to 12 of the box at [0, 3] lie in no piece");
    CHECK(fault({}) == "no piece holds any of it");
    CHECK(cover_fault({}, {0, 6}) == "");
    CHECK(cover_fault(std::vector{whole_box({}, {}, {})}, {}) == "");  // a scalar
  }
  TEST_CASE("mappings that cut alike share one run per piece") {
    const tensor_piece columns = whole_box({1000, 64}, {0, 16}, {1000, 16});
    CHECK(reshard(std::vector{columns}, columns) == std::vector<shared_run>{{0, 0, 0, 16000}});
    const tensor_piece rows = whole_box({1000, 64}, {500, 0}, {1, 64});
    CHECK(reshard(std::vector{columns}, rows) == std::vector<shared_run>{{0, 8000, 16, 16}});
    const tensor_piece half = piece({1000, 64}, {0, 16}, {1000, 16}, {7, 9000});
    CHECK(reshard(std::vector{half, half}, columns) == std::vector<shared_run>{{0, 0, 7, 8993}, {1, 0, 7, 8993}});
  }
  TEST_CASE("padding goes with its rows, wherever the piece lies, and only whole rows may pad") {
    const box all{{8, 3}, {0, 0}, {8, 3}}, last{{8, 3}, {6, 0}, {2, 3}}, across{{8, 3}, {4, 1}, {4, 2}};
    CHECK(unpadded({all, {4, 24}, 15}) == tensor_piece{{{5, 3}, {0, 0}, {5, 3}}, {4, 15}, 15});
    CHECK(unpadded({last, {0, 6}, 15}).size() == 0);
    CHECK(unpadded({last, {0, 6}, 24}) == tensor_piece{last, {0, 6}, 24});
    CHECK(unpadded({across, {1, 7}, 15}) == tensor_piece{{{5, 3}, {4, 1}, {1, 2}}, {1, 2}, 15});
    CHECK_THROWS_WITH_AS(unpadded({all, {0, 24}, 16}), Contains("no whole number of rows"), config_error);
  }
}
