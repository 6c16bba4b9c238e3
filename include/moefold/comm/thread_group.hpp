#pragma once
// Where the rank threads of one communicator meet: each posts what it calls and where its data lies, the last to arrive compares all posts,
// and then they read each other's memory. Byte level only; comm/thread.hpp adds element types and reductions.
//
//   post -> arrive #1 (last one compares, lets all go) -> read the peers -> arrive #2 (nobody reads me any more) -> return
//   small inputs travel inside the post: then nobody needs arrive #2. Posts alternate between two places, so a late reader is safe.
//   A rank that fails leaves its call only when no peer reads its memory (leave).
#include <moefold/comm/compare.hpp>
#include <moefold/comm/thread_world.hpp>

#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <mutex>

namespace moefold {

class thread_group final : public thread_world::member {
 public:
  static constexpr std::size_t eager_bytes = 512;  // inputs up to here travel inside the post

  struct post {  // what a rank shows its peers for one call
    signature what;
    const void* in = nullptr;  // the rank's own memory, or `inlined`
    void* out = nullptr;
    bool small = true;                   // the peers need nothing of this rank but the post
    steady::time_point since{};          // when it came
    std::span<std::size_t> send_counts;  // [ranks] each, copies
    std::span<std::size_t> recv_counts;
    std::size_t bytes = 0;    // expose
    int colour = 0, key = 0;  // split
    comm_label label;
    std::shared_ptr<thread_group> child;
    int child_rank = 0;
    alignas(64) std::byte inlined[eager_bytes];
  };
  using table = std::vector<std::span<const std::byte>>;

  thread_group(std::shared_ptr<thread_world> world, std::vector<int> members, comm_label label, int lane = 0)
      : world_(std::move(world)), members_(std::move(members)), label_(label), lane_(lane), ranks_(members_.size()),
        counts_(members_.size() * members_.size() * 4), boxes_(members_.size() * members_.size()) {
    const std::size_t n = members_.size();
    std::size_t at = 0;
    for (rank_state& r : ranks_) r.habit = spin_habit(lane_ == 0 ? world_->spins() : 0);  // a helper keeps nobody off a core
    for (rank_state& r : ranks_)
      for (post& p : r.posts) {
        p.send_counts = {&counts_[n * at++], n};
        p.recv_counts = {&counts_[n * at++], n};
      }
    if (flight_recorder* const recorder = world_->recorder()) {
      const flight_group all{world_->next_group(), recorder->labels().number_of(label_), std::uint32_t(n), 0};
      for (std::size_t r = 0; r < n; ++r) {
        ranks_[r].ring = &recorder->ring(members_[r], lane_);
        ranks_[r].flight = all, ranks_[r].flight.rank = std::uint32_t(r);
      }
    }
    world_->add(*this);
  }
  ~thread_group() { world_->remove(*this); }
  thread_group(const thread_group&) = delete;
  thread_group& operator=(const thread_group&) = delete;

  /// A world and the communicator of all its ranks.
  static std::shared_ptr<thread_group> of_world(int ranks, const thread_options& options, comm_label label) {
    auto world = std::make_shared<thread_world>(ranks, options);
    std::vector<int> members;
    for (int r = 0; r < ranks; ++r) members.push_back(r);
    return std::make_shared<thread_group>(std::move(world), std::move(members), label);
  }

  thread_world& world() const { return *world_; }
  const std::shared_ptr<thread_world>& shared_world() const { return world_; }
  int size() const { return int(members_.size()); }
  const comm_label& label() const { return label_; }
  /// Whose threads call it: 0 the ranks' own, 1 their helpers.
  int lane() const { return lane_; }
  int world_rank(int rank) const { return members_[std::size_t(rank)]; }
  post& post_of(int rank, std::uint64_t seq) { return ranks_[std::size_t(rank)].posts[seq % 2]; }
  bool eager(std::uint64_t seq) const { return eager_[seq % 2]; }  // all posts of the call were small

