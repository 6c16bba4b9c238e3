#pragma once
// One process and what it knows of the others' failure: a watcher thread hears what they say, whatever this rank does; one rank decides which failure came
// first, and everybody reports that one. Nothing here knows how data moves (comm/process_group.hpp).
//
//   rank 2 throws -> proposal to rank 0's watcher -> the first proposal is the verdict -> told to all watchers -> pending calls end with peer_failed that
//   names rank 2 -> any later call: comm_revoked -> run_process throws the verdict, on rank 2 what it threw
//   rank 0 gone, or silent for `grace`: the next rank that is not known to be lost decides, and so on; who asks late is told what was decided
#include <moefold/comm/flight_dump.hpp>
#include <moefold/comm/parking.hpp>
#include <moefold/comm/process_message.hpp>
#include <moefold/comm/stragglers.hpp>
#include <moefold/comm/thread_helper.hpp>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>

namespace moefold {

/// How long a rank waits for its peers, and whether it compares calls with them. Times are multiplied by MOEFOLD_TIMEOUT_FACTOR.
struct process_options {
  std::chrono::nanoseconds first_deadline = std::chrono::seconds(60);  // for the first call on a communicator, and while starting
  std::chrono::nanoseconds deadline = std::chrono::seconds(20);        // for every later call
  std::chrono::nanoseconds grace = std::chrono::seconds(2);            // for the peers' answer when something has failed
  bool check_signatures = true;                                        // off: a mismatch is undefined
  bool record_calls = true;                                            // the flight recorder: some 10 ns per call
};

/// The world of one process, over a transport. Its rank's own thread is lane 0, the helper that works on `apart` communicators lane 1, and the watcher is
/// neither. A failure ends an epoch of it; rebuild begins the next, whose communicators share nothing with the failed ones.
class process_world {
 public:
  static constexpr int lanes = 2;
  struct call {  // what a lane does, or did last
    comm_label label;
    signature what;
    steady::time_point since{};
    bool inside = false;  // still in it
    bool any = false;     // there was one
  };
  /// From one failure to the next.
  struct epoch {
    explicit epoch(std::uint64_t n) : number(n) {}
    const std::uint64_t number;
    std::atomic<bool> failing{false};    // somebody here has failed, or it has been told: calls are refused
    std::atomic<bool> failed{false};     // the verdict is known
    std::atomic<bool> unwinding{false};  // an exception leaves operations behind; what it says is not known yet
    bool told[lanes] = {};               // each by its own lane
    std::unique_ptr<thread_helper> helper;
    // Under the world's mutex:
    std::optional<process_failure> verdict, own;
    std::exception_ptr thrown;  // of `own`, where it was an exception of this rank
    steady::time_point proposed{};
    int asked = -1;  // who was asked to decide
    int silent = 0;  // ranks below have not answered
  };

  explicit process_world(std::shared_ptr<transport> carrier, process_options options = {})
      : carrier_(std::move(carrier)), options_(options), peers_(std::size_t(carrier_->size())), epoch_(std::make_shared<epoch>(0)),
        stragglers_(carrier_->size()) {
    const double factor = timeout_factor();
    for (auto* time : {&options_.first_deadline, &options_.deadline, &options_.grace}) *time = scaled(*time, factor);
    if (options_.record_calls) recorder_.emplace(size(), rank(), 1, lanes);
    for (int p = 0; p < size(); ++p)
      if (p != rank()) listen_to(p);
    watcher_ = std::thread([this] { watch(); });
  }
  ~process_world() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    watcher_.join();
    for (peer_state& p : peers_) carrier_->abandon(p.hearing, p.room);
    for (message& m : outgoing_) carrier_->abandon(m.sending, m.bytes);
  }
  process_world(const process_world&) = delete;
  process_world& operator=(const process_world&) = delete;

