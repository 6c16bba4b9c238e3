#pragma once
// What one rank keeps beside its NCCL communicators: their streams, the operations in flight, and a watchdog. NCCL neither throws nor gives up: the
// watchdog looks at every communicator, and where one has failed, or the device has not done an operation by its deadline, all are aborted, so
// that no stream waits for ever, and the next call or wait of this rank throws why.
//
//   call -> event on the caller's stream -> NCCL kernel on the communicator's stream -> event -> ticket.wait(e): e's stream waits for it
//                                           watchdog: done before the deadline?  no -> ncclCommAbort of all, root cause kept
// Streams: one for all communicators of lane 0, done in the order of issue; one for lane 1 (`apart`); one for each queue of messages.
#include <moefold/comm/failure.hpp>
#include <moefold/comm/flight_dump.hpp>
#include <moefold/comm/signature.hpp>
#include <moefold/core/exec.cuh>

#include <nccl.h>

#include <array>
#include <condition_variable>
#include <exception>
#include <thread>
#include <vector>

namespace moefold {

/// A call of NCCL that failed for another reason than a peer's end.
class nccl_error : public comm_error {
 public:
  using comm_error::comm_error;
};

/// Times are multiplied by MOEFOLD_TIMEOUT_FACTOR.
struct nccl_options {
  std::chrono::nanoseconds first_deadline =
      std::chrono::seconds(300);                                   // joining, split, and a communicator's first operation: they connect
  std::chrono::nanoseconds deadline = std::chrono::seconds(120);   // from the issue until the device is done, queueing included
  std::chrono::nanoseconds look = std::chrono::milliseconds(100);  // how often the watchdog looks
  bool record_calls = true;                                        // the flight recorder: some 10 ns per call
};

namespace detail {

/// Whether the device has come to the event. On a device that is cudaEventQuery; the emulator's would do work.
inline bool reached(const cuda_event& event) {
#if defined(MOEFOLD_EMULATED)
  return emulator::reached(event);
#else
  const cudaError_t r = cudaEventQuery(event);
  if (r != cudaErrorNotReady) cuda_check(r, "cudaEventQuery");
  return r == cudaSuccess;
#endif
}

inline std::string text_of(ncclResult_t result, ncclComm_t handle) {
  std::string text = ncclGetErrorString(result);
  const char* const more = ncclGetLastError(handle);
  return more != nullptr && *more != '\0' ? text + ": " + more : text;
}

/// The first call of a group that failed, by name.
struct nccl_calls {
  const char* name = "ncclGroupEnd";
  ncclResult_t first = ncclSuccess;
  void operator()(const char* call, ncclResult_t result) {
    if (first == ncclSuccess && result != ncclSuccess && result != ncclInProgress) name = call, first = result;
  }
};

}  // namespace detail

/// Of one rank; shared by all its communicators. All but the watchdog is used by the rank's own thread.
class nccl_world {
 public:
  using clock = std::chrono::steady_clock;
  struct member {  // a communicator, registered while it lives; called with the lock held
    virtual void look(clock::time_point now) = 0;
    virtual void abort() = 0;

   protected:
    ~member() = default;
  };