  /// Waits until every rank has arrived as often as this one. At the first arrival of a call the last rank looks at all posts.
  void arrive(int rank, const signature& what, bool first) { await(rank, what, announce(rank, what, first)); }

  /// The two halves of arrive, for what a rank can do while it waits. Returns what await needs.
  std::uint32_t announce(int rank, const signature& what, bool first) {
    const std::uint32_t seen = word_.load();
    if (parking_word::closed(seen)) throw_failure(rank, what);
    ranks_[std::size_t(rank)].arrivals.fetch_add(1, std::memory_order_seq_cst);
    if (arrived_.fetch_add(1, std::memory_order_seq_cst) + 1 == size()) {
      if (first) meet(rank, what.seq);
      arrived_.store(0, std::memory_order_relaxed);
      word_.advance();
    }
    return seen;
  }
  void await(int rank, const signature& what, std::uint32_t seen) {
    if (parking_word::advanced(seen, word_.load())) return;
    if (world_->any_finished()) look_for_finished(rank, what);
    if (receivers_.load(std::memory_order_seq_cst) > 0) look_for_receivers(rank);
    thread_world::long_wait patience = wait_of(rank, what);
    while (!word_.wait(seen, ranks_[std::size_t(rank)].habit, patience.next()))
      if (patience.over(steady::now())) time_out(rank, what);
    if (!parking_word::advanced(seen, word_.load())) throw_failure(rank, what);
  }

  /// While one lives, its rank touches memory of its peers, and they stay in their calls.
  class access {
   public:
    access(thread_group& group, int rank, const signature& what) : flag_(group.ranks_[std::size_t(rank)].accessing) {
      flag_.store(true, std::memory_order_seq_cst);
      if (!group.world_->failed()) return;  // a peer that leaves looks at the flag after the failure: one of the two sees the other
      flag_.store(false, std::memory_order_seq_cst);
      group.throw_failure(rank, what);
    }
    ~access() { flag_.store(false, std::memory_order_seq_cst); }
    access(const access&) = delete;
    access& operator=(const access&) = delete;

   private:
    std::atomic<bool>& flag_;
  };

