#pragma once
// Whether the ranks of a communicator make the same call, and what is said when they do not: pure functions over what each rank has posted, so that
// threads, which see each other's posts, and processes, which are sent them, find the same culprit in the same words.
//
//   posts   rank 0 all_reduce #4 of 10 x fp32     rank 1 the same     rank 2 barrier #4      ->  culprit 2, "ranks disagree on tp: all_reduce #4 ... but ..."
//   counts  rank 0 sends 3 to rank 1, which expects 4                                        ->  culprit 0, "... rank 0 sends 3 elements to rank 1 ..."
#include <moefold/comm/signature.hpp>

#include <algorithm>
#include <optional>
#include <vector>

namespace moefold {

/// What ranks disagree on. Ranks are the communicator's own here; in the text they are the world's.
struct disagreement {
  int culprit = 0;
  signature what;  // of the culprit's call
  std::string message;
};

/// "0, 3, 5", or "none": world ranks of the communicator's ranks.
template <class WorldRank>
std::string list_ranks(const std::vector<int>& ranks, WorldRank&& world_rank) {
  std::string text;
  for (int r : ranks) text += sentence(text.empty() ? "" : ", ", world_rank(r));
  return text.empty() ? "none" : text;
}
/// Where the data lies is said only if ranks differ in that.
inline std::string described(const signature& s, bool mixed) { return describe(s) + (mixed && s.device ? ", in device memory" : ""); }

/// v-operations must agree on every count: what a sends to b is what b expects of a; of the others, every rank gives the same counts.
template <class PostOf, class WorldRank>
std::optional<disagreement> compare_counts(int size, const comm_label& label, PostOf&& post_of, WorldRank&& world_rank) {
  const signature& base = post_of(0).what;
  const bool exchange = base.op == operation::all_to_all_v;
  const auto conflict = [&](int culprit, const std::string& text) {
    return disagreement{culprit, base, sentence("ranks disagree on the counts of ", describe(base), " on ", label.view(), ": ", text)};
  };
  for (int a = 0; a < size; ++a)
    for (int b = 0; b < size; ++b) {
      const auto& from = post_of(a);
      const auto& to = post_of(b);
      if (exchange && from.send_counts[std::size_t(b)] != to.recv_counts[std::size_t(a)])
        return conflict(a, sentence("rank ", world_rank(a), " sends ", from.send_counts[std::size_t(b)], " elements to rank ",
                                    world_rank(b), ", which expects ", to.recv_counts[std::size_t(a)]));
      const std::size_t said = post_of(0).send_counts[std::size_t(b)];
      if (!exchange && from.send_counts[std::size_t(b)] != said)
        return conflict(a, sentence("for rank ", world_rank(b), " rank ", world_rank(0), " says ", said, " elements, rank ", world_rank(a),
                                    " says ", from.send_counts[std::size_t(b)]));
    }
  return {};
}

/// post_of(rank) has `what`, `send_counts` and `recv_counts` (of v-operations, indexable by rank). The smallest camp holds the culprit; where two are as
/// small, the one whose first rank is higher. Allocates nothing while all agree.
template <class PostOf, class WorldRank>
std::optional<disagreement> compare_posts(int size, const comm_label& label, PostOf&& post_of, WorldRank&& world_rank) {
  const signature& base = post_of(0).what;
  bool same = true;
  for (int r = 1; r < size; ++r) same = same && post_of(r).what == base;
  if (same) {
    if (base.op != operation::all_gather_v && base.op != operation::reduce_scatter_v && base.op != operation::all_to_all_v) return {};
    return compare_counts(size, label, post_of, world_rank);
  }
  std::vector<std::vector<int>> camps;  // ranks that say the same
  bool mixed = false;
  for (int r = 0; r < size; ++r) {
    mixed = mixed || post_of(r).what.device != base.device;
    auto camp = std::find_if(camps.begin(), camps.end(), [&](const auto& c) { return post_of(c.front()).what == post_of(r).what; });
    if (camp == camps.end()) camp = camps.insert(camp, std::vector<int>{});
    camp->push_back(r);
  }
  for (std::size_t i = 1; i < camps.size(); ++i)  // the larger first; those of one size as they came
    for (std::size_t j = i; j > 0 && camps[j - 1].size() < camps[j].size(); --j) camps[j - 1].swap(camps[j]);
  std::string text = sentence("ranks disagree on ", label.view(), ": ");
  for (const auto& camp : camps)
    text += sentence(&camp == &camps.front() ? "" : " but ", described(post_of(camp.front()).what, mixed), " (ranks ",
                     list_ranks(camp, world_rank), ")");
  const int culprit = camps.back().front();
  return disagreement{culprit, post_of(culprit).what, text + "; all ranks must make the same calls in one order"};
}

}  // namespace moefold
