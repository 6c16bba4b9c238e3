#pragma once
// Streams that are lazy on purpose: work that is issued waits until somebody waits for it, then everything before it runs, in order. So a kernel runs at the
// latest moment the program allows, and an event or a synchronisation that was forgotten shows: what it should have waited for is not there.
//
//   MOEFOLD_EMULATOR_STREAMS=eager   runs work when it is issued: the earliest moment, for comparison
#include "memory.h"

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace emulator {

inline int& device_of_thread() {
  static thread_local int device = 0;
  return device;
}

struct stream_state {
  const int device = device_of_thread();
  std::mutex running;  // held while one piece of work runs
  std::mutex guard;    // of the queue
  std::deque<std::function<void()>> queue;
  std::uint64_t issued = 0;
  std::atomic<std::uint64_t> done{0};

  std::uint64_t place() {
    const std::lock_guard lock(guard);
    return issued;
  }
  /// Runs what was issued up to `place`; another thread may help. Work runs once, in order.
  void advance(std::uint64_t place) {
    auto since = std::chrono::steady_clock::now();  // when this stream last came on
    std::uint64_t seen = done.load(std::memory_order_acquire);
    for (unsigned tries = 0; done.load(std::memory_order_acquire) < place; ++tries) {
      if (running.try_lock()) {
        const std::lock_guard lock(running, std::adopt_lock);
        if (done.load(std::memory_order_acquire) >= place) return;
        std::function<void()> work;
        {
          const std::lock_guard of_queue(guard);
          work = std::move(queue.front());
          queue.pop_front();
        }
        struct finish {
          stream_state& s;
          ~finish() { s.done.fetch_add(1, std::memory_order_release); }
        } when_over{*this};
        work();
      } else {
        std::this_thread::yield();
        if ((tries & 0xfff) != 0) continue;
        const auto now = std::chrono::steady_clock::now();
        if (const std::uint64_t at = done.load(std::memory_order_acquire); at != seen) seen = at, since = now;
        if (now - since > std::chrono::seconds(600)) {
          std::fprintf(stderr, "emulator: streams wait for each other in a circle\n");
          std::abort();
        }
      }
    }
  }
};

struct counters {
  std::atomic<std::size_t> launches{0}, copies{0}, synchronisations{0}, allocations{0};
};
inline counters& counted() {
  static counters all;
  return all;
}

/// All streams there are; a wait for the calling thread's device waits for those of that device.
class stream_list {
 public:
  static stream_list& get() {
    static stream_list* const only = new stream_list;
    return *only;
  }
  void add(const std::shared_ptr<stream_state>& s) {
    const std::lock_guard lock(mutex_);
    all_.insert(s);
  }
  void remove(const std::shared_ptr<stream_state>& s) {
    const std::lock_guard lock(mutex_);
    all_.erase(s);
  }
  void advance() {
    std::vector<std::shared_ptr<stream_state>> now;
    {
      const std::lock_guard lock(mutex_);
      now.assign(all_.begin(), all_.end());
    }
    for (const auto& s : now)
      if (s->device == device_of_thread()) s->advance(s->place());
  }

 private:
  std::mutex mutex_;
  std::set<std::shared_ptr<stream_state>> all_;
};

inline bool eager() {
  static const bool yes = [] {
    const char* const text = std::getenv("MOEFOLD_EMULATOR_STREAMS");
    return text != nullptr && std::strcmp(text, "eager") == 0;
  }();
  return yes;
}

}  // namespace emulator

struct CUstream_st {
  std::shared_ptr<emulator::stream_state> state = std::make_shared<emulator::stream_state>();
  CUstream_st() { emulator::stream_list::get().add(state); }
  ~CUstream_st() { emulator::stream_list::get().remove(state); }
};
using cudaStream_t = CUstream_st*;

struct CUevent_st {
  std::mutex guard;
  std::shared_ptr<emulator::stream_state> stream;  // null: never recorded
  std::uint64_t place = 0;
  std::shared_ptr<std::atomic<double>> time = std::make_shared<std::atomic<double>>(0);  // seconds, when it was reached
};
using cudaEvent_t = CUevent_st*;

namespace emulator {

inline CUstream_st& default_stream() {  // of the calling thread's device
  static std::mutex guard;
  static std::map<int, CUstream_st*>* const all = new std::map<int, CUstream_st*>;
  const std::lock_guard lock(guard);
  CUstream_st*& own = (*all)[device_of_thread()];
  if (own == nullptr) own = new CUstream_st;
  return *own;
}
inline stream_state& state_of(cudaStream_t s) { return *(s ? s : &default_stream())->state; }

inline void issue(cudaStream_t s, std::function<void()> work) {
  stream_state& state = state_of(s);
  std::uint64_t place = 0;
  {
    const std::lock_guard lock(state.guard);
    state.queue.push_back(std::move(work));
    place = ++state.issued;
  }
  if (eager()) state.advance(place);
}

}  // namespace emulator