  /// After a failure: returns when no peer touches this rank's memory. Peers inside a copy need microseconds; peers that read through an
  /// open window, where nothing can stop them, get 50 ms to notice. This rank's own windows end here.
  void leave(int rank) noexcept {
    ranks_[std::size_t(rank)].windows.store(0, std::memory_order_seq_cst);
    for (std::size_t p = 0; p < ranks_.size(); ++p)
      while (int(p) != rank && ranks_[p].accessing.load(std::memory_order_seq_cst)) std::this_thread::yield();
    const auto patience = steady::now() + std::chrono::milliseconds(50);
    for (std::size_t p = 0; p < ranks_.size(); ++p)
      while (int(p) != rank && ranks_[p].windows.load(std::memory_order_seq_cst) > 0 && steady::now() < patience)
        std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  void count_window(int rank, int change) { ranks_[std::size_t(rank)].windows.fetch_add(change, std::memory_order_seq_cst); }
  /// Time this rank has slept in its calls on this communicator. Own thread only.
  std::chrono::nanoseconds asleep(int rank) const { return ranks_[std::size_t(rank)].habit.asleep(); }
  std::vector<table>& spare_tables(int rank) { return ranks_[std::size_t(rank)].spare_tables; }

  /// What a communicator over other memory keeps with this one, for all its ranks (comm/thread.cuh): made for the rank that asks first, from size().
  template <class State>
  std::shared_ptr<State> beside() {
    const std::lock_guard lock(beside_mutex_);
    if (!beside_) beside_ = std::make_shared<State>(size());
    return std::static_pointer_cast<State>(beside_);
  }

  /// Puts a copy of the data into the mailbox from `rank` to `peer`. Never waits for the peer.
  void send(int rank, int peer, const signature& what, std::span<const std::byte> data) {
    mailbox& box = box_of(rank, peer);
    letter l = box.room_for(data.size());
    l.what = what;
    if (world_->options().latency.count() > 0) l.ready = steady::now() + world_->options().latency;
    if (!data.empty()) std::memcpy(l.room.get(), data.data(), data.size());
    {
      std::lock_guard lock(box.mutex);
      box.put(std::move(l));
    }
    ranks_[std::size_t(peer)].inbox.advance();
  }

  /// Waits for the next letter from `peer`, compares it with the call, copies it out.
  void receive(int rank, int peer, const signature& what, std::span<std::byte> out, void (*hook)(void*), void* context) {
    letter l = wait_for_letter(rank, peer, what);
    if (world_->options().check_signatures && (l.what.type != what.type || l.what.count != what.count || l.what.device != what.device))
      report_letter(rank, peer, l.what, what);
    if (world_->options().latency.count() > 0) std::this_thread::sleep_until(l.ready);
    if (hook) hook(context);
    if (!out.empty()) std::memcpy(out.data(), l.room.get(), out.size());
    mailbox& box = box_of(peer, rank);
    std::lock_guard lock(box.mutex);
    box.spare.push_back(std::move(l));
  }

  [[noreturn]] void throw_failure(int rank, const signature& what) { world_->throw_failure(world_rank(rank), what, label_, lane_); }
  /// For the flight recorder: a call of this rank begins, and ends.
  std::uint64_t enter(int rank, const signature& what, steady::time_point start) {
    rank_state& me = ranks_[std::size_t(rank)];
    return me.ring ? me.ring->enter(me.flight, what, start) : 0;
  }
  void leave(int rank, std::uint64_t entered, flight_state outcome, steady::time_point end) {
    if (flight_ring* const ring = ranks_[std::size_t(rank)].ring) ring->leave(entered, outcome, end);
  }
  thread_world::call& last_call(int rank) const { return world_->last_call(world_rank(rank), lane_); }

 private:
  struct letter {
    signature what;
    std::unique_ptr<std::byte[]> room;
    std::size_t capacity = 0;
    steady::time_point ready{};  // not before this can it be received
  };
  // From one rank to one rank: a ring of letters on their way, and rooms to use again. Rooms of one size are made by eights (memory that is
  // not written yet costs nothing), so whether a letter was taken before the next one was sent does not decide who allocates when.
  struct mailbox {
    static constexpr std::size_t batch = 8;
    std::mutex mutex;
    std::vector<letter> ring = std::vector<letter>(batch);
    std::size_t first = 0, waiting = 0;
    std::vector<letter> spare;
    std::size_t rooms = 0;

    letter room_for(std::size_t bytes) {
      const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(bytes, 64));
      std::lock_guard lock(mutex);
      auto found = std::find_if(spare.begin(), spare.end(), [&](const letter& l) { return l.capacity == capacity; });
      if (found == spare.end()) {
        spare.reserve(rooms += batch);  // all of them come back one day
        for (std::size_t i = 0; i < batch; ++i) spare.push_back({{}, std::unique_ptr<std::byte[]>(new std::byte[capacity]), capacity, {}});
        found = spare.end() - 1;
      }
      std::swap(*found, spare.back());
      letter l = std::move(spare.back());
      spare.pop_back();
      return l;
    }
    void put(letter&& l) {
      if (waiting == ring.size()) {
        std::rotate(ring.begin(), ring.begin() + std::ptrdiff_t(first), ring.end());
        first = 0;
        ring.resize(2 * ring.size());
      }
      ring[(first + waiting++) % ring.size()] = std::move(l);
    }
    letter get() {
      letter l = std::move(ring[first]);
      first = (first + 1) % ring.size();
      --waiting;
      return l;
    }
  };
  struct owned_box {  // made by whichever of the two ranks needs it first
    std::atomic<mailbox*> box{nullptr};
    ~owned_box() { delete box.load(std::memory_order_acquire); }
  };
  struct alignas(64) rank_state {
    std::atomic<std::uint64_t> arrivals{0};
    std::atomic<bool> accessing{false};
    std::atomic<int> windows{0};
    std::atomic<int> awaits{-1};  // the peer whose letter this rank waits for; changes under the box's mutex
    parking_word inbox;
    spin_habit habit;  // own thread only
    flight_ring* ring = nullptr;
    flight_group flight;
    std::array<post, 2> posts;
    std::vector<table> spare_tables;
  };

