#pragma once
// Where the processes of one communicator meet: each sends every other a head that says what it calls, waits for theirs, and compares them all before any
// data moves. Byte level only; comm/process.hpp adds element types and reductions.
//
//   head -> to all, from all -> compare -> data in pieces of 256 KiB through memory of the lane (process_world::staging), so that a call whose world has
//   failed is left at once, whatever is in flight
//   head  | call, splits, letters sent so far | counts per rank | data up to 512 bytes |    small inputs travel in the head: nothing else is sent
//   A rank has the receives for the next heads out at all times, so it sees a peer that is already in another call.
#include <moefold/comm/compare.hpp>
#include <moefold/comm/process_world.hpp>

#include <bit>

namespace moefold {

class process_group {
 public:
  static constexpr std::size_t eager_bytes = 512;  // inputs up to here travel inside the head
  static constexpr std::size_t piece = std::size_t(256) << 10;
  static constexpr std::size_t window = 8;  // pieces in flight, each way

  struct post {  // what a rank says of one call
    signature what;
    std::span<const std::size_t> send_counts, recv_counts;  // [ranks] each, of v-operations
    std::span<const std::byte> inlined;                     // its input, where that is small
    int colour = 0, key = 0;                                // split
    comm_label label;
    std::uint64_t next_group = 0;
    std::uint64_t letters = 0;  // it has sent to this rank
    std::chrono::nanoseconds ran{0};
  };
  using hook_t = void (*)(void*);

  /// `members` are world ranks, of which this process is `rank`. `id`: equal on all members, on no other communicator that two of them share.
  process_group(std::shared_ptr<process_world> world, std::shared_ptr<process_world::epoch> epoch, std::vector<int> members, int rank,
                comm_label label, std::uint64_t id, int lane)
      : world_(std::move(world)), epoch_(std::move(epoch)), members_(std::move(members)), rank_(rank), label_(label), id_(id), lane_(lane),
        room_((sizeof(head) + 2 * sizeof(std::size_t) * members_.size() + eager_bytes + 63) / 64 * 64), posts_(members_.size()),
        peers_(members_.size()) {
    require(id_ <= world_->carrier().most_tag() / kinds, "moefold: this is communicator ", id_, " of this job, and ",
            world_->carrier().name(), " numbers no more; keep communicators instead of splitting anew");
    const std::size_t n = members_.size();
    rooms_ = std::shared_ptr<std::byte[]>(new std::byte[(4 * n + 2) * room_]);
    letter_rooms_ = std::shared_ptr<std::byte[]>(new std::byte[n * sizeof(letter_head)]);
    if (flight_recorder* const recorder = world_->recorder()) {
      ring_ = &recorder->ring(world_->rank(), lane_);
      flight_ = {flight_id(id_, std::uint64_t(members_.front()), epoch_->number), recorder->labels().number_of(label_), std::uint32_t(n),
                 std::uint32_t(rank_)};
    }
    for (int p = 0; p < size(); ++p)
      if (p != rank_) guarded(p, [&] { listen(p, 0); });
  }
  ~process_group() {
    for (peer_state& p : peers_) {
      for (auto& r : p.hearing) carrier().abandon(r, rooms_);
      for (auto& r : p.sending) carrier().abandon(r, rooms_);
      carrier().abandon(p.letters, letter_rooms_);
    }
    for (letter& o : outbox_) o.abandon(carrier());
  }
  process_group(const process_group&) = delete;
  process_group& operator=(const process_group&) = delete;

  process_world& world() const { return *world_; }
  const std::shared_ptr<process_world>& shared_world() const { return world_; }
  process_world::epoch& epoch() const { return *epoch_; }
  int rank() const { return rank_; }
  int size() const { return int(members_.size()); }
  const comm_label& label() const { return label_; }
  int lane() const { return lane_; }
  int world_rank(int rank) const { return members_[std::size_t(rank)]; }
  const post& post_of(int rank) const { return posts_[std::size_t(rank)]; }
  bool failing() const { return epoch_->failing.load(std::memory_order_seq_cst); }
  [[noreturn]] void throw_failure(const signature& what) { world_->throw_failure(*epoch_, what, label_, lane_); }

