#pragma once
// Whether numbers name rows of a vocabulary, looked at once before anything is looked up: a shard of the vocabulary cannot tell a number that lies on
// another rank from one that lies nowhere, and the latter would count as zero without a word.
//
//   require_tokens   0 <= id < vocabulary
// On the host a wrong number throws here; on a device it is reported and thrown where the host next waits (core/fault.cuh).
#include <moefold/ops/rows.hpp>

namespace moefold {

inline void require_tokens(host_exec, std::span<const std::int32_t> ids, std::int64_t vocabulary) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    require(ids[i] >= 0 && ids[i] < vocabulary, "moefold: token ", ids[i], " is outside the vocabulary of ", vocabulary, " (at place ", i,
            "); use tokens from 0 to below it");
}

}  // namespace moefold