  int rank() const { return carrier_->rank(); }
  int size() const { return carrier_->size(); }
  transport& carrier() const { return *carrier_; }
  const process_options& options() const { return options_; }
  std::shared_ptr<epoch> now() const { return epoch_; }  // by the rank's own thread
  call& last_call(int lane) { return lanes_[lane].last; }
  std::chrono::nanoseconds deadline(std::uint64_t seq) const {
    return seq == 0 || starting_.load(std::memory_order_relaxed) ? options_.first_deadline : options_.deadline;
  }
  /// While true, every call has the long deadline. Of this process only.
  void starting(bool yes) { starting_.store(yes, std::memory_order_relaxed); }
  straggler_table& stragglers() { return stragglers_; }
  /// Null where calls are not recorded.
  flight_recorder* recorder() { return recorder_ ? &*recorder_ : nullptr; }
  double cpu_seconds(int lane) const { return lanes_[lane].cpu.load(std::memory_order_relaxed); }
  void add_cpu_seconds(int lane, double seconds) {  // by that lane's thread only
    std::atomic<double>& cpu = lanes_[lane].cpu;
    cpu.store(cpu.load(std::memory_order_relaxed) + seconds, std::memory_order_relaxed);
  }

  /// Memory of a lane that the transport may read and write: its calls stage their data here. After a failure in which requests were left behind, dropped.
  std::shared_ptr<std::byte[]>& staging(int lane) { return lanes_[lane].staging; }
  /// The same for what the lane alone touches; grows.
  std::byte* gathered(int lane, std::size_t bytes) {
    lane_state& l = lanes_[lane];
    if (l.gathered_bytes < bytes) l.gathered.reset(new std::byte[bytes]), l.gathered_bytes = bytes;
    return l.gathered.get();
  }
  /// A number no communicator of this rank made on that lane has had. Ranks take the largest of theirs, and tell next_group so.
  std::uint64_t next_group(int lane) const { return lanes_[lane].next_group; }
  void took_group(int lane, std::uint64_t number) { lanes_[lane].next_group = std::max(lanes_[lane].next_group, number + 1); }
  /// When the lane last came out of a wait.
  steady::time_point& running_since(int lane) { return lanes_[lane].running_since; }

  // ---- the helper ---------------------------------------------------------------------------------------------------------------------
  thread_helper& helper(epoch& e) {
    if (!e.helper) {
      auto made = std::make_unique<thread_helper>();
      const std::lock_guard lock(mutex_);  // the watcher looks at it
      e.helper = std::move(made);
    }
    return *e.helper;
  }
  /// Waits for a job of the helper. If it failed, throws what this rank is to see of the failure.
  void wait_for_helper(epoch& e, std::uint64_t number) {
    thread_helper& h = helper(e);
    if (!h.done(number)) {
      const call& last = last_call(0);
      say_waiting(0, last.label, last.what, {rank()}, 0);
      {
        const std::lock_guard lock(mutex_);
        lanes_[0].ticket = number;
      }
      (void)h.wait(number);
      say_running(0);
    }
    if (h.wait(number)) return;
    const call& last = last_call(1);  // the helper has entered no call since the world failed
    if (!e.told[0] && number == h.first_failed() && !carries_root_cause(h.failure())) {
      e.told[0] = true;
      std::rethrow_exception(h.failure());  // this rank is the culprit
    }
    throw_failure(e, last.what, last.label, 0);
  }
  void stop_helper(epoch& e) {
    if (e.helper) e.helper->stop();
  }