  /// Any call: refuses when the world has failed, notes what the rank does. What goes wrong inside fails the world.
  template <class Body>
  void call(const signature& what, Body&& body) {
    if (failing()) throw_failure(what);
    process_world::call& now = world_->last_call(lane_);
    now = {label_, what, steady::now(), true, true};
    const std::uint64_t entered = ring_ ? ring_->enter(flight_, what, now.since) : 0;
    const auto end = [&](flight_state outcome) {
      now.inside = false;
      const auto at = steady::now();
      if (ring_) ring_->leave(entered, outcome, at);
    };
    try {
      body();
    } catch (...) {
      if (!failing()) world_->fail_with_current_exception(*epoch_, lane_);
      end(flight_state::failed);
      throw;
    }
    end(flight_state::done);
  }

  /// What this rank says of a collective call. small: every peer may need it whole, and it travels in the head; -1 for `only`: to all of them.
  struct said {
    std::span<const std::size_t> send_counts{}, recv_counts{};
    std::span<const std::byte> input{};
    int only = -1;
    int colour = 0, key = 0;
    comm_label label{};
  };
  /// Tells every peer, waits until every peer has told, compares. After it, post_of holds for this call.
  void meet(const signature& what, const said& mine) {
    const std::size_t parity = what.seq % 2;
    const auto entered = world_->last_call(lane_).since;
    const std::size_t counted = (mine.send_counts.size() + mine.recv_counts.size()) * sizeof(std::size_t);
    const std::size_t inlined = mine.input.size() <= eager_bytes ? mine.input.size() : 0;

    std::byte* const own = room(4 * members_.size() + parity);
    head h;
    h.seq = what.seq, h.count = what.count, h.root = what.root, h.op = what.op, h.type = what.type;
    h.reduction = detail::number_of(what.reduction), h.device = what.device;
    h.ran = (entered - world_->running_since(lane_)).count();
    h.next_group = world_->next_group(lane_), h.colour = mine.colour, h.key = mine.key, h.label = mine.label;
    h.send_counts = std::uint32_t(mine.send_counts.size()), h.recv_counts = std::uint32_t(mine.recv_counts.size());
    h.inlined = std::uint32_t(inlined);
    h.letters = 0;
    std::byte* at = own;
    const auto append = [&](const void* from, std::size_t bytes) {
      if (bytes > 0) std::memcpy(at, from, bytes);
      at += bytes;
    };
    append(&h, sizeof h);
    append(mine.send_counts.data(), mine.send_counts.size_bytes());
    append(mine.recv_counts.data(), mine.recv_counts.size_bytes());
    append(mine.input.data(), inlined);
    read_post(rank_, {own, std::size_t(at - own)});

    each_peer([&](int p) {
      peer_state& to = peers_[std::size_t(p)];
      if (to.sending[parity].pending())  // of the call before the last: the peer has been in the last one since
        wait(
            what, [&] { return carrier().test(to.sending[parity]); }, [&] { return std::vector<int>{p}; });
      std::byte* const out = room(2 * members_.size() + 2 * std::size_t(p) + parity);
      const bool without = mine.only >= 0 && mine.only != p && inlined > 0;
      h.letters = to.letters_sent;
      h.inlined = without ? 0 : std::uint32_t(inlined);
      std::memcpy(out, &h, sizeof h);
      const std::size_t rest = counted + (without ? 0 : inlined);
      if (rest > 0) std::memcpy(out + sizeof h, own + sizeof h, rest);
      guarded(p, [&] { to.sending[parity] = carrier().send(world_rank(p), tag(heads), {out, sizeof h + rest}); });
    });

    steady::time_point before_last = entered;
    int last = rank_;
    steady::time_point last_at = entered;
    wait(
        what,
        [&] {
          bool all = true;
          each_peer([&](int p) {
            const bool here = peers_[std::size_t(p)].heard[parity];
            if (here) return;
            if (!hear(p, parity)) {
              all = false;
            } else if (waited_) {
              before_last = last_at, last_at = steady::now(), last = p;
            }
          });
          return all;
        },
        [&] {
          std::vector<int> missing;
          for (int p = 0; p < size(); ++p)
            if (p != rank_ && !peers_[std::size_t(p)].heard[parity]) missing.push_back(p);
          return missing;
        });
    // The last one is noted once: by rank 0, or where that came last, by rank 1.
    if (last != rank_ && (last == 0 ? rank_ == 1 : rank_ == 0))
      world_->stragglers().add(world_rank(last), std::min<std::chrono::nanoseconds>(last_at - before_last, post_of(last).ran));

    if (world_->options().check_signatures) {
      const auto posts = [&](int r) -> const post& { return post_of(r); };
      if (auto found = compare_posts(size(), label_, posts, [&](int r) { return world_rank(r); }))
        fail_with<signature_mismatch>(blame(found->culprit, found->what, std::move(found->message)));
    }
    each_peer([&](int p) {
      peers_[std::size_t(p)].heard[parity] = false;
      guarded(p, [&] { listen(p, 1 - parity); });
    });
  }