  nccl_world(int rank, int size, const nccl_options& options) : rank_(rank), size_(size), options_(options) {
    const double factor = timeout_factor();
    options_.first_deadline = scaled(options.first_deadline, factor);
    options_.deadline = scaled(options.deadline, factor);
    cuda_check(cudaGetDevice(&device_), "cudaGetDevice");
    if (options_.record_calls) recorder_.emplace(size, rank, 1, int(lanes_.size()));
    if (size > 1) watchdog_ = std::thread([this] { watch(); });
  }
  ~nccl_world() {
    {
      const std::lock_guard lock(mutex);
      stopping_ = true;
    }
    wake_.notify_all();
    if (watchdog_.joinable()) watchdog_.join();
  }
  nccl_world(const nccl_world&) = delete;
  nccl_world& operator=(const nccl_world&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const nccl_options& options() const { return options_; }
  cudaStream_t stream(int lane) const { return lanes_[std::size_t(lane)]; }
  flight_recorder* recorder() { return recorder_ ? &*recorder_ : nullptr; }  // null: calls are not recorded. Written with the lock held
  memory_stack<device_memory>& memory() { return memory_; }                  // of what lives as long as the world
  memory_stack<device_memory>& staging() { return staging_; }                // of one call

  std::mutex mutex;  // of every call of NCCL, and of what the watchdog sees

  void add(member& m) {
    const std::lock_guard lock(mutex);
    members_.push_back(&m);
  }
  void remove(member& m) {
    const std::lock_guard lock(mutex);
    std::erase(members_, &m);
  }

  bool failed() const { return failed_.load(std::memory_order_acquire); }
  /// The first failure wins, and ends all communicators of this rank. With the lock held.
  template <std::derived_from<comm_error> Error>
  void fail_locked(root_cause cause) {
    if (failed()) return;
    cause.message += failure_dump_place(recorder());
    cause_ = std::move(cause);
    raise_ = [](const std::string& text, const root_cause& c) { throw Error(text, c); };
    failed_.store(true, std::memory_order_release);
    for (member* m : members_) m->abort();
    dump_on_failure(recorder(), cause_.message, cause_.rank);
  }
  template <std::derived_from<comm_error> Error>
  void fail(root_cause cause) {
    const std::lock_guard lock(mutex);
    fail_locked<Error>(std::move(cause));
  }
  /// Throws the failure: its class the first time, comm_revoked ever after. The words are those of the thread communicator.
  [[noreturn]] void throw_failure(const signature& what, const comm_label& label) {
    const std::string where = sentence("moefold: ", describe(what), " on ", label.view(), ", rank ", rank_);
    if (std::exchange(told_, true))
      throw comm_revoked(sentence(where, ", cannot run in a world that has failed (", cause_.message, "); start a new world"), cause_);
    raise_(sentence(where, ", ended: ", cause_.message), cause_);
    std::terminate();  // raise_ throws
  }

 private:
  void watch() {
    (void)cudaSetDevice(device_);
    std::unique_lock lock(mutex);
    while (!stopping_) {
      wake_.wait_for(lock, options_.look);
      for (std::size_t i = 0; i < members_.size() && !failed() && !stopping_; ++i) {
        try {
          members_[i]->look(clock::now());
        } catch (const std::exception& broken) {  // the device itself: nothing on it will end any more
          root_cause cause;
          cause.rank = rank_, cause.message = broken.what();
          fail_locked<nccl_error>(std::move(cause));
        }
      }
    }
  }

  int rank_, size_, device_ = 0;
  nccl_options options_;
  std::array<cuda_stream, 2> lanes_;
  memory_stack<device_memory> memory_, staging_;
  std::optional<flight_recorder> recorder_;
  std::vector<member*> members_;
  std::atomic<bool> failed_{false};
  root_cause cause_;  // written before failed_
  void (*raise_)(const std::string&, const root_cause&) = nullptr;
  bool told_ = false;  // own thread
  bool stopping_ = false;
  std::condition_variable wake_;
  std::thread watchdog_;  // last: it uses all of the above
};

/// One communicator of NCCL on one stream, and its operations in flight.
class nccl_channel final : nccl_world::member {
 public:
  using clock = nccl_world::clock;
  static constexpr std::uint64_t room = 128;  // operations that are watched; a ticket older than that waits for a later one

