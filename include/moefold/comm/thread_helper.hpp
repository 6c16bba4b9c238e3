#pragma once
// A thread that works beside its owner: jobs are done one after another, in the order they were issued. What a rank of threads has in place of a
// device's stream; comm/thread.hpp issues the operations of its `apart` communicators here.
//
//   owner    issue #1, issue #2, compute, .., wait(1)         helper    #1, #2, ..        ring [job | job | job | .. 64], 256 bytes each, kept in place
//   A job that throws is the last one that counts: wait says of it, and of all after it, that they failed.
#include <moefold/comm/parking.hpp>
#include <moefold/core/error.hpp>

#include <array>
#include <cstddef>
#include <exception>
#include <limits>
#include <new>
#include <thread>
#include <type_traits>

namespace moefold {

class thread_helper {
 public:
  static constexpr std::size_t room = 256;             // bytes a job may have
  static constexpr std::uint64_t most_in_flight = 64;  // then issue waits for the oldest

  thread_helper() : thread_([this] { work(); }) {}
  ~thread_helper() { stop(); }
  thread_helper(const thread_helper&) = delete;
  thread_helper& operator=(const thread_helper&) = delete;

  /// Hands over job(), by value. Returns its number, counted from 1. Owner only; allocates nothing.
  template <class Job>
  std::uint64_t issue(const Job& job) {
    static_assert(std::is_trivially_copyable_v<Job> && sizeof(Job) <= room && alignof(Job) <= alignof(std::max_align_t),
                  "moefold: a job is copied byte by byte; capture pointers, spans and numbers, at most 256 bytes");
    const std::uint64_t number = issued() + 1;
    require(!stopping_.load(std::memory_order_relaxed), "moefold: this rank has ended, and its helper with it; issue nothing more");
    if (number > most_in_flight) wait(number - most_in_flight);
    slot& s = ring_[number % most_in_flight];
    ::new (static_cast<void*>(s.bytes)) Job(job);
    s.run = [](void* bytes) { (*static_cast<Job*>(bytes))(); };
    issued_.store(number, std::memory_order_seq_cst);
    work_.advance();
    return number;
  }
  std::uint64_t issued() const { return issued_.load(std::memory_order_relaxed); }
  bool done(std::uint64_t number) const { return done_.load(std::memory_order_seq_cst) >= number; }

  /// Returns when job `number` has ended: true if it and all before it ended well. What it wrote can be read. Owner only.
  bool wait(std::uint64_t number) {
    while (!wait_until(number, steady::now() + std::chrono::hours(1))) {
    }
    return number < first_failed_.load(std::memory_order_acquire);
  }
  /// Returns when job `number` has ended (true) or at that time (false). Owner only.
  bool wait_until(std::uint64_t number, steady::time_point time) {
    for (bool in_time = true; in_time && !done(number);) {
      const std::uint32_t seen = ended_.load();
      if (!done(number)) in_time = ended_.wait(seen, patience_, time);
    }
    return done(number);
  }
  /// It has nothing to do. True is certain only while the owner issues nothing.
  bool idle() const { return done_.load(std::memory_order_seq_cst) == issued_.load(std::memory_order_seq_cst); }
  std::uint64_t first_failed() const { return first_failed_.load(std::memory_order_acquire); }
  /// What the first job that failed threw. After wait has said so.
  const std::exception_ptr& failure() const { return failure_; }

  /// Does what is left and ends the thread; nothing can be issued after. Owner only.
  void stop() {
    stopping_.store(true, std::memory_order_seq_cst);
    work_.advance();
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct slot {
    void (*run)(void*) = nullptr;
    alignas(std::max_align_t) std::byte bytes[room];
  };

  void work() {
    spin_habit sleep_at_once;
    for (std::uint64_t next = 1;; ++next) {
      for (;;) {
        const std::uint32_t seen = work_.load();
        if (issued_.load(std::memory_order_seq_cst) >= next) break;
        if (stopping_.load(std::memory_order_seq_cst)) {
          if (issued_.load(std::memory_order_seq_cst) >= next) break;  // issued just before: nothing comes after a stop
          return;
        }
        work_.wait(seen, sleep_at_once, steady::now() + std::chrono::hours(1));
      }
      slot& s = ring_[next % most_in_flight];
      try {
        s.run(s.bytes);
      } catch (...) {
        if (first_failed() == none) {
          failure_ = std::current_exception();
          first_failed_.store(next, std::memory_order_release);
        }
      }
      done_.store(next, std::memory_order_seq_cst);
      ended_.advance();
    }
  }

  static constexpr std::uint64_t none = std::numeric_limits<std::uint64_t>::max();
  std::array<slot, most_in_flight> ring_;
  std::atomic<std::uint64_t> issued_{0}, done_{0}, first_failed_{none};
  std::atomic<bool> stopping_{false};
  std::exception_ptr failure_;  // before first_failed_
  spin_habit patience_;         // of the owner
  parking_word work_, ended_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace moefold