  /// Moves data between all pairs: outgoing(p) leaves for rank p, incoming(p) is where rank p's goes; sizes as agreed before. Returns when this rank's is
  /// sent and the peers' is here. `ready`: how many bytes of what leaves are there yet, where that grows with what comes.
  template <class Outgoing, class Incoming>
  void exchange(const signature& what, Outgoing&& outgoing, Incoming&& incoming, bool forwards = false) {
    move(what, pieces, std::forward<Outgoing>(outgoing), std::forward<Incoming>(incoming), forwards);
  }

  /// Puts a copy on its way to `peer`. Never waits for it.
  void send(int peer, const signature& what, std::span<const std::byte> data) {
    letter_head h{what.seq, what.count, data.size(), what.type, what.device, {}};
    if (data.size() <= eager_bytes && !data.empty()) std::memcpy(h.inlined, data.data(), data.size());
    if (peer == rank_) {
      own_letters_.push_back({h, {data.begin(), data.end()}});
      return;
    }
    letter* free = nullptr;
    guarded(peer, [&] { free = &free_letter(data.size() <= eager_bytes ? 0 : data.size()); });
    letter& o = *free;
    std::memcpy(o.room.get(), &h, sizeof h);
    if (data.size() > eager_bytes) std::memcpy(o.room.get() + sizeof h, data.data(), data.size());
    const std::size_t said_bytes =
        data.size() > eager_bytes ? offsetof(letter_head, inlined) : offsetof(letter_head, inlined) + data.size();
    ++peers_[std::size_t(peer)].letters_sent;
    guarded(peer, [&] {
      o.requests.push_back(carrier().send(world_rank(peer), tag(letters), {o.room.get(), said_bytes}));
      if (data.size() <= eager_bytes) return;
      for (std::size_t at = 0; at < data.size(); at += piece)
        o.requests.push_back(
            carrier().send(world_rank(peer), tag(bodies), {o.room.get() + sizeof h + at, std::min(piece, data.size() - at)}));
    });
  }