  void close() override {
    word_.close();
    for (rank_state& r : ranks_) r.inbox.close();
  }
  steady::time_point deadline(int rank, const signature& what) const {
    const thread_options& o = world_->options();
    return last_call(rank).since + (what.seq == 0 || world_->starting(world_rank(rank)) ? o.first_deadline : o.deadline);
  }
  thread_world::long_wait wait_of(int rank, const signature& what, int peer = -1) {
    return {*world_, world_rank(rank), lane_, last_call(rank).since, deadline(rank, what), this, rank, peer};
  }
  std::uint64_t arrivals(int rank) const { return ranks_[std::size_t(rank)].arrivals.load(std::memory_order_seq_cst); }

  mailbox& box_of(int from, int to) {
    std::atomic<mailbox*>& place = boxes_[std::size_t(from) * members_.size() + std::size_t(to)].box;
    mailbox* box = place.load(std::memory_order_acquire);
    if (box != nullptr) return *box;
    auto made = std::make_unique<mailbox>();
    if (place.compare_exchange_strong(box, made.get(), std::memory_order_acq_rel, std::memory_order_acquire)) return *made.release();
    return *box;
  }
  bool awaits_in_vain(int rank, int peer) {  // rank waits for a letter of peer, and there is none
    if (ranks_[std::size_t(rank)].awaits.load(std::memory_order_seq_cst) != peer) return false;
    mailbox& box = box_of(peer, rank);
    std::lock_guard lock(box.mutex);
    return box.waiting == 0 && ranks_[std::size_t(rank)].awaits.load(std::memory_order_seq_cst) == peer;
  }

  letter wait_for_letter(int rank, int peer, const signature& what) {
    rank_state& me = ranks_[std::size_t(rank)];
    mailbox& box = box_of(peer, rank);
    struct awaiting {  // says whom this rank waits for; unsaid with the letter in hand, or on failure
      thread_group& group;
      rank_state& me;
      bool said = false;
      void say(int peer) {
        if (std::exchange(said, peer >= 0) == (peer >= 0)) return;
        me.awaits.store(peer, std::memory_order_seq_cst);
        group.receivers_.fetch_add(peer >= 0 ? 1 : -1, std::memory_order_seq_cst);
      }
      ~awaiting() { say(-1); }
    } state{*this, me};
    thread_world::long_wait patience = wait_of(rank, what, peer);
    for (;;) {
      const std::uint32_t seen = me.inbox.load();
      {
        std::lock_guard lock(box.mutex);
        if (box.waiting > 0) {
          state.say(-1);
          return box.get();
        }
        state.say(peer);
      }
      if (parking_word::closed(seen)) throw_failure(rank, what);
      if (world_->finished(world_rank(peer)) && awaits_in_vain(rank, peer)) fail_with<peer_failed>(rank, finished_early(peer, rank, what));
      if (arrivals(peer) > arrivals(rank) && awaits_in_vain(rank, peer)) report_deadlock(rank, peer, rank);
      if (!me.inbox.wait(seen, me.habit, patience.next()) && patience.over(steady::now())) time_out(rank, what, peer);
    }
  }

  // The last rank to arrive looks at all posts.
  void meet(int rank, std::uint64_t seq) {
    if (world_->options().check_signatures) compare(rank, seq);
    bool all_small = true;
    for (const rank_state& r : ranks_) all_small = all_small && r.posts[seq % 2].small;
    eager_[seq % 2] = all_small;
    if (lane_ == 0 && size() > 1) note_straggler(rank, seq);
    if (post_of(0, seq).what.op == operation::split) make_children(seq);
  }
  void note_straggler(int last, std::uint64_t seq) {
    steady::time_point before{};
    for (int r = 0; r < size(); ++r)
      if (r != last) before = std::max(before, post_of(r, seq).since);
    const steady::time_point came = post_of(last, seq).since;
    if (came - before < least_late) return;
    world_->stragglers().add(world_rank(last), std::min(came - before, came - world_->runs_since(world_rank(last))));
  }
  void compare(int rank, std::uint64_t seq);
  void make_children(std::uint64_t seq);

