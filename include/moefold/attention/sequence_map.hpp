#pragma once
// Where the tokens of a CP group stand in their sequences: true positions, and where the document of each token begins. Tables of the whole sequence, in
// the order of the ranks that hold the tokens, so that the part of a rank, or of neighbouring ranks, is a range.
//
//   position [S]      rank 0's tokens, rank 1's, ...                first [S, B]      empty: every sequence is one document
#include <moefold/core/sequence_part.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace moefold {

struct sequence_map {
  std::span<const std::int32_t> position;
  std::span<const std::int32_t> first;

  /// Part `index` of `parts` equal ones.
  sequence_map part(int index, int parts) const { return {cut(position, index, parts), cut(first, index, parts)}; }

 private:
  static std::span<const std::int32_t> cut(std::span<const std::int32_t> all, int index, int parts) {
    const std::size_t each = all.size() / std::size_t(parts);
    return all.subspan(std::size_t(index) * each, each);
  }
};

/// True positions of the tokens that each rank of a CP group holds, rank after rank; those of one rank are a range of it.
/// Throws config_error if the sequence cannot be cut into two equal chunks for each rank.
inline std::vector<std::int32_t> context_positions(extent_t sequence, extent_t cp) {
  check(sequence_part{sequence, cp, 0, 1, 0});
  std::vector<std::int32_t> positions;
  positions.reserve(std::size_t(sequence));
  for (extent_t rank = 0; rank < cp; ++rank) {
    const sequence_part part{sequence, cp, rank, 1, 0};
    for (extent_t i = 0; i < part.cp_tokens(); ++i) positions.push_back(std::int32_t(part.position(i)));
  }
  return positions;
}

/// For every token of a sequence, where its document begins: after each token `end`. tokens and first: [S], by position.
inline void document_starts(std::span<const std::int32_t> tokens, std::int32_t end, std::span<std::int32_t> first) {
  std::int32_t begin = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    first[i] = begin;
    if (tokens[i] == end) begin = std::int32_t(i) + 1;
  }
}

}  // namespace moefold