  /// Waits for the next letter from `peer`, compares it with the call, copies it out.
  void receive(int peer, const signature& what, std::span<std::byte> out, hook_t hook, void* context) {
    if (peer == rank_) return receive_own(what, out, hook, context);
    auto& from = peers_[std::size_t(peer)];
    letter_head h;
    std::byte* const room = letter_rooms_.get() + std::size_t(peer) * sizeof h;
    if (!from.letters.pending()) guarded(peer, [&] { from.letters = carrier().receive(world_rank(peer), tag(letters), {room, sizeof h}); });
    const std::size_t next = from.next;  // whether the peer is in its next collective call already
    wait(
        what,
        [&] {
          if (carrier().test(from.letters)) return true;
          if (from.heard[next] || hear(peer, next)) {
            if (carrier().test(from.letters)) return true;
            if (posts_[std::size_t(peer)].letters <= from.letters_received) report_deadlock(peer, what, posts_[std::size_t(peer)].what);
          }
          return false;
        },
        [&] { return std::vector<int>{peer}; }, peer);
    std::memcpy(&h, room, sizeof h);
    ++from.letters_received;
    signature sent = what;
    sent.op = operation::send, sent.type = h.type, sent.count = h.count, sent.seq = h.seq, sent.device = h.device;
    check_letter(peer, sent, what);
    if (hook) hook(context);
    if (out.size() <= eager_bytes) {
      if (!out.empty()) std::memcpy(out.data(), h.inlined, out.size());
      return;
    }
    move(
        what, bodies, [](int) { return std::span<const std::byte>(); }, [&](int p) { return p == peer ? out : std::span<std::byte>(); },
        false, peer);
  }

  /// split, after the heads have met: the members of this rank's colour, ordered by key, then by rank here. `apart` children lie on lane 1.
  std::shared_ptr<process_group> child(bool apart) const {
    const post& mine = post_of(rank_);
    std::vector<int> order;
    std::uint64_t number = 0;
    for (int r = 0; r < size(); ++r) {
      number = std::max(number, post_of(r).next_group);
      if (post_of(r).colour == mine.colour) order.push_back(r);
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return post_of(a).key < post_of(b).key; });
    const post& first = post_of(order.front());
    for (int r : order)
      require(post_of(r).label == first.label, "moefold: split of ", label_.view(), ": ranks ", world_rank(order.front()), " and ",
              world_rank(r), " have colour ", mine.colour, " but name it ", first.label.view(), " and ", post_of(r).label.view(),
              "; give one colour one label");
    std::vector<int> members;
    int rank = 0;
    for (int r : order) {
      if (r == rank_) rank = int(members.size());
      members.push_back(world_rank(r));
    }
    world_->took_group(lane_, number);
    return std::make_shared<process_group>(world_, epoch_, std::move(members), rank, first.label.empty() ? label_ : first.label,
                                           2 * number + std::uint64_t(lane_), apart ? 1 : lane_);
  }

 private:
  static constexpr std::uint64_t kinds = 4;
  enum kind : std::uint64_t { heads, pieces, letters, bodies };
  struct head {
    std::uint64_t seq, count, letters, next_group;
    std::int64_t ran;
    std::int32_t root, colour, key;
    std::uint32_t send_counts, recv_counts, inlined;
    operation op;
    dtype type;
    std::uint8_t reduction;
    bool device;
    comm_label label;
    std::uint8_t unused[4] = {};
  };
  static_assert(std::is_trivially_copyable_v<head> && sizeof(head) % sizeof(std::size_t) == 0);
  struct letter_head {
    std::uint64_t seq, count, bytes;
    dtype type;
    bool device;
    std::byte inlined[eager_bytes];
  };
  struct peer_state {
    std::array<transport::request, 2> hearing, sending;  // of heads, by the parity of the call
    std::array<bool, 2> heard{};
    std::size_t next = 0;  // parity of its next head
    transport::request letters;
    std::uint64_t letters_sent = 0, letters_received = 0;
  };
  struct letter {  // a letter on its way
    std::shared_ptr<std::byte[]> room;
    std::size_t capacity = 0;
    std::vector<transport::request> requests;

    bool gone(transport& carrier) {
      while (!requests.empty() && carrier.test(requests.back())) requests.pop_back();
      return requests.empty();
    }
    void abandon(transport& carrier) {
      for (auto& r : requests) carrier.abandon(r, room);
    }
  };
  struct own_letter {
    letter_head head;
    std::vector<std::byte> data;
  };