  /// `label` names it in NCCL's log. `start` makes it: start(handle*, config*) -> ncclResult_t; with `parent`, that one's state is waited for first.
  template <class Start>
  nccl_channel(nccl_world& world, const comm_label& label, cudaStream_t stream, const signature& what, const char* call,
               nccl_channel* parent, Start&& start)
      : world_(world), label_(label), stream_(stream), slots_(room) {
    if (world_.failed()) world_.throw_failure(what, label_);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
#if NCCL_VERSION_CODE >= 22700
    config.commName = name_.data();
    std::copy(label.view().begin(), label.view().end(), name_.begin());
#endif
    const auto since = clock::now();
    detail::nccl_calls calls;
    {
      const std::lock_guard lock(world_.mutex);
      calls(call, start(&handle_, &config));
    }
    world_.add(*this);
    try {
      if (parent != nullptr) parent->settle(calls, call, what, since, world_.options().first_deadline);
      settle(calls, call, what, since, world_.options().first_deadline);
      {
        const std::lock_guard lock(world_.mutex);
        calls("ncclCommCount", ncclCommCount(handle_, &size_));
        calls("ncclCommUserRank", ncclCommUserRank(handle_, &rank_));
      }
      settle(calls, call, what, since, world_.options().first_deadline);
    } catch (...) {
      close();
      throw;
    }
  }
  ~nccl_channel() { close(); }
  nccl_channel(const nccl_channel&) = delete;
  nccl_channel& operator=(const nccl_channel&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  nccl_world& world() const { return world_; }
  const comm_label& label() const { return label_; }
  cudaStream_t stream() const { return stream_; }
  ncclComm_t handle() const { return handle_; }

  /// Its calls go into the flight recorder: an entry ends when the watchdog, or this rank, sees that the device has done it.
  void record(flight_ring& ring, const flight_group& group) { ring_ = &ring, flight_ = group; }
  /// A call for which NCCL is not needed.
  void passed(const signature& what) {
    const std::lock_guard lock(world_.mutex);
    leave(enter(what, clock::now()), flight_state::done);
  }
  /// One that is done when `body` returns.
  template <class Body>
  void around(const signature& what, Body&& body) {
    std::uint64_t entered = 0;
    const auto locked = [&](auto&& f) {
      const std::lock_guard lock(world_.mutex);
      f();
    };
    locked([&] { entered = enter(what, clock::now()); });
    try {
      body();
    } catch (...) {
      locked([&] { leave(entered, flight_state::failed); });
      throw;
    }
    locked([&] { leave(entered, flight_state::done); });
  }

  /// Issues what `body(calls)` calls, as one group, after all that `after` holds. Returns the operation's number.
  template <class Body>
  std::uint64_t issue(const signature& what, cudaStream_t after, Body&& body) {
    if (world_.failed()) world_.throw_failure(what, label_);
    if (after != stream_) {
      ready_.record(after);
      ready_.before(stream_);
    }
    const auto since = clock::now();
    const auto deadline = issued_ == 0 ? world_.options().first_deadline : world_.options().deadline;
    detail::nccl_calls calls;
    std::uint64_t entered = 0;
    {
      const std::lock_guard lock(world_.mutex);
      entered = enter(what, since);
      if (!world_.failed()) {
        calls("ncclGroupStart", ncclGroupStart());
        body(calls);
        calls("ncclGroupEnd", ncclGroupEnd());
      }
    }
    settle(calls, calls.name, what, since, deadline);
    const std::lock_guard lock(world_.mutex);
    if (issued_ - oldest_ == room) see_done();
    slot& s = slots_[issued_ % room];
    s.done.record(stream_);
    s.what = what, s.since = since, s.deadline = deadline, s.entered = entered;
    if (++issued_ - oldest_ > room) oldest_ = issued_ - room;
    return issued_ - 1;
  }

  /// What comes next on `stream` waits for operation `number`.
  void before(cudaStream_t stream, std::uint64_t number) {
    const slot& s = slots_[number % room];
    if (world_.failed()) world_.throw_failure(s.what, label_);
    if (stream != stream_) s.done.before(stream);
  }
  /// The host waits for operation `number`; the watchdog ends what does not end.
  void wait(std::uint64_t number) {
    const slot& s = slots_[number % room];
    for (unsigned tries = 0; !world_.failed(); ++tries) {
      const cudaError_t r = cudaEventQuery(s.done);
      if (r == cudaSuccess) break;
      if (r != cudaErrorNotReady) cuda_check(r, describe(s.what), " on ", label_.view(), ", rank ", world_.rank());
      if (tries < 2000)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (world_.failed()) world_.throw_failure(s.what, label_);
  }
  /// Until nothing is in flight here: before a split, which NCCL does not do beside operations.
  void drain() {
    if (issued_ > 0) wait(issued_ - 1);
  }

 private:
  struct slot {
    cuda_event done;
    signature what;
    clock::time_point since{};
    clock::duration deadline{};
    std::uint64_t entered = 0;  // in the flight recorder
  };
  std::uint64_t enter(const signature& what, clock::time_point since) {  // with the lock held, as leave
    return ring_ ? ring_->enter(flight_, what, since) : flight_ring::unrecorded;
  }
  void leave(std::uint64_t entered, flight_state outcome) {
    if (ring_) ring_->leave(entered, outcome, clock::now());
  }
  void see_done() {
    for (; oldest_ < issued_ && detail::reached(slots_[oldest_ % room].done); ++oldest_)
      leave(slots_[oldest_ % room].entered, flight_state::done);
  }

  /// Waits until NCCL has taken what it was given: connections are made in the background, and with a peer that is late.
  void settle(detail::nccl_calls& calls, const char* call, const signature& what, clock::time_point since, clock::duration deadline) {
    ncclResult_t now = calls.first;
    for (unsigned tries = 0; calls.first == ncclSuccess; ++tries) {
      {
        const std::lock_guard lock(world_.mutex);
        if (world_.failed()) break;
        calls("ncclCommGetAsyncError", ncclCommGetAsyncError(handle_, &now));
      }
      if (now != ncclInProgress) break;
      if (clock::now() - since > deadline) world_.fail<timeout>(late(what, since));
      if (tries < 1000)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (now != ncclSuccess && now != ncclInProgress) {
      const std::lock_guard lock(world_.mutex);
      fail_with(calls.first != ncclSuccess ? calls.name : call, now, what, since);
    }
    if (world_.failed()) world_.throw_failure(what, label_);
  }
  void fail_with(const char* call, ncclResult_t result, const signature& what, clock::time_point since) {  // with the lock held
    root_cause cause{result == ncclRemoteError ? -1 : world_.rank(), label_, what.op, what.seq, clock::now() - since, {}};
    cause.message = sentence(call, " failed in ", describe(what), " on ", label_.view(), ", rank ", world_.rank(), " of ", world_.size(),
                             ": ", detail::text_of(result, handle_));
    if (result == ncclRemoteError)
      world_.fail_locked<peer_failed>(std::move(cause));
    else
      world_.fail_locked<nccl_error>(std::move(cause));
  }
  root_cause late(const signature& what, clock::time_point since) const {
    const auto waited = clock::now() - since;
    return {-1,
            label_,
            what.op,
            what.seq,
            waited,
            sentence(describe(what), " on ", label_.view(), " waited ", std::chrono::duration<double>(waited).count(),
                     " s for its peers (arrived: ", world_.rank(),
                     "; NCCL does not say who is missing); see what the other ranks do, or raise the deadline with "
                     "MOEFOLD_TIMEOUT_FACTOR=2")};
  }

  // By the watchdog, with the lock held.
  void look(clock::time_point now) override {
    if (handle_ == nullptr) return;
    const slot& first = slots_[oldest_ % room];
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(handle_, &state);
    if (asked != ncclSuccess) state = asked;
    if (state != ncclSuccess && state != ncclInProgress) return fail_with("an operation", state, first.what, first.since);
    see_done();
    if (oldest_ == issued_) return;
    const slot& s = slots_[oldest_ % room];
    if (now - s.since > s.deadline) world_.fail_locked<timeout>(late(s.what, s.since));
  }
  void abort() override {
    if (handle_ != nullptr) (void)ncclCommAbort(std::exchange(handle_, nullptr));
  }

  /// Waits for what is in flight, unless an exception leaves it behind; then this rank has failed, and its peers' calls will. An exception does not
  /// wait for the peers to come to their own end either, as NCCL's orderly one does among the ranks of a machine.
  void close() noexcept {
    try {
      bool busy = false;
      {
        const std::lock_guard lock(world_.mutex);
        see_done();
        busy = oldest_ < issued_;
        if (busy && std::uncaught_exceptions() > 0) {
          const slot& s = slots_[oldest_ % room];
          const std::string text = sentence("rank ", world_.rank(), " failed in ", name_of(s.what.op), " #", s.what.seq, " on ",
                                            label_.view(), ": left an operation in flight");
          world_.fail_locked<peer_failed>({world_.rank(), label_, s.what.op, s.what.seq, clock::now() - s.since, text});
        }
      }
      if (busy && !world_.failed()) drain();
      if (std::uncaught_exceptions() == 0) finish();
    } catch (...) {  // the failure is kept, and told by the next call
    }
    {
      const std::lock_guard lock(world_.mutex);
      abort();
    }
    world_.remove(*this);
  }
  void finish() {
    {
      const std::lock_guard lock(world_.mutex);
      if (handle_ == nullptr || world_.failed()) return;
      const ncclResult_t r = ncclCommFinalize(handle_);
      if (r != ncclSuccess && r != ncclInProgress) return;  // abort then
    }
    const auto since = clock::now();
    for (ncclResult_t now = ncclInProgress; now == ncclInProgress;) {
      {
        const std::lock_guard lock(world_.mutex);
        if (handle_ == nullptr || ncclCommGetAsyncError(handle_, &now) != ncclSuccess) return;
        if (now == ncclSuccess) (void)ncclCommDestroy(std::exchange(handle_, nullptr));
      }
      if (clock::now() - since > std::chrono::seconds(20)) return;
      std::this_thread::yield();
    }
  }

  nccl_world& world_;
  comm_label label_;
  std::array<char, 32> name_{};  // NCCL keeps the pointer
  cudaStream_t stream_;
  flight_ring* ring_ = nullptr;
  flight_group flight_;
  ncclComm_t handle_ = nullptr;  // null: aborted
  int rank_ = 0, size_ = 1;
  cuda_event ready_;
  std::vector<slot> slots_;  // [room]
  std::uint64_t issued_ = 0, oldest_ = 0;
};

}  // namespace moefold
