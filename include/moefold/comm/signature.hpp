#pragma once
// What a rank says about its call so that the peers can compare it, and the shape rules every call obeys on its own rank.
// Implementations check the shapes before the peers are told, and the signatures before any data is written.
#include <moefold/comm/communicator.hpp>

#include <span>
#include <string>

namespace moefold {

struct signature {
  operation op = operation::barrier;
  dtype type = dtype::uint8;
  const char* reduction = "";  // "", "sum", "max", of split "apart": always the same literal, still compared as text
  int root = -1;               // of broadcast and reduce; of send and recv the peer, which is not in describe
  std::uint64_t count = 0;     // elements, as in core/traffic_rule.hpp; 0 where counts are per peer
  std::uint64_t seq = 0;       // number of the call on its communicator
  bool device = false;         // of device memory; not in describe: ranks differ in it only by mistake

  bool operator==(const signature& other) const {
    return op == other.op && type == other.type && root == other.root && count == other.count && seq == other.seq &&
           device == other.device && std::string_view(reduction) == other.reduction;
  }
};

/// "all_reduce #17 of 4096 x fp32, sum"
inline std::string describe(const signature& s) {
  std::string text = sentence(name_of(s.op), " #", s.seq);
  if (s.op == operation::split && *s.reduction) return text + ", " + s.reduction;
  if (s.op == operation::barrier || s.op == operation::split || s.op == operation::close) return text;
  const bool per_peer = s.op == operation::all_gather_v || s.op == operation::reduce_scatter_v || s.op == operation::all_to_all_v ||
                        s.op == operation::expose;
  text += per_peer ? sentence(" of ", name_of(s.type)) : sentence(" of ", s.count, " x ", name_of(s.type));
  if (*s.reduction) text += sentence(", ", s.reduction);
  if (s.root >= 0 && s.op != operation::send && s.op != operation::recv) text += sentence(", root ", s.root);
  return text;
}

/// in and out must have the same number of elements.
inline void require_same(operation op, std::size_t in, std::size_t out) {
  require(in == out, "moefold: ", name_of(op), " got ", in, " elements in and room for ", out, "; give both the same size");
}
/// `whole` must be ranks * part.
inline void require_parts(operation op, int ranks, std::size_t part, std::size_t whole) {
  const auto n = std::size_t(ranks);
  require(whole % n == 0 && whole / n == part, "moefold: ", name_of(op), " over ", ranks, " ranks needs one side ", ranks,
          " times the other, not ", part, " and ", whole, " elements; use the _v operation for uneven parts");
}
/// The counts must be one per rank and add up to `total`.
inline void require_counts(operation op, int ranks, std::span<const std::size_t> counts, std::size_t total) {
  require(counts.size() == std::size_t(ranks), "moefold: ", name_of(op), " over ", ranks, " ranks got ", counts.size(),
          " counts; give one per rank, 0 where nothing goes");
  std::size_t left = total;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    require(counts[i] <= left, "moefold: ", name_of(op), " counts add up to more than the ", total, " elements of the buffer (count ", i,
            " is ", counts[i], "); make the buffer their sum");
    left -= counts[i];
  }
  require(left == 0, "moefold: ", name_of(op), " counts add up to ", total - left, ", the buffer has ", total,
          " elements; make the buffer their sum");
}
inline void require_rank(operation op, const char* role, int rank, int ranks) {
  require(rank >= 0 && rank < ranks, "moefold: ", name_of(op), " with ", role, " ", rank, " on a communicator of ", ranks,
          " ranks; ranks go from 0 to ", ranks - 1);
}

}  // namespace moefold
