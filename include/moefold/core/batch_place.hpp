#pragma once
// Which global tokens a micro-batch of one rank holds: local token i is sequence first_sample + i % batch at a true position of `part`.
//
//   batch 2, positions 6 7:   token    0            1            2            3
//                             sample   first        first + 1    first        first + 1
//                             number   6 * 2 + 0    6 * 2 + 1    7 * 2 + 0    7 * 2 + 1
#include <moefold/core/sequence_part.hpp>

namespace moefold {

struct batch_place {
  extent_t step = 0;
  extent_t first_sample = 0;  // within the step's global batch
  extent_t batch = 1;         // B, sequences in the micro-batch
  sequence_part part{};

  MOEFOLD_HD constexpr extent_t sample(extent_t token) const { return first_sample + token % batch; }
  MOEFOLD_HD constexpr extent_t position(extent_t token) const { return part.local_position(token / batch); }
  /// Place in token order: true position * B + sequence inside the micro-batch.
  MOEFOLD_HD constexpr extent_t number(extent_t token) const { return position(token) * batch + token % batch; }
};

}  // namespace moefold
