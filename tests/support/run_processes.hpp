#pragma once
// Ranks that think they are processes, as threads of one test: run_processes(8, [](process_comm& world) { ... }). Throws the root cause. They travel by
// queues, or, while a `by_sockets` lives, by socket pairs.
#include <moefold/comm/process.hpp>

#include "memory_transport.hpp"
#include "socket_pairs.hpp"

#include <thread>

namespace moefold {

class by_sockets {
 public:
  explicit by_sockets(bool yes = true) : before_(std::exchange(on(), yes)) {}
  ~by_sockets() { on() = before_; }
  static bool& on() {
    static bool yes = false;
    return yes;
  }

 private:
  bool before_;
};

template <class F>
void run_processes(int ranks, F&& f, process_options options = {}) {
  auto hall = std::make_shared<memory_hall>(ranks);
  std::vector<std::unique_ptr<transport>> sockets;
  if (by_sockets::on()) sockets = socket_pairs(ranks);
  std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        std::shared_ptr<transport> carrier;  // this rank's alone: it ends with it
        if (sockets.empty())
          carrier = std::make_shared<memory_transport>(hall, r);
        else
          carrier = std::move(sockets[std::size_t(r)]);
        run_process(std::move(carrier), f, options);
      } catch (...) {
        thrown[std::size_t(r)] = std::current_exception();
      }
    });
  for (auto& t : threads) t.join();
  std::exception_ptr cause;
  for (const auto& t : thrown) {  // the culprit's own exception, if it threw one
    if (!t) continue;
    try {
      std::rethrow_exception(t);
    } catch (const comm_error&) {
      if (!cause) cause = t;
    } catch (...) {
      cause = t;
      break;
    }
  }
  if (cause) std::rethrow_exception(cause);
}

}  // namespace moefold