  transport& carrier() const { return world_->carrier(); }
  std::uint32_t tag(kind k) const { return std::uint32_t(id_ * kinds + k); }
  std::byte* room(std::size_t place) const { return rooms_.get() + place * room_; }
  template <class Body>
  void each_peer(Body&& body) const {  // its right neighbours: no two ranks start at the same peer
    for (int step = 1; step < size(); ++step) body((rank_ + step) % size());
  }

  void listen(int p, std::size_t parity) {
    peers_[std::size_t(p)].hearing[parity] = carrier().receive(world_rank(p), tag(heads), {room(2 * std::size_t(p) + parity), room_});
    peers_[std::size_t(p)].next = parity;
  }
  bool hear(int p, std::size_t parity) {
    peer_state& from = peers_[std::size_t(p)];
    std::size_t bytes = 0;
    if (!carrier().test(from.hearing[parity], &bytes)) return false;
    from.heard[parity] = true;
    ++progress_;
    read_post(p, {room(2 * std::size_t(p) + parity), bytes});
    return true;
  }
  void read_post(int p, std::span<const std::byte> bytes) {
    head h;
    const auto n = members_.size();
    require<transport_error>(bytes.size() >= sizeof h, "moefold: rank ", world_rank(p), " sent a head of ", bytes.size(),
                             " bytes; start all processes from one build");
    std::memcpy(&h, bytes.data(), sizeof h);
    require<transport_error>((h.send_counts == 0 || h.send_counts == n) && (h.recv_counts == 0 || h.recv_counts == n) &&
                                 sizeof h + (h.send_counts + h.recv_counts) * sizeof(std::size_t) + h.inlined == bytes.size(),
                             "moefold: rank ", world_rank(p),
                             " sent a head that says another length than it has; start all processes from one build");
    post& to = posts_[std::size_t(p)];
    to.what = {h.op, h.type, detail::reductions[h.reduction % detail::reductions.size()], h.root, h.count, h.seq, h.device};
    const auto* const counts = reinterpret_cast<const std::size_t*>(bytes.data() + sizeof h);
    to.send_counts = {counts, h.send_counts};
    to.recv_counts = {counts + h.send_counts, h.recv_counts};
    to.inlined = bytes.last(h.inlined);
    to.colour = h.colour, to.key = h.key, to.label = h.label, to.next_group = h.next_group, to.letters = h.letters;
    to.ran = std::chrono::nanoseconds(h.ran);
  }

  /// What touches the transport for one peer: if the peer is lost, the world has failed because of it.
  template <class Body>
  void guarded(int p, Body&& body) {
    try {
      body();
    } catch (const transport_error& lost) {
      if (lost.peer() < 0) throw;
      const signature what = world_->last_call(lane_).what;
      world_->lose(*epoch_, lost.peer(), lost.what());
      if (!failing()) {  // its function had returned before: that is no failure until somebody needs it
        const auto gone = std::find(members_.begin(), members_.end(), lost.peer());
        fail_with<peer_failed>(finished_early(gone == members_.end() ? p : int(gone - members_.begin()), what));
      }
      throw_failure(what);
    }
  }

