#pragma once
// The ranks of one process and what they know of each other's failure: the first cause is kept, everybody is woken, and each rank is told.
// Nothing here knows how data moves; the communicators (comm/thread_group.hpp) register themselves to be closed.
//
//   rank 2 throws -> keep(cause) -> every communicator of the world closes -> pending waits end -> peer_failed on each other rank, naming
//   rank 2, its axis and operation -> any later call: comm_revoked -> run_threads joins all and throws what rank 2 threw
#include <moefold/comm/failure.hpp>
#include <moefold/comm/flight_dump.hpp>
#include <moefold/comm/parking.hpp>
#include <moefold/comm/signature.hpp>
#include <moefold/comm/thread_helper.hpp>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace moefold {

/// How long a rank waits for its peers, and whether it compares calls with them. Times are multiplied by MOEFOLD_TIMEOUT_FACTOR.
struct thread_options {
  std::chrono::nanoseconds first_deadline = std::chrono::seconds(60);  // for the first call on a communicator: start-up work is uneven
  std::chrono::nanoseconds deadline = std::chrono::seconds(20);        // for every later call
  bool check_signatures = true;                                        // well under a microsecond; off: a mismatch is undefined
  bool record_calls = true;                                            // the flight recorder: some 10 ns per call
  std::chrono::nanoseconds latency{0};  // for tests: a collective between ranks takes this much longer, a message arrives this much later
};

/// Each rank has two lanes: 0, its own thread, and 1, the helper that works on its `apart` communicators beside it. A communicator lies on one lane.
class thread_world {
 public:
  static constexpr int lanes = 2;
  struct call {  // what a rank does, or did last
    comm_label label;
    signature what;
    steady::time_point since{};
    bool inside = false;  // still in it
    bool any = false;     // there was one
  };
  struct member {  // what a world closes when it fails; registered while it lives
    virtual void close() = 0;
    virtual std::optional<root_cause> waits_for(int world_rank) = 0;  // in vain, because that rank has returned
   protected:
    ~member() = default;
  };

  explicit thread_world(int ranks, thread_options options = {})
      : options_(options), lanes_(checked(ranks) * lanes), beside_(std::size_t(ranks)), helpers_(std::size_t(ranks)) {
    const double factor = timeout_factor();
    options_.first_deadline = scaled(options.first_deadline, factor);
    options_.deadline = scaled(options.deadline, factor);
    if (options_.record_calls) recorder_.emplace(ranks, 0, ranks, lanes);
    spins_ =
        unsigned(ranks) <= std::thread::hardware_concurrency() ? most_spins : 0;  // with more ranks than cores a spin keeps the peer away
  }

  int size() const { return int(helpers_.size()); }
  const thread_options& options() const { return options_; }
  int spins() const { return spins_; }
  /// Null where calls are not recorded.
  flight_recorder* recorder() { return recorder_ ? &*recorder_ : nullptr; }
  std::uint64_t next_group() { return groups_.fetch_add(1, std::memory_order_relaxed); }  // a number for each communicator
  call& last_call(int rank, int lane = 0) { return state_of(rank, lane).last; }
  double cpu_seconds(int rank, int lane = 0) { return state_of(rank, lane).cpu.load(std::memory_order_relaxed); }
  void add_cpu_seconds(int rank, int lane, double seconds) {  // by that lane's thread only
    std::atomic<double>& cpu = state_of(rank, lane).cpu;
    cpu.store(cpu.load(std::memory_order_relaxed) + seconds, std::memory_order_relaxed);
  }

  /// The helper of a rank, started when it is first asked for. By the rank's own thread only.
  thread_helper& helper(int rank) {
    std::unique_ptr<thread_helper>& h = helpers_[std::size_t(rank)];
    if (!h) h = std::make_unique<thread_helper>();
    return *h;
  }
  /// Ends it, if there is one: after finish, or after a failure, which ends its jobs. By the rank's own thread only.
  void stop_helper(int rank) {
    if (helpers_[std::size_t(rank)]) helpers_[std::size_t(rank)]->stop();
  }
  /// Waits for a job of the rank's helper. If it failed, throws what this rank is to see of the failure.
  void wait_for_helper(int rank, std::uint64_t number) {
    thread_helper& h = helper(rank);
    if (h.wait(number)) return;
    const call& last = last_call(rank, 1);  // the helper has entered no call since the world failed
    bool& told = state_of(rank, 0).told;
    if (!told && number == h.first_failed() && !carries_root_cause(h.failure())) {
      told = true;
      std::rethrow_exception(h.failure());  // this rank is the culprit
    }
    throw_failure(rank, last.what, last.label);
  }

  /// What a rank keeps for its communicators over other memory as long as the world lives (comm/thread.cuh). By the rank's own thread only.
  template <class State, class... From>
  State& beside(int rank, const From&... from) {
    std::shared_ptr<void>& b = beside_[std::size_t(rank)];
    if (!b) b = std::make_shared<State>(from...);
    return *static_cast<State*>(b.get());
  }

  bool failed() const { return failed_.load(std::memory_order_seq_cst); }
  bool any_finished() const { return any_finished_.load(std::memory_order_seq_cst); }
  bool finished(int rank) const { return state_of(rank, 0).finished.load(std::memory_order_seq_cst); }

  void add(member& m) {
    std::lock_guard lock(mutex_);
    members_.push_back(&m);
    if (failed()) m.close();
  }
  void remove(member& m) {
    std::lock_guard lock(mutex_);
    std::erase(members_, &m);
  }

