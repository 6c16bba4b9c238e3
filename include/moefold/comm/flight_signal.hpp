#pragma once
// Shows where every rank of a running program is: on a signal, the flight recorders of the process are written to files, whatever the ranks do, or wait for.
// For programs, which own their signals: the library installs no handler by itself.
//
//   int main() { flight_signal on_signal; ... }            kill -USR1 <pid>     (mpirun and srun hand SIGUSR1 on to their processes)
//   signal -> handler: one byte into a pipe -> thread of its own: moefold-flight-<host>-<pid>-<world>-<n>-rank-<rank>.txt
// The files lie in the folder MOEFOLD_FLIGHT_DIR; where that is not set in the current folder, or in TMPDIR or /tmp if that cannot be written.
#include <moefold/comm/flight_dump.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

namespace moefold {

/// Where dumps on a signal go.
inline std::string flight_signal_folder() {
  if (std::string named = flight_folder(); !named.empty()) return named;
  if (access(".", W_OK) == 0) return ".";
  const char* const temporary = std::getenv("TMPDIR");
  return temporary != nullptr && *temporary != '\0' ? temporary : "/tmp";
}

/// Writes all flight recorders of the process each time the signal comes, while it lives. One per process. Throws config_error if there is one already, or the
/// system gives no pipe or thread.
class flight_signal {
 public:
  explicit flight_signal(int number = SIGUSR1) : number_(number) {
    require<config_error>(pipe(ends_) == 0, "moefold: no pipe for the flight recorder's signal; raise the limit of open files");
    int none = -1;
    if (!to_writer().compare_exchange_strong(none, ends_[1])) {
      close(ends_[0]), close(ends_[1]);
      throw config_error("moefold: this process has a flight_signal already; keep one, in main");
    }
    for (int end : ends_) (void)fcntl(end, F_SETFD, FD_CLOEXEC);
    (void)fcntl(ends_[1], F_SETFL, O_NONBLOCK);  // signals that come faster than files are written may be dropped
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // the writer takes no signals from the threads that are to see them
    try {
      writer_ = std::thread([this] { write_on_signal(); });
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      to_writer().store(-1);
      close(ends_[0]), close(ends_[1]);
      throw config_error("moefold: no thread for the flight recorder's signal; raise the limit of threads");
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    struct sigaction action {};
    action.sa_handler = &on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(number_, &action, &before_);
  }
  ~flight_signal() {
    sigaction(number_, &before_, nullptr);
    to_writer().store(-1);
    const char end = 0;
    while (write(ends_[1], &end, 1) < 0 && (errno == EINTR || errno == EAGAIN)) std::this_thread::yield();
    writer_.join();
    close(ends_[0]), close(ends_[1]);
  }
  flight_signal(const flight_signal&) = delete;
  flight_signal& operator=(const flight_signal&) = delete;

 private:
  static std::atomic<int>& to_writer() {
    static std::atomic<int> end{-1};
    return end;
  }
  static_assert(std::atomic<int>::is_always_lock_free);
  static void on_signal(int) {
    const int keep = errno, end = to_writer().load();
    const char dump = 1;
    if (end >= 0) (void)!write(end, &dump, 1);
    errno = keep;
  }
  void write_on_signal() {
    char what = 0;
    for (int n = 1; read(ends_[0], &what, 1) == 1 && what != 0; ++n) {
      int written = 0;
      flight_recorder::for_each([&](const flight_recorder& r) {
        written += dump_flight(r, flight_signal_folder(), std::to_string(n),
                               number_ == SIGUSR1 ? std::string("SIGUSR1") : sentence("signal ", number_));
      });
      if (written == 0)
        std::fprintf(stderr, "moefold: no flight recorder was written: no world runs in this process, or it records no calls\n");
    }
  }

  int number_;
  int ends_[2] = {-1, -1};
  std::thread writer_;
  struct sigaction before_ {};
};

}  // namespace moefold