  // From here on something has gone wrong.
  template <class Error>
  [[noreturn]] void fail_with(int rank, root_cause cause) {
    cause.elapsed = steady::now() - last_call(rank).since;
    const signature what = last_call(rank).what;
    world_->fail<Error>(std::move(cause));
    throw_failure(rank, what);
  }
  root_cause blame(int rank, const signature& what, std::string message) const {
    return {world_rank(rank), label_, what.op, what.seq, std::chrono::nanoseconds(0), std::move(message)};
  }
  root_cause finished_early(int culprit, int waiting, const signature& what) const {
    return blame(culprit, what,
                 sentence("rank ", world_rank(culprit), " finished early: its function returned, or it went to rebuild, while rank ",
                          world_rank(waiting), " waits for it in ", describe(what), " on ", label_.view()));
  }
  std::string list(const std::vector<int>& ranks) const {
    return list_ranks(ranks, [&](int r) { return world_rank(r); });
  }
  std::optional<root_cause> waits_for(int world_rank) override;
  void missing(int rank, int peer, std::vector<int>& world_ranks) override;
  void look_for_finished(int rank, const signature& what);
  void look_for_receivers(int rank);
  void time_out(int rank, const signature& what, int peer = -1);
  [[noreturn]] void report_deadlock(int receiver, int peer, int reporter);
  [[noreturn]] void report_letter(int rank, int peer, const signature& sent, const signature& wanted);

  static constexpr auto least_late = std::chrono::microseconds(10);

  std::shared_ptr<thread_world> world_;
  std::vector<int> members_;  // world ranks, in rank order
  comm_label label_;
  int lane_ = 0;
  std::vector<rank_state> ranks_;
  std::vector<std::size_t> counts_;
  std::vector<owned_box> boxes_;
  std::mutex beside_mutex_;
  std::shared_ptr<void> beside_;
  // What every rank touches in every call, on one cache line: bringing a line from another core costs as much as copying 3 to 10 KiB.
  alignas(64) std::atomic<int> arrived_{0};
  parking_word word_;
  std::array<bool, 2> eager_{};    // written by the last rank to arrive, before it lets the others go
  std::atomic<int> receivers_{0};  // ranks in wait_for_letter
};

/// All posts must say the same; v-operations must agree on every count. Throws signature_mismatch on every rank before any data moves.
inline void thread_group::compare(int rank, std::uint64_t seq) {
  const auto posts = [&](int r) -> const post& { return post_of(r, seq); };
  if (auto found = compare_posts(size(), label_, posts, [&](int r) { return world_rank(r); }))
    fail_with<signature_mismatch>(rank, blame(found->culprit, found->what, std::move(found->message)));
}

/// One group per colour, its ranks ordered by key, then by rank here.
inline void thread_group::make_children(std::uint64_t seq) {
  std::vector<int> order(members_.size());
  for (int r = 0; r < size(); ++r) order[std::size_t(r)] = r;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    const post &x = post_of(a, seq), &y = post_of(b, seq);
    return x.colour != y.colour ? x.colour < y.colour : x.key < y.key;
  });
  for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
    std::vector<int> members;
    for (; last < order.size() && post_of(order[last], seq).colour == post_of(order[first], seq).colour; ++last)
      members.push_back(world_rank(order[last]));
    const comm_label name = post_of(order[first], seq).label;
    for (std::size_t i = first; i < last; ++i)
      require(post_of(order[i], seq).label == name, "moefold: split of ", label_.view(), ": ranks ", world_rank(order[first]), " and ",
              world_rank(order[i]), " have colour ", post_of(order[i], seq).colour, " but name it ", name.view(), " and ",
              post_of(order[i], seq).label.view(), "; give one colour one label");
    const int lane = *post_of(order[first], seq).what.reduction ? 1 : lane_;  // apart
    auto child = std::make_shared<thread_group>(world_, std::move(members), name.empty() ? label_ : name, lane);
    for (std::size_t i = first; i < last; ++i) {
      post_of(order[i], seq).child = child;
      post_of(order[i], seq).child_rank = int(i - first);
    }
  }
}

