#pragma once
// SIGTERM and SIGINT as a wish to stop: the first one is noted, and a run ends after the step it is in (trainer_options::stop); a second one ends the process at
// once, whatever it is doing.
//
//   signal 1 ......... asked() = 15 ....... the step ends on all ranks, the state is saved, exit code 143
//   signal 2 ......... _exit(143): nothing is saved that was not
// A second one within 0.2 s is the first one told twice, as `timeout` does it, which signals the program and then its process group.
#include <moefold/core/error.hpp>

#include <atomic>
#include <cstdint>
#include <ctime>
#include <iterator>
#include <string>
#include <utility>

#include <signal.h>
#include <unistd.h>

namespace moefold {

/// Handles both signals while it lives; one at a time in a process. Throws error where there is one already.
class stop_signals {
 public:
  stop_signals() {
    require(!std::exchange(taken_, true), "moefold: there are stop_signals already; a process has one at a time");
    asked_.store(0), since_.store(0);
    struct sigaction mine {};
    mine.sa_handler = &hear;
    mine.sa_flags = SA_RESTART;  // files and sockets that are being read need not care
    sigfillset(&mine.sa_mask);
    for (std::size_t i = 0; i < std::size(handled); ++i) ::sigaction(handled[i], &mine, &before_[i]);
  }
  stop_signals(const stop_signals&) = delete;
  stop_signals& operator=(const stop_signals&) = delete;
  ~stop_signals() {
    for (std::size_t i = 0; i < std::size(handled); ++i) ::sigaction(handled[i], &before_[i], nullptr);
    taken_ = false;
  }

  /// The signal that was heard first, 0: none.
  const std::atomic<int>& asked() const { return asked_; }

  /// What a shell calls the end by a signal: 130 for SIGINT, 143 for SIGTERM.
  static constexpr int exit_code(int signal) { return 128 + signal; }
  static std::string name_of(int signal) {
    return signal == SIGINT ? "SIGINT" : signal == SIGTERM ? "SIGTERM" : sentence("signal ", signal);
  }

 private:
  static constexpr int handled[] = {SIGINT, SIGTERM};
  static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free);
  static inline std::atomic<int> asked_{0};
  static inline std::atomic<std::int64_t> since_{0};  // ns
  static inline bool taken_ = false;

  static void hear(int signal) {  // only what is async-signal-safe
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    const std::int64_t now = std::int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
    int none = 0;
    if (asked_.compare_exchange_strong(none, signal))
      since_.store(now);
    else if (const std::int64_t since = since_.load(); since != 0 && now - since > 200'000'000)
      ::_exit(exit_code(signal));
  }

  struct sigaction before_[std::size(handled)]{};
};

}  // namespace moefold
