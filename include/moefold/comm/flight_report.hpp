#pragma once
// Puts the flight recorders of all ranks side by side, call by call of each communicator, and says in one sentence where they part: ranks that made different
// calls, or a rank that has not come to a call while others wait in it, or ranks that wait for each other. Calls are matched by their numbers, never by time.
//
//   ep (ranks 0-3)
//     #16 all_to_all_v #16 of fp32          done 0-3
//     #17 all_to_all_v #17 of fp32          inside 0-2; not come: 3      <- first divergence
#include <moefold/comm/flight_reader.hpp>
#include <moefold/comm/wait_graph.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <tuple>

namespace moefold {

/// "0-2, 5"
inline std::string list_of_ranks(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  std::string text;
  for (std::size_t i = 0, j = 0; i < ranks.size(); i = j) {
    for (j = i + 1; j < ranks.size() && ranks[j] == ranks[j - 1] + 1;) ++j;
    text += sentence(text.empty() ? "" : ", ", ranks[i]);
    if (j - i == 2) text += sentence(", ", ranks[j - 1]);
    if (j - i > 2) text += sentence("-", ranks[j - 1]);
  }
  return text.empty() ? "none" : text;
}

class flight_report {
 public:
  /// Of a job: the newest files that belong together. Others are left out, and named in notes().
  explicit flight_report(std::vector<flight_dump> files) {
    choose(std::move(files));
    for (const flight_dump& d : dumps_)
      for (const flight_call& c : d.calls) {
        if (c.what.op == operation::send || c.what.op == operation::recv) continue;
        group& g = groups_[c.group.id];
        g.label = c.label, g.members[c.group.rank] = d.rank;
        g.size = c.group.size, g.lane = c.lane;
        g.ranks[d.rank].emplace(c.what.seq, &c);
      }
    for (auto& [id, g] : groups_) compare(g);
    judge();
  }

  /// One sentence.
  const std::string& verdict() const { return verdict_; }
  /// Whether ranks disagree, or wait for a rank that does not come.
  bool diverged() const { return diverged_; }
  /// What else the reader should know, a sentence each.
  const std::vector<std::string>& notes() const { return notes_; }
  const std::vector<flight_dump>& dumps() const { return dumps_; }

  /// The last `rows` calls of each communicator: of all, or of those on which ranks part, if there are any.
  std::string table(std::size_t rows = 5, bool all = false) const {
    std::vector<const group*> shown;
    const bool some = std::any_of(groups_.begin(), groups_.end(), [](const auto& g) { return g.second.parts(); });
    for (const auto& [id, g] : groups_)
      if (all || !some || g.parts()) shown.push_back(&g);
    std::stable_sort(shown.begin(), shown.end(), [](auto* a, auto* b) { return a->parts() > b->parts(); });
    std::string text;
    for (const group* g : shown) text += table_of(*g, rows);
    return text + positions();
  }

 private:
  static constexpr std::size_t most_missing = 4096;  // of one call: enough to see
  struct group {
    comm_label label;
    std::uint32_t size = 1;
    int lane = 0;
    std::map<std::uint32_t, int> members;                              // world ranks by rank in it, as far as calls of it are known
    std::map<int, std::map<std::uint64_t, const flight_call*>> ranks;  // by world rank, by number of the call
    const flight_call* odd = nullptr;                                  // the first call in which ranks disagree
    std::uint64_t last = 0;                                            // the last call anybody came to
    std::vector<int> behind;                                           // ranks that have not come to it
    bool parts() const { return odd != nullptr || !behind.empty(); }
  };