  // ---- failure ------------------------------------------------------------------------------------------------------------------------
  /// The first failure wins; Error is its class on every rank. Returns at once; throw_failure waits for the verdict.
  template <std::derived_from<comm_error> Error>
  void fail(epoch& e, root_cause cause) {
    const std::lock_guard lock(mutex_);
    propose(e, {process_failure::kind_of<Error>, std::move(cause)}, nullptr);
  }
  /// The failure is the exception that this rank is handling: called inside a catch block.
  void fail_with_current_exception(epoch& e, int lane = 0) {
    e.told[lane] = true;
    auto thrown = std::current_exception();
    root_cause cause = cause_of(lane, text_of(thrown));
    const std::lock_guard lock(mutex_);
    propose(e, {process_failure::kind::peer_failed, std::move(cause)}, std::move(thrown));
  }
  /// An exception that cannot be seen yet leaves operations in flight: they end now, the peers are told when it is known.
  void fail_unwinding(epoch& e) {
    e.unwinding.store(true, std::memory_order_seq_cst);
    e.failing.store(true, std::memory_order_seq_cst);
  }
  /// The transport has lost a peer.
  void lose(epoch& e, int peer, const std::string& text) {
    const std::lock_guard lock(mutex_);
    hear_all();  // what it said before
    note_lost(e, peer, text);
  }
  /// Throws what this lane is to see of the failure: its class the first time, comm_revoked ever after.
  [[noreturn]] void throw_failure(epoch& e, const signature& what, const comm_label& label, int lane) {
    const std::string where = sentence("moefold: ", describe(what), " on ", label.view(), ", rank ", rank());
    if (lane == 1 && e.unwinding.load(std::memory_order_seq_cst) && !e.failed.load(std::memory_order_seq_cst))
      throw comm_revoked(where + ", was left behind by an exception",
                         {rank(), label, what.op, what.seq, {}, "left an operation in flight"});
    const process_failure f = settle(e);
    if (std::exchange(e.told[lane], true))
      throw comm_revoked(sentence(where, ", cannot run in a world that has failed (", f.cause.message, "); rebuild it, or start a new one"),
                         f.cause);
    f.raise(sentence(where, ", ended: ", f.cause.message));
  }
  /// The verdict, once there is one: at the latest after `grace`.
  process_failure settle(epoch& e) {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (!e.own && !e.verdict && e.failing.load(std::memory_order_seq_cst))
          propose(e, {process_failure::kind::peer_failed, outside(rank(), "left an operation in flight")}, nullptr);
        hear_all();
        if (e.verdict) return *e.verdict;
      }
      carrier_->idle(std::chrono::microseconds(200));
    }
  }
  /// The failure as an exception, null when there is none: on the culprit what it threw, elsewhere what its calls throw.
  std::exception_ptr first_failure(epoch& e) {
    if (!e.failing.load(std::memory_order_seq_cst)) return nullptr;
    const process_failure f = settle(e);
    const std::lock_guard lock(mutex_);
    return e.thrown && f.cause.rank == rank() && e.own && e.own->cause.message == f.cause.message ? e.thrown : f.thrown();
  }

  // ---- waiting ------------------------------------------------------------------------------------------------------------------------
  /// Hears what there is to hear, if nobody else does so at the moment.
  void hear() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock) hear_all();
  }
  /// The peer takes part in this epoch no more: its function has returned, or it went to rebuild.
  bool finished(int peer, const epoch& e) const {
    const peer_state& p = peers_[std::size_t(peer)];
    return p.finished.load(std::memory_order_acquire) || p.joined.load(std::memory_order_acquire) > e.number;
  }
  /// A lane has looked once more and cannot go on without `missing`, world ranks. `progress` changes when it has come further since. For whoever looks for
  /// ranks that wait for each other; only needed when first said, and when looked_for says so.
  void say_waiting(int lane, const comm_label& label, const signature& what, std::vector<int> missing, std::uint64_t progress) {
    const std::lock_guard lock(mutex_);
    lane_state& l = lanes_[lane];
    if (!l.waits || l.progress != progress) {
      l.waits = true, l.progress = progress, ++l.waiting.call;
      l.waits_since = steady::now(), l.next_report = first_report;
    }
    l.waiting.rank = rank(), l.waiting.lane = lane, l.waiting.label = label, l.waiting.what = what, l.waiting.missing = std::move(missing);
    l.ticket = 0, l.looked = true;
    l.looked_for.store(false, std::memory_order_relaxed);
  }
  bool looked_for(int lane) const { return lanes_[lane].looked_for.load(std::memory_order_relaxed); }
  void say_running(int lane) {
    const std::lock_guard lock(mutex_);
    lanes_[lane].waits = false;
  }

  // ---- the end, and a new beginning ---------------------------------------------------------------------------------------------------
  /// This rank's function has returned: does what its helper has left, and stays until all have ended, or the world fails.
  void finish() {
    epoch& e = *epoch_;
    if (e.helper) (void)e.helper->wait(e.helper->issued());
    say_finished();
    while (!e.failing.load(std::memory_order_seq_cst) && !all_gone()) hear(), carrier_->idle(std::chrono::milliseconds(1));
    flush(steady::now() + options_.grace);
  }
  /// After a failure: stays until every peer knows it and has ended too, but no longer than `grace`.
  void leave() {
    (void)settle(*epoch_);
    say_finished();
    const auto until = steady::now() + options_.grace;
    while (!all_gone() && steady::now() < until) hear(), carrier_->idle(std::chrono::milliseconds(1));
    flush(until);
  }
  /// Every rank has said that it has ended, or is lost: nobody needs this one any more.
  bool all_gone() {
    const std::lock_guard lock(mutex_);
    return std::all_of(peers_.begin(), peers_.end(),
                       [&](const peer_state& p) { return &p == &peers_[std::size_t(rank())] || p.lost || p.finished; });
  }
  /// The next epoch, on every rank that comes within the first deadline. Throws, on all that came, what ails those that did not. Inside a catch block of a
  /// world that has not failed yet: the others are told what this rank has caught.
  void rebuild() {
    const auto before = epoch_;
    if (std::current_exception() && !before->failing.load(std::memory_order_seq_cst)) fail_with_current_exception(*before);
    if (before->failing.load(std::memory_order_seq_cst)) (void)settle(*before);
    stop_helper(*before);
    if (!before->failing.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(mutex_);
      before->failing = true;
      before->verdict =
          process_failure{process_failure::kind::peer_failed, {rank(), "world", operation::split, 0, {}, "the world was rebuilt"}};
      before->failed = true;
    }
    const std::uint64_t number = before->number + 1;
    {
      const std::lock_guard lock(mutex_);
      epoch_ = std::make_shared<epoch>(number);
      candidate_.clear();
      probe_ = probed_ = answered_ = 0;
      for (peer_state& p : peers_) p.report.clear(), p.probe = 0;
      detail::message_writer w = begin(process_message::joined, number);
      w.put(lanes_[0].next_group).put(lanes_[1].next_group);
      tell_all(w);
      for (auto& [of, f, proposed] : std::exchange(early_, {}))
        if (of == number) take(*epoch_, f, proposed);
    }
    wait_for_all(number);
  }

 private:
  static constexpr std::chrono::milliseconds first_report{30}, last_report{250}, longest_resend{5000};

  struct peer_state {
    transport::request hearing;
    std::shared_ptr<std::byte[]> room;
    std::atomic<bool> finished{false};
    bool lost = false;
    std::atomic<std::uint64_t> joined{0};
    std::vector<waiting> report;  // what it said last, and
    std::uint64_t probe = 0;      // after which probe; kept by the rank that decides
  };
  struct message {
    transport::request sending;
    std::shared_ptr<std::vector<std::byte>> bytes;
  };
  struct lane_state {
    std::atomic<bool> looked_for{false};
    call last;  // its own thread; others read it when it has failed
    std::atomic<double> cpu{0};
    std::shared_ptr<std::byte[]> staging;
    std::unique_ptr<std::byte[]> gathered;
    std::size_t gathered_bytes = 0;
    std::uint64_t next_group = 2, others_group = 0;  // others_group: under the mutex
    steady::time_point running_since = steady::now();
    // Under the mutex:
    bool waits = false, reported = false;
    bool looked = false;       // since the last report, and could not go on
    std::uint64_t ticket = 0;  // of the helper's job it waits for, which needs no look
    std::uint64_t progress = 0;
    struct waiting waiting;
    steady::time_point waits_since{};
    std::chrono::nanoseconds next_report{};
  };

  static bool carries_root_cause(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const comm_error&) {
      return true;
    } catch (...) {
      return false;
    }
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
  root_cause cause_of(int lane, const std::string& text) {
    const call& last = last_call(lane);
    root_cause cause{rank(), last.label, last.what.op, last.what.seq, {}, {}};
    if (last.inside) cause.elapsed = steady::now() - last.since;
    cause.message = last.any ? sentence("rank ", rank(), " failed ", last.inside ? "in " : "after ", name_of(last.what.op), " #",
                                        last.what.seq, " on ", last.label.view(), ": ", text)
                             : sentence("rank ", rank(), " failed before its first call: ", text);
    return cause;
  }

  static root_cause outside(int rank, const std::string& text) {
    return {rank, {}, operation::barrier, 0, {}, sentence("rank ", rank, " ", text)};
  }

  // What follows runs under the mutex.
  void propose(epoch& e, process_failure f, std::exception_ptr thrown) {
    if (e.own || e.verdict) return;
    f.cause.message += failure_dump_place(recorder());
    e.own = std::move(f);
    e.thrown = std::move(thrown);
    e.failing.store(true, std::memory_order_seq_cst);
    ask(e);
  }
  /// Sends this rank's proposal to the first rank that is not lost; this rank itself decides at once.
  void ask(epoch& e) {
    int decides = std::min(e.silent, rank());
    while (decides < rank() && peers_[std::size_t(decides)].lost) ++decides;
    e.asked = decides;
    e.proposed = steady::now();
    if (decides == rank()) return take(e, *e.own, true);
    detail::message_writer w = begin(process_message::proposal, e.number);
    detail::put(w, *e.own);
    tell(decides, w);
  }
  /// The verdict. Whoever decides tells all.
  void take(epoch& e, const process_failure& f, bool tell_others) {
    if (e.verdict) return;
    e.verdict = f;
    e.failing.store(true, std::memory_order_seq_cst);
    if (tell_others) {
      detail::message_writer w = begin(process_message::verdict, e.number);
      detail::put(w, f);
      tell_all(w);
    }
    e.failed.store(true, std::memory_order_seq_cst);
    dump_ = f.cause.message, culprit_ = f.cause.rank;
  }
  void note_lost(epoch& e, int peer, const std::string& text) {
    auto& p = peers_[std::size_t(peer)];
    p.lost = true;
    if (p.finished.load(std::memory_order_relaxed)) return;
    if (e.own && !e.verdict && e.asked == peer) return ask(e);
    propose(e, {process_failure::kind::peer_failed, outside(peer, sentence("is lost: ", text))}, nullptr);
  }

  static detail::message_writer begin(process_message kind, std::uint64_t number) {
    detail::message_writer w;
    w.put(kind).put(number);
    return w;
  }
  void tell(int to, const detail::message_writer& w) {
    peer_state& p = peers_[std::size_t(to)];
    if (to == rank() || p.lost) return;
    message m{{}, std::make_shared<std::vector<std::byte>>(w.bytes().begin(), w.bytes().end())};
    try {
      m.sending = carrier_->send(to, 0, *m.bytes);
    } catch (const transport_error&) {
      return;  // heard when it is listened to
    }
    outgoing_.push_back(std::move(m));
  }
  void tell_all(const detail::message_writer& w) {
    for (int p = 0; p < size(); ++p) tell(p, w);
  }
  void say_finished() {
    const std::lock_guard lock(mutex_);
    quiet_ = true;
    tell_all(begin(process_message::finished, epoch_->number));
  }
  void flush(steady::time_point until) {
    while (steady::now() < until) {
      {
        const std::lock_guard lock(mutex_);
        hear_all();
        if (outgoing_.empty()) return;
      }
      carrier_->idle(std::chrono::milliseconds(1));
    }
  }

  void listen_to(int from) {
    peer_state& p = peers_[std::size_t(from)];
    if (!p.room) p.room = std::shared_ptr<std::byte[]>(new std::byte[detail::message_writer::most]);
    p.hearing = carrier_->receive(from, 0, {p.room.get(), detail::message_writer::most});
  }
  void hear_all() {
    for (int from = 0; from < size(); ++from) {
      peer_state& p = peers_[std::size_t(from)];
      if (p.lost) continue;
      try {
        std::size_t bytes = 0;
        while (p.hearing.pending() && carrier_->test(p.hearing, &bytes)) {
          hear_one(from, {p.room.get(), bytes});
          listen_to(from);
        }
      } catch (const transport_error& lost) {
        carrier_->abandon(p.hearing, p.room);
        note_lost(*epoch_, lost.peer() < 0 ? from : lost.peer(), lost.what());
        p.lost = true;
      }
    }
    std::erase_if(outgoing_, [&](message& m) {
      try {
        return carrier_->test(m.sending);
      } catch (const transport_error&) {
        carrier_->abandon(m.sending, m.bytes);
        return true;
      }
    });
    epoch& e = *epoch_;
    if (e.own && !e.verdict && steady::now() - e.proposed > options_.grace) e.silent = e.asked + 1, ask(e);  // at last its own word stands
  }
  void hear_one(int from, std::span<const std::byte> bytes) {
    detail::message_reader r(bytes);
    const auto kind = r.get<process_message>();
    const auto number = r.get<std::uint64_t>();
    epoch& e = *epoch_;
    peer_state& p = peers_[std::size_t(from)];
    switch (kind) {
      case process_message::proposal:
      case process_message::verdict: {
        process_failure f = detail::get_failure(r);
        const bool proposed = kind == process_message::proposal;
        if (number == e.number && proposed && e.verdict) {  // it has not heard yet, or who told this rank is gone
          if (quiet_) break;
          detail::message_writer w = begin(process_message::verdict, e.number);
          detail::put(w, *e.verdict);
          tell(from, w);
        } else if (number == e.number) {
          take(e, f, proposed);
        } else if (number > e.number) {
          early_.emplace_back(number, std::move(f), proposed);
        }
        break;
      }
      case process_message::joined:
        p.joined.store(std::max(p.joined.load(std::memory_order_relaxed), number), std::memory_order_release);
        for (lane_state& l : lanes_) l.others_group = std::max(l.others_group, r.get<std::uint64_t>());
        break;
      case process_message::finished: p.finished.store(true, std::memory_order_release); break;
      case process_message::waiting:
        if (number != e.number) break;
        p.report.clear();
        p.probe = r.get<std::uint64_t>();
        for (auto left = r.get<std::uint32_t>(); left > 0; --left) p.report.push_back(detail::get_waiting(r));
        break;
      case process_message::probe:
        if (number == e.number) heed(r.get<std::uint64_t>());
        break;
    }
  }

  // ---- the watcher --------------------------------------------------------------------------------------------------------------------
  void watch() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      hear_all();
      if (!epoch_->verdict && !quiet_) report(*epoch_);
      dump(lock);
      wake_.wait_for(lock, std::chrono::milliseconds(probed_ > answered_ || !candidate_.empty() ? 2 : 5));
    }
    dump(lock);
  }
  void dump(std::unique_lock<std::mutex>& lock) {
    if (dump_.empty()) return;
    const std::string reason = std::exchange(dump_, {});
    const int culprit = culprit_;
    lock.unlock();
    dump_on_failure(recorder(), reason, culprit);
    lock.lock();
  }
  /// Somebody asks for a report of what comes after this.
  void heed(std::uint64_t probe) {
    probed_ = std::max(probed_, probe);
    for (lane_state& l : lanes_) l.looked = false;
  }
  /// Tells the rank that decides what this one's lanes wait for, ever less often, or when asked; if that is this rank, looks for ranks that wait for each
  /// other. A lane is reported when it has looked since the last report: one that the system has only kept from running waits for nobody.
  void report(epoch& e) {
    const auto now = steady::now();
    bool due = probed_ > answered_, ready = true;
    for (lane_state& l : lanes_) {
      const bool waits = l.waits && (l.reported || now - l.waits_since >= first_report);
      due = due || waits != l.reported || (waits && now - l.waits_since >= l.next_report);
      const bool looked = l.ticket > 0 || l.looked;
      if (l.waits && !looked) ready = false, l.looked_for.store(true, std::memory_order_relaxed);
    }
    int decides = 0;
    while (decides < rank() && peers_[std::size_t(decides)].lost) ++decides;
    if (due && ready) {
      std::vector<waiting> mine;
      for (lane_state& l : lanes_) {
        l.reported = l.waits && now - l.waits_since >= first_report && !(l.ticket > 0 && e.helper->done(l.ticket));
        l.looked = false;
        if (!l.reported) continue;
        if (now - l.waits_since >= l.next_report)
          l.next_report = std::min<std::chrono::nanoseconds>(2 * l.next_report, l.next_report + last_report);
        mine.push_back(l.waiting);
      }
      if (e.helper && !lanes_[1].waits && e.helper->done(e.helper->issued())) {  // an idle helper waits for something to do
        waiting idle;
        idle.rank = rank(), idle.lane = 1, idle.call = idle_calls + e.helper->issued(), idle.missing = {rank()};
        mine.push_back(std::move(idle));
      }
      answered_ = probed_;
      if (decides == rank()) {
        peers_[std::size_t(rank())].report = std::move(mine);
        peers_[std::size_t(rank())].probe = answered_;
      } else {
        detail::message_writer w = begin(process_message::waiting, e.number);
        w.put(answered_).put(std::uint32_t(mine.size()));
        for (const waiting& lane : mine) detail::put(w, lane);
        tell(decides, w);
      }
    }
    if (decides == rank()) look_for_cycle(e);
  }
  /// A cycle is certain when each of its ranks, asked twice after it was seen, has looked again and says the same, and when it has stood for longer than a
  /// message that was lost on the way needs to be sent again: what one rank has sent the other may not have heard.
  void look_for_cycle(epoch& e) {
    std::vector<waiting> all;
    for (const peer_state& p : peers_)
      if (!p.finished) all.insert(all.end(), p.report.begin(), p.report.end());
    if (candidate_.empty()) {
      candidate_ = find_cycle(all);
      candidate_since_ = steady::now();
      rounds_ = 0;
    } else {
      for (const waiting& w : candidate_)
        if (const peer_state& p = peers_[std::size_t(w.rank)]; p.probe < probe_ && !p.finished) return;
      if (!unbroken(candidate_, all)) return candidate_.clear();
      if (++rounds_ >= 2 && steady::now() - candidate_since_ >= std::min<std::chrono::nanoseconds>(options_.deadline / 8, longest_resend)) {
        const waiting& in_call = *std::find_if(candidate_.begin(), candidate_.end(), [](const waiting& w) { return !w.for_other_lane(); });
        return propose(
            e,
            {process_failure::kind::signature_mismatch,
             {in_call.rank,
              in_call.label,
              in_call.what.op,
              in_call.what.seq,
              {},
              sentence("ranks wait for each other: ", describe(candidate_), "; all ranks must make the same calls in one order")}},
            nullptr);
      }
    }
    if (candidate_.empty()) return;
    ++probe_;
    detail::message_writer w = begin(process_message::probe, e.number);
    w.put(probe_);
    for (const waiting& lane : candidate_)
      if (lane.rank == rank())
        heed(probe_);
      else
        tell(lane.rank, w);
  }

  void wait_for_all(std::uint64_t number) {
    const auto begin = steady::now();
    const std::shared_ptr<epoch> e = epoch_;
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        hear_all();
        std::vector<int> missing, ended;
        for (int p = 0; p < size(); ++p) {
          const peer_state& other = peers_[std::size_t(p)];
          if (p == rank() || other.joined >= number) continue;
          missing.push_back(p);
          if (other.finished || other.lost) ended.push_back(p);
        }
        if (missing.empty() && !e->verdict) {
          for (lane_state& l : lanes_) l.next_group = std::max(l.next_group, l.others_group);
          return;
        }
        const auto lose = [&](process_failure::kind kind, const std::vector<int>& ranks, const char* how) {
          const std::string names = list_ranks(ranks);
          propose(*e,
                  {kind,
                   {ranks.front(), "world", operation::split, 0, steady::now() - begin,
                    sentence("the world cannot be rebuilt: rank ", names, how)}},
                  nullptr);
        };
        if (!ended.empty())
          lose(process_failure::kind::peer_failed, ended, " has ended");
        else if (steady::now() - begin > options_.first_deadline)
          lose(process_failure::kind::timeout, missing,
               " did not come within the first deadline; see what it does, or raise MOEFOLD_TIMEOUT_FACTOR");
      }
      if (e->failing.load(std::memory_order_seq_cst)) throw_failure(*e, {operation::split}, "world", 0);
      carrier_->idle(std::chrono::microseconds(500));
    }
  }
  static std::string list_ranks(const std::vector<int>& ranks) {
    std::string text;
    for (const int r : ranks) text += sentence(text.empty() ? "" : ", ", r);
    return text;
  }

  static constexpr std::uint64_t idle_calls = std::uint64_t(1) << 62;

  std::shared_ptr<transport> carrier_;
  process_options options_;
  std::vector<peer_state> peers_;  // [world]
  std::shared_ptr<epoch> epoch_;   // changed by the rank's own thread, under the mutex
  std::array<lane_state, lanes> lanes_;
  straggler_table stragglers_;
  std::optional<flight_recorder> recorder_;
  std::atomic<bool> starting_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  bool quiet_ = false;  // it has said that it has finished, and says no more: who has heard that has heard everything
  std::vector<message> outgoing_;
  std::vector<std::tuple<std::uint64_t, process_failure, bool>> early_;  // of epochs this rank has not come to; whether proposed
  steady::time_point candidate_since_{};
  std::vector<waiting> candidate_;           // a cycle that was seen once
  int rounds_ = 0;                           // in which all of its ranks have confirmed it
  std::uint64_t probe_ = 0;                  // the last that this rank has sent, as the one that decides
  std::uint64_t probed_ = 0, answered_ = 0;  // the last that it has heard, and said something after
  std::string dump_;
  int culprit_ = -1;
  std::thread watcher_;  // last: it uses all of the above
};

}  // namespace moefold
