#pragma once
// Which rank the others wait for: whenever ranks meet, the last one to come is noted with the time by which it was the last. One table for a world.
// What everybody suffers from (a slow step) shows nowhere else: all ranks end it at the same time.
//
//   arrivals  0: 1.0  1: 1.1  2: 1.2  3: 9.0 ms      rank 3 was last, 7.8 ms after the one before
//   Lateness is inherited: who comes late because it waited for another is no straggler. So no rank is charged for more than the time it has run
//   since it last waited.
#include <moefold/comm/communicator.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace moefold {

struct straggler_count {
  std::uint64_t times = 0;  // it was the last to come
  std::chrono::nanoseconds late{0};

  bool operator==(const straggler_count&) const = default;
  straggler_count& operator+=(const straggler_count& other) {
    times += other.times, late += other.late;
    return *this;
  }
};

/// [world ranks]. Any thread may add and read at any time; nothing is locked, nothing allocated after construction.
class straggler_table {
 public:
  explicit straggler_table(int ranks) : ranks_(ranks), cells_(std::make_unique<cell[]>(std::size_t(ranks))) {}

  int size() const { return ranks_; }
  void add(int rank, std::chrono::nanoseconds late) {
    if (late.count() <= 0) return;
    cells_[std::size_t(rank)].times.fetch_add(1, std::memory_order_relaxed);
    cells_[std::size_t(rank)].late.fetch_add(late.count(), std::memory_order_relaxed);
  }
  straggler_count operator[](int rank) const {
    const cell& c = cells_[std::size_t(rank)];
    return {c.times.load(std::memory_order_relaxed), std::chrono::nanoseconds(c.late.load(std::memory_order_relaxed))};
  }
  std::vector<straggler_count> counts() const {
    std::vector<straggler_count> all;
    for (int r = 0; r < ranks_; ++r) all.push_back((*this)[r]);
    return all;
  }
  void clear() {
    for (int r = 0; r < ranks_; ++r) cells_[std::size_t(r)].times = 0, cells_[std::size_t(r)].late = 0;
  }

 private:
  struct alignas(64) cell {
    std::atomic<std::uint64_t> times{0};
    std::atomic<std::int64_t> late{0};  // ns
  };
  int ranks_;
  std::unique_ptr<cell[]> cells_;
};

/// The rank that kept the others waiting longest; -1 when nobody did. [ranks]
inline int slowest(const std::vector<straggler_count>& counts) {
  int rank = -1;
  for (std::size_t r = 0; r < counts.size(); ++r)
    if (counts[r].late.count() > 0 && (rank < 0 || counts[r].late > counts[std::size_t(rank)].late)) rank = int(r);
  return rank;
}

/// "the others waited 1.5 s for rank 3 (12 % of 12.5 s, in 400 calls); see what its core or card does besides": of a run that took `whole`. Empty
/// when that is less than a second or than `worth` of the run, or less than twice what they waited for the next rank: then no one rank is to blame.
inline std::string straggler_report(const std::vector<straggler_count>& counts, std::chrono::nanoseconds whole, double worth = 0.05) {
  const int rank = slowest(counts);
  if (rank < 0) return {};
  const straggler_count& worst = counts[std::size_t(rank)];
  const double seconds = 1e-9 * double(worst.late.count()), all = 1e-9 * double(whole.count());
  if (seconds < 1 || seconds < worth * all) return {};
  for (std::size_t r = 0; r < counts.size(); ++r)
    if (int(r) != rank && 2 * counts[r].late > worst.late) return {};
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, "%.3g s for rank %d (%.3g %% of %.3g s, in ", seconds, rank, 100 * seconds / std::max(all, 1e-9),
                all);
  return sentence("the others waited ", numbers, worst.times, " calls); see what its core or card does besides");
}

/// The report of a stretch of a run, from construction on. For communicators that count nothing it is empty.
template <class Comm>
class straggler_watch {
 public:
  explicit straggler_watch(const Comm& world) : before_(counts_of(world)) {}

  /// Collective over the world; the same on every rank. Ranks that are processes have seen different waits: of each the longest counts.
  template <class Exec>
  std::string report(Comm& world, Exec e, double worth = 0.05) const {
    std::vector<std::int64_t> numbers;
    for (std::size_t r = 0; const straggler_count& now : counts_of(world)) {
      numbers.push_back(std::int64_t(now.times - before_[r].times));
      numbers.push_back((now.late - before_[r++].late).count());
    }
    if (numbers.empty()) return {};
    world.all_reduce(e, numbers, numbers, max{}).wait(e);
    std::vector<straggler_count> all(before_.size());
    for (std::size_t r = 0; r < all.size(); ++r) all[r] = {std::uint64_t(numbers[2 * r]), std::chrono::nanoseconds(numbers[2 * r + 1])};
    return straggler_report(all, std::chrono::steady_clock::now() - begin_, worth);
  }

 private:
  static std::vector<straggler_count> counts_of(const Comm& world) {
    if constexpr (requires { world.stragglers(); })
      return world.stragglers();
    else
      return {};
  }
  std::vector<straggler_count> before_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace moefold
