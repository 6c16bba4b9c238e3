#pragma once
// The sum every host communicator makes of its ranks' contributions: rank 0 first, in accumulate_t, rounded once. One home, so that threads and processes
// agree to the last bit.
#include <moefold/comm/communicator.hpp>

#include <algorithm>

namespace moefold {

/// out[i] = op over ranks, in rank order, of source(r)[i]. Blockwise, so that out may be any one of the sources.
template <class T, class Op, class Source>
void combine_ranks(Op op, int ranks, Source&& source, std::span<T> out) {
  using A = accumulate_t<T>;
  constexpr std::size_t block = 512;
  A total[block];
  for (std::size_t at = 0; at < out.size(); at += block) {
    const std::size_t count = std::min(block, out.size() - at);
    const T* from = source(0) + at;
    for (std::size_t i = 0; i < count; ++i) total[i] = A(from[i]);
    for (int r = 1; r < ranks; ++r) {
      from = source(r) + at;
      for (std::size_t i = 0; i < count; ++i) total[i] = op(total[i], A(from[i]));
    }
    for (std::size_t i = 0; i < count; ++i) out[at + i] = T(total[i]);
  }
}

}  // namespace moefold
