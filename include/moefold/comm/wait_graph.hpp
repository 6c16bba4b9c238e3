#pragma once
// Who waits for whom: ranks that wait on different communicators for each other can never go on, and that is known long before a deadline.
// Plain data and pure functions; the worlds (comm/thread_world.hpp, comm/process_world.hpp) collect the data.
//
//   rank 3: all_reduce #4 on ep, missing {1} --> rank 1: barrier #7 on world, missing {0, 2, 3} --> rank 3: a cycle
//   rank 2: computes                             waits for nobody: whoever waits for it may yet go on
// A collective needs all of its ranks, so one edge that never ends is enough. Each rank has two lanes, its own thread (0) and its helper (1), which
// are two nodes: a rank that names itself as missing waits for its other lane (lane 0 for what it has issued, an idle lane 1 for something to do).
#include <moefold/comm/signature.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace moefold {

/// One lane of one rank that cannot go on by itself.
struct waiting {
  int rank = 0;  // of the world, as all ranks here
  int lane = 0;
  comm_label label;          // where, and
  signature what;            // in which call; of no meaning while it waits for its other lane
  std::uint64_t call = 0;    // number of this wait on this lane: two looks that find the same number have found one uninterrupted wait
  std::vector<int> missing;  // on the same lane, but for itself

  bool for_other_lane() const { return std::find(missing.begin(), missing.end(), rank) != missing.end(); }
  bool operator<(const waiting& other) const { return rank != other.rank ? rank < other.rank : lane < other.lane; }

  enum class mark : unsigned char { fresh, open, done } seen = mark::fresh;  // find_cycle's own
};

namespace detail {

/// Null while that lane runs.
inline waiting* node_of(std::span<waiting> sorted, int rank, int lane) {
  waiting key;
  key.rank = rank, key.lane = lane;
  const auto place = std::lower_bound(sorted.begin(), sorted.end(), key);
  return place != sorted.end() && !(key < *place) ? &*place : nullptr;
}
/// The node that `from` waits for when `missing` is one of its missing ranks.
inline waiting* waited_for(std::span<waiting> sorted, const waiting& from, int missing) {
  return node_of(sorted, missing, missing == from.rank ? 1 - from.lane : from.lane);
}

/// Depth first. When it comes back to a node that is open, the path from there on is a cycle, filled in from its end.
inline waiting* close_cycle(std::span<waiting> sorted, waiting& at, std::vector<waiting>& cycle) {
  at.seen = waiting::mark::open;
  for (const int missing : at.missing) {
    waiting* const next = waited_for(sorted, at, missing);
    if (next == nullptr || next->seen == waiting::mark::done) continue;
    waiting* const first = next->seen == waiting::mark::open ? next : close_cycle(sorted, *next, cycle);
    if (!cycle.empty() || next == first) {
      if (first != nullptr) cycle.push_back(at);
      return first == &at ? nullptr : first;
    }
  }
  at.seen = waiting::mark::done;
  return nullptr;
}

}  // namespace detail

/// By rank and lane, as it mostly comes.
inline void sort_waits(std::span<waiting> all) {
  for (std::size_t i = 1; i < all.size(); ++i)
    for (std::size_t j = i; j > 0 && all[j] < all[j - 1]; --j) std::swap(all[j - 1], all[j]);
}

/// Lanes that wait for each other in a ring, each for the next and the last for the first; empty when there are none. It begins with the one that
/// most ranks wait for: the likeliest culprit. Sorts `all` and allocates nothing unless there is a cycle.
///
/// One look at ranks that run meanwhile proves nothing: a cycle is certain when a second look, begun after the first has ended, finds it `unbroken`.
inline std::vector<waiting> find_cycle(std::span<waiting> all) {
  sort_waits(all);
  for (waiting& w : all) w.seen = waiting::mark::fresh;
  std::vector<waiting> cycle;
  for (waiting& w : all)
    if (w.seen == waiting::mark::fresh && cycle.empty()) detail::close_cycle(all, w, cycle);
  if (cycle.empty()) return cycle;
  std::reverse(cycle.begin(), cycle.end());
  const auto awaited_by = [&](const waiting& w) {
    return std::count_if(all.begin(), all.end(), [&](const waiting& o) {
      return o.rank != w.rank && o.lane == w.lane && std::find(o.missing.begin(), o.missing.end(), w.rank) != o.missing.end();
    });
  };
  const auto most = std::max_element(cycle.begin(), cycle.end(), [&](const waiting& a, const waiting& b) {
    return awaited_by(a) != awaited_by(b) ? awaited_by(a) < awaited_by(b) : b < a;
  });
  std::rotate(cycle.begin(), most, cycle.end());
  return cycle;
}

/// Why `rank` does not come: its wait, that of the rank it waits for, and so on; the last one waits for a rank that runs. Empty when it runs itself.
/// `sorted` as find_cycle left it.
inline std::vector<waiting> waits_behind(std::span<waiting> sorted, int rank, int lane) {
  std::vector<waiting> chain;
  for (waiting* at = detail::node_of(sorted, rank, lane); at != nullptr && !at->missing.empty() && chain.size() < sorted.size();
       at = detail::waited_for(sorted, *at, at->missing.front()))
    chain.push_back(*at);
  return chain;
}

/// Whether every wait of the cycle is still the same one, for the same rank.
inline bool unbroken(std::span<const waiting> cycle, std::span<const waiting> now) {
  for (std::size_t i = 0; i < cycle.size(); ++i) {
    const int next = cycle[(i + 1) % cycle.size()].rank;
    const auto same = std::find_if(now.begin(), now.end(), [&](const waiting& w) {
      return w.rank == cycle[i].rank && w.lane == cycle[i].lane && w.call == cycle[i].call && w.what == cycle[i].what &&
             std::find(w.missing.begin(), w.missing.end(), next) != w.missing.end();
    });
    if (same == now.end()) return false;
  }
  return !cycle.empty();
}

/// "rank 3 waits in all_reduce #4 on ep for rank 1"
inline std::string describe(const waiting& w, int next) {
  const std::string who = sentence(w.lane == 0 ? "rank " : "the helper of rank ", w.rank);
  if (next != w.rank) return sentence(who, " waits in ", name_of(w.what.op), " #", w.what.seq, " on ", w.label.view(), " for rank ", next);
  return w.lane == 0 ? who + " waits for its helper" : sentence(who, " has nothing to do until rank ", w.rank, " goes on");
}
/// Of a cycle: the last rank waits for the first.
inline std::string describe(std::span<const waiting> cycle) {
  std::string text;
  for (std::size_t i = 0; i < cycle.size(); ++i) text += (i == 0 ? "" : "; ") + describe(cycle[i], cycle[(i + 1) % cycle.size()].rank);
  return text;
}
/// Of what waits_behind returned.
inline std::string describe_chain(std::span<const waiting> chain) {
  std::string text;
  for (const waiting& w : chain) text += (text.empty() ? "" : "; ") + describe(w, w.missing.front());
  return text;
}

}  // namespace moefold
