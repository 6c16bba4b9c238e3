#pragma once
// The ranks of one process and what they know of each other's failure: the first cause is kept, everybody is woken, and each rank is told.
// Nothing here knows how data moves; the communicators (comm/thread_group.hpp) register themselves to be closed.
//
//   rank 0 waits on ep for rank 1, rank 1 on world for rank 0 -> both have waited for a while -> the world looks, finds the circle -> keep(cause)
//   rank 2 throws -> keep(cause) -> every communicator of the world closes -> pending waits end -> peer_failed on each other rank, naming
//   rank 2, its axis and operation -> any later call: comm_revoked -> all ranks rebuild: a fresh world, or run_threads throws what rank 2 threw
#include <moefold/comm/failure.hpp>
#include <moefold/comm/flight_dump.hpp>
#include <moefold/comm/parking.hpp>
#include <moefold/comm/signature.hpp>
#include <moefold/comm/stragglers.hpp>
#include <moefold/comm/thread_helper.hpp>
#include <moefold/comm/wait_graph.hpp>

#include <algorithm>
#include <atomic>
#include <condition_variable>
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
  std::chrono::nanoseconds first_deadline = std::chrono::seconds(60);  // for the first call on a communicator, and while ranks are starting
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
    virtual void missing(int rank, int peer,
                         std::vector<int>& world_ranks) = 0;  // in the wait that its rank is in now: for all, or a peer's letter
   protected:
    ~member() = default;
  };

  explicit thread_world(int ranks, thread_options options = {})
      : given_(options), options_(options), lanes_(checked(ranks) * lanes), stragglers_(ranks), waits_(lanes_.size()),
        graph_(lanes_.size()), beside_(std::size_t(ranks)), helpers_(std::size_t(ranks)) {
    const double factor = timeout_factor();
    options_.first_deadline = scaled(options.first_deadline, factor);
    options_.deadline = scaled(options.deadline, factor);
    for (waiting& w : graph_) w.missing.reserve(std::size_t(ranks));  // a look allocates nothing
    if (options_.record_calls) recorder_.emplace(ranks, 0, ranks, lanes);
    spins_ =
        unsigned(ranks) <= std::thread::hardware_concurrency() ? most_spins : 0;  // with more ranks than cores a spin keeps the peer away
  }

  int size() const { return int(helpers_.size()); }
  const thread_options& options() const { return options_; }
  const thread_options& options_given() const { return given_; }  // before MOEFOLD_TIMEOUT_FACTOR
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

  /// Whether this rank is starting: then its calls have the first deadline. By the rank's own thread only.
  void starting(int rank, bool on) { state_of(rank, 0).starting.store(on, std::memory_order_relaxed); }
  bool starting(int rank) const { return state_of(rank, 0).starting.load(std::memory_order_relaxed); }
  /// Whom the others wait for, in calls of the ranks' own threads.
  straggler_table& stragglers() { return stragglers_; }
  /// Since when a lane has waited for nobody. Own thread only.
  steady::time_point& runs_since(int rank, int lane = 0) { return state_of(rank, lane).runs_since; }

  /// The helper of a rank, started when it is first asked for. By the rank's own thread only.
  thread_helper& helper(int rank) {
    std::unique_ptr<thread_helper>& h = helpers_[std::size_t(rank)];
    if (!h) {
      auto made = std::make_unique<thread_helper>();
      const std::lock_guard lock(look_mutex_);
      h = std::move(made);
    }
    return *h;
  }
  /// Ends it, if there is one: after finish, or after a failure, which ends its jobs. By the rank's own thread only.
  void stop_helper(int rank) {
    if (helpers_[std::size_t(rank)]) helpers_[std::size_t(rank)]->stop();
  }
  /// Waits for a job of the rank's helper. If it failed, throws what this rank is to see of the failure.
  void wait_for_helper(int rank, std::uint64_t number) {
    thread_helper& h = helper(rank);
    if (!h.done(number)) {
      long_wait patience(*this, rank, 0, steady::now(), steady::time_point::max(), nullptr, 0, -1, number);
      while (!h.wait_until(number, patience.next())) patience.over(steady::now());
      runs_since(rank) = steady::now();
    }
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

  /// One wait of a lane, which may last. It sleeps in pieces; after each the world looks whether it can ever end: `over` fails the world if not. What
  /// lasts is known to the world until it is destroyed, so that nobody leaves a wait while another looks at it.
  class long_wait {
   public:
    static constexpr auto first_look = std::chrono::milliseconds(40), between_looks = std::chrono::milliseconds(250);

    long_wait(thread_world& world, int world_rank, int lane, steady::time_point since, steady::time_point deadline, member* at, int rank,
              int peer, std::uint64_t ticket = 0)
        : world_(world), since_(since), deadline_(deadline), next_look_(since + first_look),
          place_(std::size_t(world_rank) * lanes + std::size_t(lane)), what_{at, rank, peer, ticket} {}
    ~long_wait() {
      if (!noted_) return;
      const std::lock_guard lock(world_.look_mutex_);
      world_.waits_[place_] = {};
    }
    long_wait(const long_wait&) = delete;
    long_wait& operator=(const long_wait&) = delete;

    steady::time_point next() const { return std::min(next_look_, deadline_); }
    /// A piece is over. True: so is the time this wait has.
    bool over(steady::time_point now) {
      if (now >= deadline_) return true;
      if (now < next_look_) return false;
      next_look_ = now + std::min<std::chrono::nanoseconds>(now - since_, between_looks);
      noted_ = true;
      if (auto circle = world_.look(place_, what_)) {
        circle->elapsed = now - since_;
        world_.fail<signature_mismatch>(std::move(*circle));
      }
      return false;
    }

   private:
    friend thread_world;
    struct noted {
      member* at = nullptr;
      int rank = 0, peer = -1;   // of that communicator; a peer whose letter is waited for
      std::uint64_t ticket = 0;  // of the own helper
    };
    thread_world& world_;
    steady::time_point since_, deadline_, next_look_;
    std::size_t place_;
    noted what_;
    bool noted_ = false;
  };

  /// Why a rank does not come, as far as it waits itself.
  std::vector<waiting> waits_behind(int rank, int lane) {
    const std::lock_guard lock(look_mutex_);
    const std::span<waiting> all = all_waits();
    sort_waits(all);
    return moefold::waits_behind(all, rank, lane);
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
    bool rebuilt = false;
    {
      std::lock_guard lock(mutex_);
      cause = cause_;
      raise_cause = raise_;
      rebuilt = rebuilt_;
    }
    const std::string where = sentence("moefold: ", describe(what), " on ", label.view(), ", rank ", rank);
    if (rebuilt) throw comm_revoked(sentence(where, ", cannot run in a world that was rebuilt; use what rebuild() returned"), cause);
    if (std::exchange(state_of(rank, lane).told, true))
      throw comm_revoked(
          sentence(where, ", cannot run in a world that has failed (", cause.message, "); rebuild() it, or start a new world"), cause);
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
  /// The thread of this rank ends, however it does: it will come to no rebuild.
  void end(int rank) {
    const std::lock_guard lock(mutex_);
    ended_.push_back(rank);
    met_.notify_all();
  }
  /// Where the thread of a rank keeps the world it is in, for rebuild to change. By the rank's own thread only.
  std::shared_ptr<thread_world>* home(int rank) { return state_of(rank, 0).home; }
  void set_home(int rank, std::shared_ptr<thread_world>& place) { state_of(rank, 0).home = &place; }

  /// All ranks leave this world, sound or failed, for another that make() makes once: they wait for each other, and it is revoked for ever. Collective;
  /// throws on every rank alike if one has ended (peer_failed) or does not come within the first deadline (timeout): then there is no second try.
  /// Inside a catch block the exception becomes the world's failure, if it has none yet; whoever still waits for this rank waits in vain.
  template <class Made, class Make>
  std::shared_ptr<Made> rebuild(int rank, Make&& make) {
    if (std::current_exception()) fail_with_current_exception(rank);
    if (!failed()) finish(rank);
    stop_helper(rank);
    const auto deadline = steady::now() + options_.first_deadline;
    std::unique_lock lock(mutex_);
    const auto told = [&] {
      return comm_revoked(sentence("moefold: rebuild, rank ", rank, ", of a world that was rebuilt; use what its rebuild() returned"),
                          cause_);
    };
    if (rebuilt_) throw told();
    here_.push_back(rank);
    for (;;) {
      if (lost_) std::rethrow_exception(lost_);
      if (int(here_.size()) == size() && !rebuilt_) {
        try {
          made_ = make();
        } catch (...) {
          lose(std::current_exception());
          continue;
        }
        rebuilt_ = true;
        if (!failed()) {
          cause_.message = "the world was rebuilt";
          failed_.store(true, std::memory_order_seq_cst);  // nobody waits in it: all are here
        }
        met_.notify_all();
      }
      if (rebuilt_) break;
      if (const auto gone = missing_from_rebuild(true); !gone.empty())
        lose<peer_failed>(gone, " cannot be had: its function has ended; start a new run");
      else if (steady::now() >= deadline)
        lose<timeout>(missing_from_rebuild(false), " did not come; see what it does, or raise the deadline with MOEFOLD_TIMEOUT_FACTOR=2");
      else
        met_.wait_until(lock, deadline);
    }
    auto made = std::static_pointer_cast<Made>(made_);
    std::erase(here_, rank);
    if (here_.empty()) made_.reset();  // whoever has a communicator of the new world keeps it
    return made;
  }

 private:
  using raise_t = void (*)(const std::string&, root_cause);
  struct alignas(64) state {          // of one lane of a rank
    call last;                        // own thread; read by others only while this rank waits in the call
    std::atomic<double> cpu{0};       // seconds, changed by its own thread
    steady::time_point runs_since{};  // own thread only, as the two below
    bool told = false;
    std::shared_ptr<thread_world>* home = nullptr;
    std::atomic<bool> finished{false}, starting{false};
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

  /// Notes a wait and looks at all of them. Nobody noted can leave its wait before the look is over, and who waits arrives nowhere: so what it finds
  /// holds, all of it at once. Returns the root cause if the waits go round in a circle.
  std::optional<root_cause> look(std::size_t place, const long_wait::noted& what) {
    const std::lock_guard lock(look_mutex_);
    waits_[place] = what;
    const std::vector<waiting> circle = find_cycle(all_waits());
    if (circle.empty()) return {};
    const waiting& in_call = *std::find_if(circle.begin(), circle.end(), [](const waiting& w) { return !w.for_other_lane(); });
    return root_cause{in_call.rank,
                      in_call.label,
                      in_call.what.op,
                      in_call.what.seq,
                      std::chrono::nanoseconds(0),  // nvcc loses {} here
                      sentence("ranks wait for each other: ", describe(circle), "; all ranks must make the same calls in one order")};
  }

  /// Of all lanes that are known to wait. With look_mutex_ held.
  std::span<waiting> all_waits() {
    std::size_t nodes = 0;
    const auto node = [&](std::size_t of) -> waiting& {
      waiting& w = graph_[nodes++];
      w.rank = int(of / lanes), w.lane = int(of % lanes);
      w.missing.clear();
      return w;
    };
    for (std::size_t i = 0; i < waits_.size(); ++i) {
      const auto& [at, rank, peer, ticket] = waits_[i];
      const auto& helper = helpers_[i / lanes];
      if (at != nullptr) {
        waiting& w = node(i);
        const call& last = last_call(w.rank, w.lane);
        w.label = last.label, w.what = last.what;
        at->missing(rank, peer, w.missing);
      } else if (ticket > 0 ? !helper->done(ticket) : i % lanes == 1 && helper && helper->idle()) {
        waiting& w = node(i);
        w.missing.push_back(w.rank);
      }
    }
    return std::span(graph_).first(nodes);
  }

  std::vector<int> missing_from_rebuild(bool ended) const {
    std::vector<int> ranks;
    for (int r = 0; r < size(); ++r)
      if (std::find(here_.begin(), here_.end(), r) == here_.end() && (!ended || std::find(ended_.begin(), ended_.end(), r) != ended_.end()))
        ranks.push_back(r);
    return ranks;
  }
  void lose(std::exception_ptr why) {
    lost_ = std::move(why);
    met_.notify_all();
  }
  template <class Error>
  void lose(const std::vector<int>& missing, const char* how) {
    std::string names;
    for (const int r : missing) names += sentence(names.empty() ? "" : ", ", r);
    root_cause cause{
        missing.front(), "world", operation::split, 0, options_.first_deadline, sentence("the world cannot be rebuilt: rank ", names, how)};
    lose(std::make_exception_ptr(Error(sentence("moefold: ", cause.message), cause)));
  }

  template <class Error>
  static void raise(const std::string& text, root_cause cause) {
    throw Error(text, std::move(cause));
  }

  void keep(root_cause cause, std::exception_ptr thrown, raise_t raise_cause, bool provisional) {
    std::string reason;
    int culprit = -1;
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
      reason = cause_.message, culprit = cause_.rank;
    }
    dump_on_failure(recorder(), reason, culprit);  // when everybody knows
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

  thread_options given_, options_;
  int spins_ = 0;
  std::vector<state> lanes_;  // [ranks, lanes]
  straggler_table stragglers_;
  std::mutex look_mutex_;                // of the next two; taken before mutex_ if both are
  std::vector<long_wait::noted> waits_;  // [ranks, lanes], those that last
  std::vector<waiting> graph_;           // [ranks, lanes], room for a look
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
  std::condition_variable met_;  // of rebuild, as all up to rebuilt_
  std::vector<int> here_, ended_;
  std::exception_ptr lost_;
  std::shared_ptr<void> made_;
  bool rebuilt_ = false;
  std::vector<std::shared_ptr<void>> beside_;            // [ranks]
  std::vector<std::unique_ptr<thread_helper>> helpers_;  // [ranks], each its own rank's; last: they use all of the above
};

}  // namespace moefold
