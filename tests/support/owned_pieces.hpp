#pragma once
// What the ranks of a folding own of every parameter of a model, once: each box cut over the ranks that hold it, as the distributed optimizer does.
#include <moefold/inventory/parameters.hpp>
#include <moefold/mesh/slice.hpp>
#include "mappings.hpp"

#include <map>
#include <string>
#include <vector>

namespace moefold::testing {

struct owned_piece {
  extent_t rank;
  tensor_piece piece;
};

inline std::map<std::string, std::vector<owned_piece>> owned_pieces(const folding_extents& fold, const model_shape& model) {
  std::map<std::string, std::vector<owned_piece>> all;
  for (extent_t rank = 0; rank < fold.world(); ++rank)
    for_each_parameter(model, fold, stage_of(fold, rank), [&](const parameter_fact& p) {
      const box b = box_of(p.placement, p.extent, fold, rank);
      all[p.name()].push_back({rank, {b, {0, b.size()}, p.parameters()}});
    });
  for (auto& [name, pieces] : all) {
    std::vector<owned_piece> cut = pieces;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      extent_t replicas = 0, mine = 0;
      for (std::size_t j = 0; j < pieces.size(); ++j)
        if (pieces[j].piece.where == pieces[i].piece.where) {
          mine += j < i;
          ++replicas;
        }
      cut[i].piece.range = shard_of(pieces[i].piece.where.size(), replicas, mine);
    }
    pieces = cut;
  }
  return all;
}

/// Odd numbers: a vocabulary that needs padding, 5 layers of which one is dense, a shared expert; all cut evenly by every mapping of mappings().
inline model_shape odd_model(bool tied) {
  model_shape m;
  m.layers = 5, m.hidden = 12, m.heads = 4, m.kv_heads = 4, m.head_dim = 2, m.experts = 8, m.ffn = 6, m.vocabulary = 13;
  m.shared_ffn = 4, m.shared_gate = true, m.dense_layers = 1, m.dense_ffn = 20, m.tied_embeddings = tied;
  return m;
}

/// mappings() and a few more: 26, on 1 to 16 ranks.
inline std::vector<mapping> many_mappings() {
  using enum axis_id;
  std::vector<mapping> all = mappings();
  const auto add = [&](std::string name, extents attention, extents moe) {
    all.push_back({std::move(name), make_folding(attention, moe)});
  };
  add("dp 3", {{dp, 3}}, {{edp, 3}});
  add("dp 5, ep 1", {{dp, 5}}, {{edp, 5}});
  add("tp 4 dp 3, etp 2 ep 2", {{tp, 4}, {dp, 3}}, {{etp, 2}, {ep, 2}, {edp, 3}});
  add("pp 5", {{pp, 5}}, {{pp, 5}});
  add("etp 3", {{dp, 3}}, {{etp, 3}});
  return all;
}

}  // namespace moefold::testing