  /// The first failure wins; Error is its class on every rank.
  template <std::derived_from<comm_error> Error>
  void fail(root_cause cause) {
    cause.message += failure_dump_place(recorder());
    auto thrown = std::make_exception_ptr(Error(sentence("moefold: ", cause.message), cause));
    keep(std::move(cause), std::move(thrown), &raise<Error>, false);
  }
  /// The failure is the exception that rank `rank` is handling: called inside a catch block.
  void fail_with_current_exception(int rank, int lane = 0) {
    state_of(rank, lane).told = true;
    auto thrown = std::current_exception();
    root_cause cause = cause_of(rank, lane, text_of(thrown));
    keep(std::move(cause), std::move(thrown), &raise<peer_failed>, false);
  }
  /// The same while an exception unwinds and cannot be seen yet; fail_with_current_exception of the same rank fills it in.
  void fail_unwinding(int rank, const char* text) {
    root_cause cause = cause_of(rank, 0, text);
    auto thrown = std::make_exception_ptr(peer_failed(sentence("moefold: ", cause.message), cause));
    keep(std::move(cause), std::move(thrown), &raise<peer_failed>, true);
  }

  /// Throws what rank `rank` is to see of the failure: its class the first time, comm_revoked ever after.
  [[noreturn]] void throw_failure(int rank, const signature& what, const comm_label& label, int lane = 0) {
    root_cause cause;
    raise_t raise_cause = nullptr;
    {
      std::lock_guard lock(mutex_);
      cause = cause_;
      raise_cause = raise_;
    }
    const std::string where = sentence("moefold: ", describe(what), " on ", label.view(), ", rank ", rank);
    if (std::exchange(state_of(rank, lane).told, true))
      throw comm_revoked(sentence(where, ", cannot run in a world that has failed (", cause.message, "); start a new world"), cause);
    raise_cause(sentence(where, ", ended: ", cause.message), cause);
    std::terminate();  // raise_cause throws
  }

  /// The first failure as the exception it was, null when there is none.
  std::exception_ptr first_failure() {
    std::lock_guard lock(mutex_);
    return thrown_;
  }

  /// The function of this rank has returned, and its helper does what is left: after that, whoever waits for it waits in vain.
  void finish(int rank) {
    if (auto& h = helpers_[std::size_t(rank)]) h->wait(h->issued());
    state_of(rank, 0).finished.store(true, std::memory_order_seq_cst);
    any_finished_.store(true, std::memory_order_seq_cst);
    std::optional<root_cause> cause;
    {
      std::lock_guard lock(mutex_);
      for (member* m : members_)
        if (!cause) cause = m->waits_for(rank);
    }
    if (cause) fail<peer_failed>(std::move(*cause));
  }

 private:
  using raise_t = void (*)(const std::string&, root_cause);
  struct alignas(64) state {     // of one lane of a rank
    call last;                   // own thread; read by others only while this rank waits in the call
    std::atomic<double> cpu{0};  // seconds, changed by its own thread
    bool told = false;           // own thread only
    std::atomic<bool> finished{false};
  };
  state& state_of(int rank, int lane) { return lanes_[std::size_t(rank) * lanes + std::size_t(lane)]; }
  const state& state_of(int rank, int lane) const { return lanes_[std::size_t(rank) * lanes + std::size_t(lane)]; }

  static bool carries_root_cause(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const comm_error&) {
      return true;
    } catch (...) {
      return false;
    }
  }

  template <class Error>
  static void raise(const std::string& text, root_cause cause) {
    throw Error(text, std::move(cause));
  }

  void keep(root_cause cause, std::exception_ptr thrown, raise_t raise_cause, bool provisional) {
    std::string reason;
    {
      std::lock_guard lock(mutex_);
      const bool first = !failed();
      if (!first && !(provisional_ && cause.rank == cause_.rank)) return;
      cause_ = std::move(cause);
      thrown_ = std::move(thrown);
      raise_ = raise_cause;
      provisional_ = provisional;
      failed_.store(true, std::memory_order_seq_cst);
      if (!first) return;
      for (member* m : members_) m->close();
      reason = cause_.message;
    }
    dump_on_failure(recorder(), reason);  // when everybody knows
  }

  root_cause cause_of(int rank, int lane, const std::string& text) {
    const call& last = last_call(rank, lane);
    root_cause cause{rank, last.label, last.what.op, last.what.seq, {}, {}};
    if (last.inside) cause.elapsed = steady::now() - last.since;
    cause.message = last.any ? sentence("rank ", rank, " failed ", last.inside ? "in " : "after ", name_of(last.what.op), " #",
                                        last.what.seq, " on ", last.label.view(), ": ", text)
                             : sentence("rank ", rank, " failed before its first call: ", text);
    cause.message += failure_dump_place(recorder());
    return cause;
  }
  static std::string text_of(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& e) {
      return e.what();
    } catch (...) {
      return "an exception that is no std::exception";
    }
  }
  static std::size_t checked(int ranks) {
    require<config_error>(ranks >= 1, "moefold: a world of ", ranks, " ranks; give at least 1");
    return std::size_t(ranks);
  }
  // Some 50 us, several times what waking a sleeper takes: with less, ranks that slept once are late for each other and sleep again.
  static constexpr int most_spins = 2000;

  thread_options options_;
  int spins_ = 0;
  std::vector<state> lanes_;  // [ranks, lanes]
  std::optional<flight_recorder> recorder_;
  std::atomic<std::uint64_t> groups_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> any_finished_{false};
  std::mutex mutex_;  // of all below
  root_cause cause_;
  std::exception_ptr thrown_;
  raise_t raise_ = nullptr;
  bool provisional_ = false;
  std::vector<member*> members_;
  std::vector<std::shared_ptr<void>> beside_;            // [ranks]
  std::vector<std::unique_ptr<thread_helper>> helpers_;  // [ranks], each its own rank's; last: they use all of the above
};

}  // namespace moefold
