#pragma once
// The operations ranks can do together, and the one rule that says how many bytes and messages each of them sends.
// The recording communicator counts with it and the planner predicts with it, so the two cannot disagree.
//
//   n ranks, `count` elements of `size` bytes         bytes one rank sends                messages (peers it sends to)
//   all_gather        count = its input               (n-1) * count * size                n-1
//   reduce_scatter    count = its output              (n-1) * count * size                n-1
//   all_to_all        count = what each peer gets     (n-1) * count * size                n-1
//   all_reduce        count = the buffer              2 (n-1) * ceil(count/n) * size      2 (n-1): a reduce_scatter, then an all_gather
//   broadcast, reduce count = the buffer              ceil((n-1) * count * size / n)      1: to the next rank of a ring
//   ..._v             count = elements that leave     count * size                        peers with a count above 0
//   send              count = the buffer              count * size                        1
//   barrier, recv, split, expose, close               0                                   0
// Nothing to send (count 0) is no message, and a group of one rank sends nothing at all.
#include <moefold/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace moefold {

enum class operation : std::uint8_t {
  barrier,
  broadcast,
  reduce,
  all_reduce,
  all_gather,
  all_gather_v,
  reduce_scatter,
  reduce_scatter_v,
  all_to_all,
  all_to_all_v,
  send,
  recv,
  split,
  expose,
  close  // a window on the peers' own memory: bytes read through it are not counted
};
inline constexpr std::size_t operations = 15;

constexpr const char* name_of(operation op) {
  constexpr const char* names[operations] = {
      "barrier",    "broadcast",    "reduce", "all_reduce", "all_gather", "all_gather_v", "reduce_scatter", "reduce_scatter_v",
      "all_to_all", "all_to_all_v", "send",   "recv",       "split",      "expose",       "close"};
  return std::size_t(op) < operations ? names[std::size_t(op)] : "?";
}

/// Bytes one rank of `ranks` sends in one call; `count` as in the table above.
constexpr std::uint64_t bytes_sent(operation op, std::uint64_t ranks, std::uint64_t count, std::uint64_t size) {
  if (ranks <= 1) return 0;
  switch (op) {
    case operation::all_gather:
    case operation::reduce_scatter:
    case operation::all_to_all: return (ranks - 1) * count * size;
    case operation::all_reduce: return 2 * (ranks - 1) * ((count + ranks - 1) / ranks) * size;
    case operation::broadcast:
    case operation::reduce: return ((ranks - 1) * count * size + ranks - 1) / ranks;
    case operation::all_gather_v:
    case operation::reduce_scatter_v:
    case operation::all_to_all_v:
    case operation::send: return count * size;
    default: return 0;
  }
}

/// Messages one rank of `ranks` sends in one call of an operation without counts per peer.
constexpr std::uint64_t messages_sent(operation op, std::uint64_t ranks, std::uint64_t count) {
  if (ranks <= 1 || count == 0) return 0;
  switch (op) {
    case operation::all_gather:
    case operation::reduce_scatter:
    case operation::all_to_all: return ranks - 1;
    case operation::all_reduce: return 2 * (ranks - 1);
    case operation::broadcast:
    case operation::reduce:
    case operation::send: return 1;
    default: return 0;
  }
}

/// Elements that leave `rank` in a v-operation. counts: all_gather_v, what each rank gives; reduce_scatter_v, what each rank keeps;
/// all_to_all_v, what this rank sends to each peer.
constexpr std::uint64_t elements_leaving(operation op, std::size_t rank, std::span<const std::size_t> counts) {
  if (op == operation::all_gather_v) return (counts.size() - 1) * counts[rank];
  std::uint64_t total = 0;
  for (std::size_t peer = 0; peer < counts.size(); ++peer)
    if (peer != rank) total += counts[peer];
  return total;
}

/// Messages `rank` sends in a v-operation: the peers that get at least one element.
constexpr std::uint64_t messages_sent(operation op, std::size_t rank, std::span<const std::size_t> counts) {
  if (op == operation::all_gather_v) return counts[rank] > 0 ? counts.size() - 1 : 0;
  std::uint64_t peers = 0;
  for (std::size_t peer = 0; peer < counts.size(); ++peer) peers += peer != rank && counts[peer] > 0;
  return peers;
}

}  // namespace moefold