  void choose(std::vector<flight_dump> files) {
    std::sort(files.begin(), files.end(), [](const flight_dump& a, const flight_dump& b) { return a.wall > b.wall; });
    int world = 0;  // the largest of those that were written last: a rank alone may have had a world of its own
    for (const flight_dump& d : files)
      if (files[0].wall - d.wall < 60'000'000'000) world = std::max(world, d.world);
    std::size_t older = 0;
    for (flight_dump& d : files) {
      const auto excludes = [&](const flight_dump& have) {  // the worlds of one process are numbered
        return have.rank == d.rank || (have.recorder != d.recorder && have.pid == d.pid && have.host == d.host);
      };
      if (d.world == world && std::none_of(dumps_.begin(), dumps_.end(), excludes))
        dumps_.push_back(std::move(d));
      else
        ++older;
    }
    require<config_error>(!dumps_.empty(), "moefold: no file of a flight recorder was given; name files, or a folder that holds some");
    if (older > 0) notes_.push_back(sentence(older, " older files, or of other worlds, are left out"));
    const std::int64_t newest = dumps_[0].wall;
    std::sort(dumps_.begin(), dumps_.end(), [](const flight_dump& a, const flight_dump& b) { return a.rank < b.rank; });
    std::vector<int> none;
    for (int r = 0, next = 0; r < dumps_[0].world && none.size() < 10'000; ++r)
      if (std::size_t(next) < dumps_.size() && dumps_[std::size_t(next)].rank == r)
        ++next;
      else
        none.push_back(r);
    if (!none.empty()) notes_.push_back(sentence("there is no file of ranks ", list_of_ranks(none), " of ", dumps_[0].world));
    for (const flight_dump& d : dumps_) {
      if (!d.complete) notes_.push_back(sentence("the file of rank ", d.rank, " is cut short"));
      if (newest - d.wall > 10'000'000'000)
        notes_.push_back(sentence("the file of rank ", d.rank, " is ", (newest - d.wall) / 1'000'000'000, " s older than the newest"));
    }
  }
  const flight_dump* dump_of(int rank) const {
    const auto place = std::lower_bound(dumps_.begin(), dumps_.end(), rank, [](const flight_dump& d, int r) { return d.rank < r; });
    return place != dumps_.end() && place->rank == rank ? &*place : nullptr;
  }

  /// The calls that all known ranks still have: is there one that they made differently? And who is behind?
  static void compare(group& g) {
    std::uint64_t first = 0, common = ~std::uint64_t{0};
    for (const auto& [rank, calls] : g.ranks) {
      first = std::max(first, calls.begin()->first);
      common = std::min(common, calls.rbegin()->first);
      g.last = std::max(g.last, calls.rbegin()->first);
    }
    const auto& reference = g.ranks.begin()->second;
    for (auto at = reference.lower_bound(first); at != reference.end() && at->first <= common && g.odd == nullptr; ++at)
      for (const auto& [rank, calls] : g.ranks) {
        const auto theirs = calls.find(at->first);
        if (theirs != calls.end() && !(theirs->second->what == at->second->what)) g.odd = at->second;
      }
    if (g.odd != nullptr) return;  // what comes after it means nothing
    for (const auto& [rank, calls] : g.ranks)
      if (calls.rbegin()->first < g.last) g.behind.push_back(rank);
  }

  /// The camps of a call: ranks that made the same one.
  static std::vector<std::pair<const flight_call*, std::vector<int>>> camps(const group& g, std::uint64_t seq) {
    std::vector<std::pair<const flight_call*, std::vector<int>>> found;
    for (const auto& [rank, calls] : g.ranks) {
      const auto call = calls.find(seq);
      if (call == calls.end()) continue;
      auto camp = std::find_if(found.begin(), found.end(), [&](const auto& f) { return f.first->what == call->second->what; });
      if (camp == found.end()) camp = found.insert(camp, {call->second, {}});
      camp->second.push_back(rank);
    }
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
    return found;
  }

  double day_time(const flight_call& c, int rank) const {
    return double(c.start) + double(dump_of(rank)->wall - dump_of(rank)->steady);
  }  // ns

  void judge() {
    const group* odd = nullptr;
    for (const auto& [id, g] : groups_)
      if (g.odd != nullptr && (odd == nullptr || first_time(g) < first_time(*odd))) odd = &g;
    diverged_ = true;
    if (odd != nullptr) return judge_mismatch(*odd);
    std::vector<waiting> waits = all_waits();
    if (const std::vector<waiting> cycle = find_cycle(waits); !cycle.empty()) {
      verdict_ = "ranks wait for each other: " + moefold::describe(cycle);
      return;
    }
    std::set<std::pair<int, int>> waiting_lanes;  // also those of which it is not known for whom
    for (const waiting& w : waits) waiting_lanes.emplace(w.rank, w.lane);
    for (const flight_dump& d : dumps_)
      for (int lane = 0; lane < int(d.made.size()); ++lane)
        if (const flight_call* const last = d.last(lane); last != nullptr && last->state == flight_state::inside && d.rank != culprit())
          waiting_lanes.emplace(d.rank, lane);
    std::map<int, std::vector<const waiting*>> awaited;  // ranks that wait in no call themselves, and who waits for them
    for (const waiting& w : waits)
      for (const int missing : w.missing)
        if (!waiting_lanes.contains({missing, w.lane})) awaited[missing].push_back(&w);
    // Of several: the one whose failure it was, or for whom most ranks wait, or who has been away for longest.
    const auto weight = [&](const auto& missing) {
      const flight_dump* const d = dump_of(missing.first);
      const flight_call* const last = d != nullptr ? d->last(missing.second.front()->lane) : nullptr;
      return std::tuple(missing.first == culprit(), missing.second.size(), last != nullptr ? d->steady - last->end : -1);
    };
    if (culprit() >= 0 && !awaited.contains(culprit()) &&
        std::none_of(waits.begin(), waits.end(), [&](const waiting& w) { return w.rank == culprit(); })) {
      verdict_ = sentence("rank ", culprit(), " failed by itself; up to then the ranks agree on every call");
      return;
    }
    if (!awaited.empty())
      return judge_missing(
          *std::max_element(awaited.begin(), awaited.end(), [&](const auto& a, const auto& b) { return weight(a) < weight(b); }));
    diverged_ = false;
    verdict_ = sentence("the ranks agree on every call, and none waits for another", in_calls());
  }
  int culprit() const {
    for (const flight_dump& d : dumps_)
      if (d.culprit >= 0) return d.culprit;
    return -1;
  }
  double first_time(const group& g) const {
    double first = std::numeric_limits<double>::infinity();
    for (const auto& [rank, calls] : g.ranks)
      if (const auto c = calls.find(g.odd->what.seq); c != calls.end()) first = std::min(first, day_time(*c->second, rank));
    return first;
  }
  void judge_mismatch(const group& g) {
    verdict_ = sentence("ranks disagree on ", g.label.view(), ": ");
    const auto all = camps(g, g.odd->what.seq);
    for (const auto& [call, ranks] : all)
      verdict_ +=
          sentence(&call == &all.front().first ? "" : " but ", moefold::describe(call->what), call->what.device ? " in device memory" : "",
                   ranks.size() == 1 ? " (rank " : " (ranks ", list_of_ranks(ranks), ")");
  }
  void judge_missing(const std::pair<const int, std::vector<const waiting*>>& missing) {
    const auto& [rank, by] = missing;
    const waiting& first = *by.front();
    std::vector<int> ranks, elsewhere;
    for (const waiting* w : by) (w->label == first.label && w->what == first.what ? ranks : elsewhere).push_back(w->rank);
    verdict_ = sentence("rank ", rank, first.what.op == operation::recv ? " has not sent for " : " has not come to ",
                        name_of(first.what.op), " #", first.what.seq, " on ", first.label.view(), ", where ",
                        ranks.size() == 1 ? "rank " : "ranks ", list_of_ranks(ranks), ranks.size() == 1 ? " waits" : " wait",
                        elsewhere.empty() ? "" : sentence(" (and elsewhere ", list_of_ranks(elsewhere), ")"), "; ");
    const flight_dump* const dump = dump_of(rank);
    const flight_call* const last = dump != nullptr ? dump->last(first.lane) : nullptr;
    if (dump == nullptr)
      verdict_ += "there is no file of that rank";
    else if (last == nullptr)
      verdict_ += "it has made no call at all";
    else {
      const double away = double(dump->steady - last->end) * 1e-9;
      verdict_ += sentence("its last call, ", name_of(last->what.op), " #", last->what.seq, " on ", last->label.view(), ", ended ", away,
                           " s before its file was written", away < 0.1 && rank != culprit() ? ": it may be on its way" : "");
    }
  }

  /// Who is in a call, and whom it misses there. A rank that left its last call by a failure counts as in it.
  std::vector<waiting> all_waits() const {
    std::vector<waiting> waits;
    for (const flight_dump& d : dumps_)
      for (int lane = 0; lane < int(d.made.size()); ++lane) {
        const flight_call* const last = d.last(lane);
        if (last == nullptr || last->state == flight_state::done) continue;
        waiting w;
        w.rank = d.rank, w.lane = lane, w.label = last->label, w.what = last->what;
        w.missing = missing_for(d.rank, *last);
        if (!w.missing.empty()) waits.push_back(std::move(w));
      }
    return waits;
  }
  std::vector<int> missing_for(int rank, const flight_call& call) const {
    std::vector<int> missing;
    const auto found = groups_.find(call.group.id);
    const auto world_rank = [&](std::uint32_t r) {
      if (call.group.size == std::uint32_t(dumps_[0].world)) return int(r);  // all ranks, in their order as far as is known
      if (found == groups_.end()) return -1;
      const auto member = found->second.members.find(r);
      return member != found->second.members.end() ? member->second : -1;
    };
    if (call.what.op == operation::send) return missing;  // never waits
    if (call.what.op == operation::recv) {
      if (const int peer = call.what.root >= 0 ? world_rank(std::uint32_t(call.what.root)) : -1; peer >= 0 && peer != rank)
        missing.push_back(peer);
      return missing;
    }
    for (std::uint32_t r = 0; r < call.group.size && missing.size() < most_missing; ++r) {
      const int peer = world_rank(r);
      if (peer < 0 || peer == rank) continue;
      const auto theirs = found->second.ranks.find(peer);
      if (theirs == found->second.ranks.end() || theirs->second.rbegin()->first < call.what.seq) missing.push_back(peer);
    }
    return missing;
  }
  std::string in_calls() const {
    std::size_t inside = 0;
    for (const flight_dump& d : dumps_)
      for (int lane = 0; lane < int(d.made.size()); ++lane)
        if (const flight_call* const last = d.last(lane)) inside += last->state == flight_state::inside;
    return inside == 0 ? "" : sentence("; ", inside, inside == 1 ? " call is" : " calls are", " under way");
  }

  static std::string table_of(const group& g, std::size_t rows) {
    std::vector<int> known;
    for (const auto& [rank, calls] : g.ranks) known.push_back(rank);
    std::string text = sentence(g.label.view(), " (", known.size() == g.size ? "" : sentence(g.size, " ranks, of which are known: "),
                                "ranks ", list_of_ranks(known), g.lane == 1 ? ", beside the caller)\n" : ")\n");
    const std::uint64_t last = g.odd != nullptr ? g.odd->what.seq : g.last;
    for (std::uint64_t seq = last >= rows ? last - rows + 1 : 0; seq <= last; ++seq) {
      std::vector<int> seen;
      for (const auto& [call, ranks] : camps(g, seq)) {
        std::string marks;
        for (std::size_t s = 0; s < flight_states; ++s) {
          std::vector<int> in;
          for (const int r : ranks)
            if (g.ranks.at(r).at(seq)->state == flight_state(s)) in.push_back(r);
          if (!in.empty()) marks += sentence(marks.empty() ? "" : "; ", name_of(flight_state(s)), " ", list_of_ranks(in));
        }
        seen.insert(seen.end(), ranks.begin(), ranks.end());
        std::string what = moefold::describe(call->what);
        what.resize(std::max<std::size_t>(what.size() + 2, 44), ' ');
        text += sentence("  ", what, marks, "\n");
      }
      std::vector<int> absent;
      for (const auto& [rank, calls] : g.ranks)
        if (calls.rbegin()->first < seq) absent.push_back(rank);
      if (!absent.empty()) text += sentence("  ", std::string(44, ' '), "not come: ", list_of_ranks(absent), "\n");
      if (seq == last) {
        if (g.odd != nullptr) text += sentence("  ^ the ranks disagree from here on\n");
        break;
      }
    }
    return text;
  }
  std::string positions() const {
    std::string text = "last call of each rank\n";
    for (const flight_dump& d : dumps_)
      for (int lane = 0; lane < int(d.made.size()); ++lane)
        if (const flight_call* const c = d.last(lane))
          text += sentence("  rank ", d.rank, lane == 1 ? ", beside" : "", ": ", moefold::describe(c->what), " on ", c->label.view(), ", ",
                           name_of(c->state), c->state == flight_state::done ? " " : " for ",
                           double(d.steady - (c->state == flight_state::done ? c->end : c->start)) * 1e-9,
                           c->state == flight_state::done ? " s ago\n" : " s\n");
    return text;
  }

  std::vector<flight_dump> dumps_;  // by rank
  std::map<std::uint64_t, group> groups_;
  std::string verdict_;
  std::vector<std::string> notes_;
  bool diverged_ = false;
};

}  // namespace moefold
