#pragma once
// A word that threads wait on: they spin for a moment if told so, then sleep until somebody changes the word or a deadline passes.
// Closing it is for ever and wakes everybody, so that a failure is noticed at once and not at the deadline.
//
//   value  [ generation : 31 | closed : 1 ]      advance(): generation + 1      close(): closed = 1
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <climits>
#include <ctime>
#else
#include <condition_variable>
#include <mutex>
#endif
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace moefold {

using steady = std::chrono::steady_clock;

/// Whether a waiter spins before it sleeps, learnt from its last waits; and how long it slept. As many cores as ranks do not make spinning
/// pay: the scheduler may have put both on one core, where the spinner keeps its peer away, and a peer that computes for long is not worth it
/// either. But ranks that sleep in turns are late in turns, so one spin in vain means little: each further one doubles the number of waits
/// without a spin, and one that pays starts anew. Belongs to one thread.
class spin_habit {
 public:
  static constexpr int longest_rest = 63;

  explicit spin_habit(int spins = 0) : spins_(spins) {}
  int next() {
    if (resting_ == 0) return spins_;
    --resting_;
    return 0;
  }
  void paid() { rest_ = 0; }
  void in_vain() {
    resting_ = rest_;
    rest_ = std::min(2 * rest_ + 1, longest_rest);
  }

  void slept(std::chrono::nanoseconds time) { asleep_ += time; }
  std::chrono::nanoseconds asleep() const { return asleep_; }  // in all waits so far

 private:
  int spins_;
  int rest_ = 0, resting_ = 0;  // waits without a spin: after the next one in vain, and from now
  std::chrono::nanoseconds asleep_{0};
};

class parking_word {
 public:
  std::uint32_t load() const { return value_.load(std::memory_order_seq_cst); }
  static bool closed(std::uint32_t value) { return (value & 1u) != 0; }
  static bool advanced(std::uint32_t from, std::uint32_t to) { return ((from ^ to) & ~1u) != 0; }

  void advance() {
    value_.fetch_add(2, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake();
  }
  void close() {
    value_.fetch_or(1, std::memory_order_seq_cst);
    wake();
  }

  /// Returns when the word is no longer `seen` (true) or the deadline has passed (false). Spins as the habit says before it sleeps.
  bool wait(std::uint32_t seen, spin_habit& habit, steady::time_point deadline) {
    if (const int spins = habit.next(); spins > 0) {
      for (int i = 0; i < spins; ++i) {
        if (value_.load(std::memory_order_acquire) != seen) {
          habit.paid();
          return true;
        }
        pause();
      }
      habit.in_vain();
    }
    const auto begin = steady::now();
    auto now = begin;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (value_.load(std::memory_order_seq_cst) == seen && now < deadline) {
      sleep(seen, deadline);
      now = steady::now();
    }
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    habit.slept(now - begin);
    return value_.load(std::memory_order_seq_cst) != seen;
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

#if defined(__linux__)
  // The kernel compares the word with `seen` before it lets the thread sleep, so a change in between is never missed.
  void sleep(std::uint32_t seen, steady::time_point deadline) {
    const auto since_boot = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
    timespec until{};
    until.tv_sec = std::time_t(since_boot / 1'000'000'000);
    until.tv_nsec = long(since_boot % 1'000'000'000);
    syscall(SYS_futex, &value_, FUTEX_WAIT_BITSET_PRIVATE, seen, &until, nullptr, FUTEX_BITSET_MATCH_ANY);
  }
  void wake() { syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
  void sleep(std::uint32_t seen, steady::time_point deadline) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, deadline, [&] { return value_.load() != seen; });
  }
  void wake() {
    { std::lock_guard lock(mutex_); }  // nobody is between its last look at the word and its sleep
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
#endif

  static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));
  std::atomic<std::uint32_t> value_{0};
  std::atomic<std::uint32_t> sleepers_{0};
};

}  // namespace moefold
