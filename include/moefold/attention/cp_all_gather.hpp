#pragma once
// Context parallelism by gathering keys and values: each rank keeps its own queries (chunks r and 2*CP-1-r, so that causal work is even), gathers
// the keys and values of its whole sequence over cp, and attends by true positions. Backward gathers again and sums their gradients back.
//
//   forward   k, v [S/CP, B, kv, d] -> all-gather -> [S, B, kv, d] in rank order       bytes: 2 (CP-1) * k
//   backward  gather again; dk, dv [S, ...] -> reduce-scatter -> [S/CP, ...]           bytes: 4 (CP-1) * k
#include <moefold/comm/communicator.hpp>
#include <moefold/core/sequence_part.hpp>
#include <moefold/ops/flash.hpp>
#include <moefold/tensor/arena.hpp>

#include <cstdint>
#include <vector>

namespace moefold {

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

/// The range of context_positions that belongs to this rank of cp.
template <class Comm>
std::span<const std::int32_t> positions_of_rank(std::span<const std::int32_t> positions, const Comm& cp) {
  const std::size_t tokens = positions.size() / std::size_t(cp.size());
  return positions.subspan(std::size_t(cp.rank()) * tokens, tokens);
}

struct cp_all_gather {
  static constexpr const char* name = "cp_all_gather";

  /// q [S/CP, B, heads, d], k and v [S/CP, B, kv, d] of this rank -> out like q, lse [B, heads, S/CP]. Collective over cp.
  template <class T, class A, class Exec, class Comm>
  static void forward(Exec e, Comm& cp, std::span<const std::int32_t> positions, view<const T> q, view<const T> k, view<const T> v,
                      view<T> out, view<A> lse) {
    scratch local(e);
    flash_forward(e, q, gathered(e, cp, k, local), gathered(e, cp, v, local), positions_of_rank(positions, cp), positions, out, lse);
  }

  /// Gradients of q, k and v of this rank, assigned. Collective over cp.
  template <class T, class A, class Exec, class Comm>
  static void backward(Exec e, Comm& cp, std::span<const std::int32_t> positions, view<const T> dout, view<const T> q, view<const T> k,
                       view<const T> v, view<const T> out, view<const A> lse, view<T> dq, view<T> dk, view<T> dv) {
    scratch local(e);
    view<T> dk_all = cp.size() == 1 ? dk : whole<T>(cp, dk.shape(), local), dv_all = cp.size() == 1 ? dv : whole<T>(cp, dv.shape(), local);
    flash_backward(e, dout, q, gathered(e, cp, k, local), gathered(e, cp, v, local), out, lse, positions_of_rank(positions, cp), positions,
                   dq, dk_all, dv_all);
    if (cp.size() == 1) return;
    cp.reduce_scatter(e, std::span<const T>(dk_all.span()), dk.span(), sum{}).wait(e);
    cp.reduce_scatter(e, std::span<const T>(dv_all.span()), dv.span(), sum{}).wait(e);
  }

 private:
  /// Memory for the parts of all ranks: [S, B, kv, d].
  template <class T, class Exec, class Comm>
  static view<T> whole(const Comm& cp, shape part, scratch<Exec>& local) {
    part[0] *= cp.size();
    return local.template take<T>(part);
  }
  template <class T, class Exec, class Comm>
  static view<const T> gathered(Exec e, Comm& cp, view<const T> part, scratch<Exec>& local) {
    if (cp.size() == 1) return part;
    view<T> all = whole<T>(cp, part.shape(), local);
    cp.all_gather(e, part.span(), all.span()).wait(e);
    return all;
  }
};

}  // namespace moefold
