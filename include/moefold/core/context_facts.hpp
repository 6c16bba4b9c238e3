#pragma once
// How attention reaches the tokens of other context-parallel ranks, as plain numbers: the policies of attention/ are types that carry them, the inventory
// counts memory and traffic from them without knowing the types.
//
//   cp = swap x ring:  groups of `swap` adjacent ranks exchange heads for sequence, and cp / swap such groups pass keys and values round a ring
#include <moefold/core/error.hpp>

namespace moefold {

struct context_facts {
  bool gathers = true;  // every rank gathers the keys and values of the whole sequence; swap says nothing then
  extent_t swap = 1;    // ranks that exchange heads for sequence; 0: all of cp

  /// Ranks that exchange heads, of cp.
  constexpr extent_t swapping(extent_t cp) const { return gathers || cp == 1 ? 1 : swap == 0 ? cp : swap; }
  /// Groups on the ring, of cp ranks; 1: no ring.
  constexpr extent_t ring(extent_t cp) const { return gathers ? 1 : cp / swapping(cp); }
  constexpr bool operator==(const context_facts&) const = default;
};

/// What the key/value heads must be a multiple of: tp * swap. Extents that are not known yet (dyn, below 0) count as 1.
constexpr extent_t head_pieces(const context_facts& facts, extent_t tp, extent_t cp) {
  const extent_t swap = facts.swapping(cp);
  return (tp > 0 ? tp : 1) * (swap > 0 ? swap : 1);
}
/// What cp must be a multiple of: the ranks that exchange heads.
constexpr extent_t context_pieces(const context_facts& facts, extent_t cp) { return cp > 0 ? facts.swapping(cp) : 1; }

}  // namespace moefold
