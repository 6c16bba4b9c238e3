#pragma once
// Which tokens of a sequence a rank holds. Context parallelism cuts a sequence into 2*CP chunks and gives a rank one early and one late
// chunk, so that causal attention is the same work everywhere; tensor parallelism cuts what CP left contiguously.
//
//   CP = 2, sequence of 8:   chunk 0  1  2  3      cp_rank 0: positions 0 1 | 6 7      tp_rank 0 of 2: 0 1     tp_rank 1: 6 7
//                            rank  0  1  1  0      cp_rank 1: positions 2 3 | 4 5      tp_rank 0 of 2: 2 3     tp_rank 1: 4 5
#include <moefold/core/error.hpp>

namespace moefold {

/// Positions of one rank; all in tokens. With CP = 1 the positions are simply 0, 1, 2, ...
struct sequence_part {
  extent_t sequence = 0;  // S, the whole sequence
  extent_t cp = 1;
  extent_t cp_rank = 0;
  extent_t tp = 1;
  extent_t tp_rank = 0;

  MOEFOLD_HD constexpr extent_t cp_tokens() const { return sequence / cp; }            // after CP, shared by the tp ranks
  MOEFOLD_HD constexpr extent_t local_tokens() const { return sequence / (cp * tp); }  // this rank's own, between blocks

  /// True position of the i-th token of the CP part, 0 <= i < cp_tokens(). Ascending in i.
  MOEFOLD_HD constexpr extent_t position(extent_t i) const {
    if (cp == 1) return i;
    const extent_t chunk = sequence / (2 * cp);
    return i < chunk ? cp_rank * chunk + i : (2 * cp - 1 - cp_rank) * chunk + (i - chunk);
  }
  /// True position of the i-th token of this rank's own part, 0 <= i < local_tokens().
  MOEFOLD_HD constexpr extent_t local_position(extent_t i) const { return position(tp_rank * local_tokens() + i); }

  constexpr bool operator==(const sequence_part&) const = default;
};

/// Throws config_error if the sequence cannot be cut like this.
constexpr void check(const sequence_part& part) {
  const bool cp_fits = part.cp_rank >= 0 && part.cp_rank < part.cp, tp_fits = part.tp_rank >= 0 && part.tp_rank < part.tp;
  require<config_error>(part.sequence > 0 && cp_fits && tp_fits,
                        "moefold: sequence, cp and tp are at least 1 and ranks count from 0 (sequence ", part.sequence, ", cp rank ",
                        part.cp_rank, " of ", part.cp, ", tp rank ", part.tp_rank, " of ", part.tp, ")");
  const extent_t pieces = part.cp == 1 ? part.tp : 2 * part.cp * part.tp;
  require<config_error>(part.sequence % pieces == 0, "moefold: the sequence must be a multiple of ", part.cp == 1 ? "tp" : "2*cp*tp", " = ",
                        pieces, " (given ", part.sequence, "); use ", (part.sequence + pieces - 1) / pieces * pieces,
                        " or fewer context- or tensor-parallel ranks");
}

}  // namespace moefold