inline std::optional<root_cause> thread_group::waits_for(int finished) {
  const auto place = std::find(members_.begin(), members_.end(), finished);
  if (place == members_.end()) return {};
  const int culprit = int(place - members_.begin());
  for (int r = 0; r < size(); ++r) {
    if (arrivals(r) > arrivals(culprit)) return finished_early(culprit, r, last_call(r).what);
    if (awaits_in_vain(r, culprit)) return finished_early(culprit, r, last_call(r).what);
  }
  return {};
}

inline void thread_group::missing(int rank, int peer, std::vector<int>& world_ranks) {
  if (peer >= 0) {
    if (peer != rank && awaits_in_vain(rank, peer)) world_ranks.push_back(world_rank(peer));
    return;
  }
  for (int r = 0; r < size(); ++r)
    if (arrivals(r) < arrivals(rank)) world_ranks.push_back(world_rank(r));
}

inline void thread_group::look_for_finished(int rank, const signature& what) {
  for (int r = 0; r < size(); ++r)
    if (world_->finished(world_rank(r)) && arrivals(r) < arrivals(rank)) fail_with<peer_failed>(rank, finished_early(r, rank, what));
}

inline void thread_group::look_for_receivers(int rank) {
  for (int r = 0; r < size(); ++r)
    if (arrivals(rank) > arrivals(r) && awaits_in_vain(r, rank)) report_deadlock(r, rank, rank);
}

/// `receiver` waits for a letter of `peer`, `peer` waits for `receiver` in a collective call: neither can go on.
inline void thread_group::report_deadlock(int receiver, int peer, int reporter) {
  const signature recv = last_call(receiver).what;
  const signature other = last_call(peer).what;
  fail_with<signature_mismatch>(
      reporter, blame(receiver, recv,
                      sentence("ranks disagree on ", label_.view(), ": ", describe(other), " (rank ", world_rank(peer), ") but ",
                               describe(recv), " from rank ", world_rank(peer), " (rank ", world_rank(receiver),
                               "), so each waits for the other; all ranks must make the same calls in one order")));
}

inline void thread_group::report_letter(int rank, int peer, const signature& sent, const signature& wanted) {
  fail_with<signature_mismatch>(
      rank, blame(rank, wanted,
                  sentence("ranks disagree on ", label_.view(), ": ", described(sent, sent.device != wanted.device), " (rank ",
                           world_rank(peer), ") but ", described(wanted, sent.device != wanted.device), " (rank ", world_rank(rank),
                           "); give both the same type and count")));
}

inline void thread_group::time_out(int rank, const signature& what, int peer) {
  std::vector<int> here, missing;
  for (int r = 0; r < size(); ++r)
    if (peer >= 0 ? r == peer || r == rank : true) (r != peer && arrivals(r) >= arrivals(rank) ? here : missing).push_back(r);
  if (missing.empty()) return;  // the last one came at this very moment
  const double waited = std::chrono::duration<double>(steady::now() - last_call(rank).since).count();
  const std::vector<waiting> behind = world_->waits_behind(world_rank(missing.front()), lane_);
  root_cause cause = blame(missing.front(), what,
                           sentence(describe(what), " on ", label_.view(), " waited ", waited, " s for rank ", list(missing),
                                    " (arrived: ", list(here), "; missing: ", list(missing), behind.empty() ? "" : "; ",
                                    describe_chain(behind), "); see what it does, or raise the deadline with MOEFOLD_TIMEOUT_FACTOR=2"));
  if (!behind.empty()) cause.rank = behind.back().missing.front();
  fail_with<timeout>(rank, std::move(cause));
}

}  // namespace moefold