  /// Polls until done() says so. missing(): the ranks it still waits for.
  template <class Done, class Missing>
  void wait(const signature& what, Done&& done, Missing&& missing, int peer = -1) {
    waited_ = false;
    const auto poll = [&] {
      bool over = false;
      guarded(-1, [&] { over = done(); });
      return over;
    };
    if (poll()) return;
    waited_ = true;
    struct said_waiting {  // unsaid on the way out
      process_group& group;
      std::vector<int> missing;
      bool said = false;
      ~said_waiting() {
        if (said) group.world_->say_running(group.lane_);
        group.world_->running_since(group.lane_) = steady::now();
      }
    } state{*this, {}};
    const auto begin = world_->last_call(lane_).since;
    const auto deadline = begin + world_->deadline(what.seq);
    const auto slow = steady::now() + std::chrono::milliseconds(10);
    steady::time_point end_seen{}, still_since = steady::now();
    std::uint64_t moved = progress_, moving = progress_;
    for (int polls = 0;; ++polls) {
      if (failing()) throw_failure(what);
      if (poll()) return;
      if (polls < spins) continue;
      if (polls >= spins + yields) world_->hear();
      // A transport that cannot wake this thread is looked at less and less often while nothing comes: at most a twentieth later than it could have been
      // seen, and a rank that waits long leaves the core to those that work.
      if (std::exchange(moving, progress_) != progress_) still_since = steady::now();
      const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(steady::now() - still_since) / 20;
      carrier().idle(polls < spins + yields ? std::chrono::microseconds(0)
                                            : std::clamp(waited, std::chrono::microseconds(100), std::chrono::microseconds(5000)));
      const auto now = steady::now();
      if (now < slow && now < deadline) continue;
      std::vector<int> left = missing();
      std::vector<int> ranks(left.size());
      std::transform(left.begin(), left.end(), ranks.begin(), [&](int p) { return world_rank(p); });
      if (!state.said || ranks != state.missing || world_->looked_for(lane_)) {
        state.missing = ranks;
        world_->say_waiting(lane_, label_, what, std::move(ranks), progress_);
        state.said = true;
      }
      // A rank that has returned will not come. What it sent before may still be on its way for a moment.
      const auto ended = std::find_if(left.begin(), left.end(), [&](int p) { return world_->finished(world_rank(p), *epoch_); });
      if (ended == left.end() || std::exchange(moved, progress_) != progress_)
        end_seen = {};
      else if (end_seen == steady::time_point{})
        end_seen = now;
      else if (now - end_seen > std::chrono::milliseconds(20) && !poll())
        fail_with<peer_failed>(finished_early(*ended, what));
      if (now >= deadline && !poll()) time_out(what, left, peer);
    }
  }

  // Pieces of what goes to, or comes from, the peers in turn: both sides walk the same steps in the same order, so the first one that is not through is
  // in flight on both.
  template <class Range>
  struct walk {
    int step = 1;
    std::size_t at = 0;
    int peer = 0;
    Range whole{};
    bool loaded = false;

    /// The next piece, false when there is none. `of(step)`: peer and range.
    template <class Of>
    bool next(int steps, Of&& of, Range& out) {
      for (; step < steps; ++step, at = 0, loaded = false) {
        if (!loaded) {
          peer = of(step, whole);
          loaded = true;
        }
        if (at < whole.size()) {
          out = whole.subspan(at, std::min(piece, whole.size() - at));
          return true;
        }
      }
      return false;
    }
    void took(std::size_t bytes) { at += bytes; }
  };
  template <class Outgoing, class Incoming>
  void move(const signature& what, kind k, Outgoing&& outgoing_of, Incoming&& incoming_of, bool forwards, int only = -1) {
    struct in_flight {
      transport::request request;
      std::span<std::byte> to;
      int peer = -1;
    };
    std::shared_ptr<std::byte[]>& staging = world_->staging(lane_);
    if (!staging) staging = std::shared_ptr<std::byte[]>(new std::byte[2 * window * piece]);
    struct flights {  // left behind with the staging memory if the call is
      process_group& group;
      std::shared_ptr<std::byte[]>& staging;
      std::array<in_flight, window> sends{}, receives{};
      std::size_t sent = 0, send_done = 0, asked = 0, received = 0;
      ~flights() {
        bool left = false;
        for (auto* all : {&sends, &receives})
          for (in_flight& f : *all)
            if (f.request.pending()) left = true, group.carrier().abandon(f.request, staging);
        if (left) staging.reset();
      }
    } f{*this, staging};
    walk<std::span<const std::byte>> out;
    walk<std::span<std::byte>> in;
    std::size_t ready = forwards ? 0 : std::size_t(-1), forwarded = 0;
    const auto to_right = [&](int step, std::span<const std::byte>& whole) {
      const int p = (rank_ + step) % size();
      whole = outgoing_of(p);
      return p;
    };
    const auto from_left = [&](int step, std::span<std::byte>& whole) {
      const int p = (rank_ + size() - step) % size();
      whole = incoming_of(p);
      return p;
    };
    const auto slot = [&](std::size_t side, std::size_t number) { return staging.get() + (side * window + number % window) * piece; };
    const auto progress = [&] {
      std::span<std::byte> room;
      while (f.asked - f.received < window && in.next(size(), from_left, room)) {
        in_flight& next = f.receives[f.asked % window];
        next.to = room, next.peer = in.peer;
        next.request = carrier().receive(world_rank(in.peer), tag(k), {slot(1, f.asked), room.size()});
        in.took(room.size()), ++f.asked;
      }
      std::span<const std::byte> data;
      while (f.sent - f.send_done < window && out.next(size(), to_right, data) && forwarded + data.size() <= ready) {
        in_flight& next = f.sends[f.sent % window];
        next.peer = out.peer;
        std::memcpy(slot(0, f.sent), data.data(), data.size());
        next.request = carrier().send(world_rank(out.peer), tag(k), {slot(0, f.sent), data.size()});
        out.took(data.size()), ++f.sent;
        if (forwards) forwarded += data.size();
      }
      std::size_t bytes = 0;
      while (f.received < f.asked && carrier().test(f.receives[f.received % window].request, &bytes)) {
        const in_flight& came = f.receives[f.received % window];
        require<transport_error>(bytes == came.to.size(), "moefold: rank ", world_rank(came.peer), " sent ", bytes, " bytes in ",
                                 describe(what), ", ", came.to.size(), " were agreed on; start all processes from one build");
        std::memcpy(came.to.data(), slot(1, f.received), bytes);
        ++f.received;
        if (forwards) ready += bytes;
      }
      while (f.send_done < f.sent && carrier().test(f.sends[f.send_done % window].request)) ++f.send_done;
      return f.received == f.asked && f.send_done == f.sent && !in.next(size(), from_left, room) && !out.next(size(), to_right, data);
    };
    wait(
        what,
        [&] {
          for (;;) {
            const std::size_t before = f.received + f.send_done;
            if (progress()) return true;
            if (f.received + f.send_done == before) return false;
            ++progress_;
          }
        },
        [&] {
          std::vector<int> missing;
          if (f.received < f.asked)
            missing.push_back(f.receives[f.received % window].peer);
          else if (f.send_done < f.sent)
            missing.push_back(f.sends[f.send_done % window].peer);
          return missing;
        },
        only);
  }

  letter& free_letter(std::size_t bytes) {
    const std::size_t capacity = std::bit_ceil(sizeof(letter_head) + bytes);
    for (letter& o : outbox_)
      if (o.capacity == capacity && o.gone(carrier())) return o;
    outbox_.push_back({std::shared_ptr<std::byte[]>(new std::byte[capacity]), capacity, {}});
    outbox_.back().requests.reserve(1 + (bytes + piece - 1) / piece);
    return outbox_.back();
  }
  void receive_own(const signature& what, std::span<std::byte> out, hook_t hook, void* context) {
    if (own_letters_.empty())
      fail_with<signature_mismatch>(blame(rank_, what,
                                          sentence("ranks disagree on ", label_.view(), ": rank ", world_rank(rank_),
                                                   " receives from itself in ", describe(what), " what it has not sent; send first")));
    own_letter l = std::move(own_letters_.front());
    own_letters_.erase(own_letters_.begin());
    signature sent = what;
    sent.op = operation::send, sent.type = l.head.type, sent.count = l.head.count, sent.seq = l.head.seq, sent.device = l.head.device;
    check_letter(rank_, sent, what);
    if (hook) hook(context);
    if (!out.empty()) std::memcpy(out.data(), l.data.data(), out.size());
  }

  // From here on something has gone wrong.
  template <class Error>
  [[noreturn]] void fail_with(root_cause cause) {
    const process_world::call& last = world_->last_call(lane_);
    cause.elapsed = steady::now() - last.since;
    world_->fail<Error>(*epoch_, std::move(cause));
    throw_failure(last.what);
  }
  root_cause blame(int rank, const signature& what, std::string message) const {
    return {world_rank(rank), label_, what.op, what.seq, std::chrono::nanoseconds(0), std::move(message)};
  }
  root_cause finished_early(int culprit, const signature& what) const {
    return blame(culprit, what,
                 sentence("rank ", world_rank(culprit), " finished early: its function returned, or it went to rebuild, while rank ",
                          world_rank(rank_), " waits for it in ", describe(what), " on ", label_.view()));
  }
  std::string list(const std::vector<int>& ranks) const {
    return list_ranks(ranks, [&](int r) { return world_rank(r); });
  }
  void check_letter(int peer, const signature& sent, const signature& wanted) {
    if (!world_->options().check_signatures || (sent.type == wanted.type && sent.count == wanted.count && sent.device == wanted.device))
      return;
    const bool mixed = sent.device != wanted.device;
    fail_with<signature_mismatch>(
        blame(rank_, wanted,
              sentence("ranks disagree on ", label_.view(), ": ", described(sent, mixed), " (rank ", world_rank(peer), ") but ",
                       described(wanted, mixed), " (rank ", world_rank(rank_), "); give both the same type and count")));
  }
  /// This rank waits for a letter of `peer`, which is in a collective call of this communicator and has sent none.
  [[noreturn]] void report_deadlock(int peer, const signature& recv, const signature& other) {
    fail_with<signature_mismatch>(blame(rank_, recv,
                                        sentence("ranks disagree on ", label_.view(), ": ", describe(other), " (rank ", world_rank(peer),
                                                 ") but ", describe(recv), " from rank ", world_rank(peer), " (rank ", world_rank(rank_),
                                                 "), so each waits for the other; all ranks must make the same calls in one order")));
  }
  [[noreturn]] void time_out(const signature& what, const std::vector<int>& missing, int peer) {
    std::vector<int> here;
    for (int r = 0; r < size(); ++r)
      if ((peer < 0 || r == peer || r == rank_) && std::find(missing.begin(), missing.end(), r) == missing.end()) here.push_back(r);
    const double waited = std::chrono::duration<double>(steady::now() - world_->last_call(lane_).since).count();
    fail_with<timeout>(
        blame(missing.empty() ? rank_ : missing.front(), what,
              sentence(describe(what), " on ", label_.view(), " waited ", waited, " s for rank ", list(missing), " (arrived: ", list(here),
                       "; missing: ", list(missing), "); see what it does, or raise the deadline with MOEFOLD_TIMEOUT_FACTOR=2")));
  }

  static constexpr int spins = 200, yields = 100;

  std::shared_ptr<process_world> world_;
  std::shared_ptr<process_world::epoch> epoch_;
  std::vector<int> members_;  // world ranks, in rank order
  int rank_ = 0;
  comm_label label_;
  std::uint64_t id_ = 0;
  int lane_ = 0;
  std::size_t room_ = 0;                       // bytes of a head at most
  std::shared_ptr<std::byte[]> rooms_;         // [ranks, 2] to receive, [ranks, 2] to send, [2] of its own
  std::shared_ptr<std::byte[]> letter_rooms_;  // [ranks]
  std::vector<post> posts_;
  std::vector<peer_state> peers_;
  std::vector<letter> outbox_;
  std::vector<own_letter> own_letters_;
  bool waited_ = false;
  std::uint64_t progress_ = 0;  // of all calls
  flight_ring* ring_ = nullptr;
  flight_group flight_;
};

}  // namespace moefold
