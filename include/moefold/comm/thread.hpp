#pragma once
// Ranks as threads of one process: the default of the library and the machine its tests run on. A collective meets, reads the peers' memory
// directly, and meets again; every call has a deadline, is compared with the peers' calls, and fails on all ranks when it fails on one.
//
//   run_threads(8, [](thread_comm& world) {
//     auto tp = world.split(world.rank() / 2, world.rank(), "tp");
//     tp.all_reduce(exec, in, out, sum{});
//     auto grads = tp.apart("grads");              // the same ranks; its operations run on this rank's helper thread
//     auto sum_of = grads.all_reduce(exec, in, out, sum{});    compute();    sum_of.wait(exec);
//   });                                            // throws what the first rank to fail threw
#include <moefold/comm/combine.hpp>
#include <moefold/comm/thread_group.hpp>
#include <moefold/core/bulk_copy.hpp>

namespace moefold {

class device_thread_comm;  // comm/thread.cuh: the same ranks over device memory

/// One rank's handle on a communicator of threads. Operations as in comm/communicator.hpp, complete when the call returns.
///
/// Throws timeout, signature_mismatch, peer_failed on every rank with one root cause, then comm_revoked; never hangs, never writes data of
/// a call that was not agreed on. Sizes that contradict each other on one rank throw moefold::error there. Destroying always works.
/// Allocates nothing after the first call of its kind (send: per message size and number in flight); split and expose do.
/// Bytes moved: each element once per reader, no staging. Used by the thread it was given to only.
///
/// `apart` gives a communicator whose operations are issued by the caller and done by the rank's one helper thread, in the order the rank issues
/// them, over all its apart communicators: ranks that share several issue to them in one order. What a call was given (data, and counts of
/// v-operations) stays as it is until its ticket has been waited for, or the communicator is destroyed: that waits for what is in flight, or
/// fails the world where an exception leaves it behind. expose, fetch_v and split are done when they return. At most 64 operations of a rank
/// are in flight; issuing one more waits for the oldest.
class thread_comm {
 public:
  /// Of an operation that is finished, or in the hands of the helper. Waited for by the thread that got it, while a
  /// communicator of its world lives.
  class ticket {
   public:
    ticket() = default;
    ticket(thread_world& world, int rank, std::uint64_t number) : world_(&world), rank_(rank), number_(number) {}
    /// The data is there. Throws the root cause if this operation, or an earlier one of the helper, has failed.
    template <class Exec>
    void wait(Exec) const {
      if (world_) world_->wait_for_helper(rank_, number_);
    }

   private:
    thread_world* world_ = nullptr;
    int rank_ = 0;
    std::uint64_t number_ = 0;
  };

  thread_comm(std::shared_ptr<thread_group> group, int rank) : group_(std::move(group)), rank_(rank) {}

  int rank() const { return rank_; }
  int size() const { return group_->size(); }
  const comm_label& label() const { return group_->label(); }
  /// CPU time this rank has spent inside calls of all its communicators, in seconds; sleeping for peers is not in it. Where every rank has a
  /// core it is time awake: what another process takes of that core meanwhile counts too. Of an apart communicator: the helper's time.
  /// How long the others have waited for each rank of the world, over all its communicators.
  std::vector<straggler_count> stragglers() const { return world().stragglers().counts(); }
  /// While this rank is starting, each of its calls may take as long as the first one on a communicator. Local.
  void starting(bool on) { world().starting(world_rank(), on); }
  double cpu_seconds() const { return world().cpu_seconds(world_rank(), group_->lane()); }
  void set_hook(void (*hook)(void*), void* context) { hook_ = hook, context_ = context; }

  /// The ranks with the same colour become a communicator, ordered by key, then by rank here. An empty label inherits this one's.
  thread_comm split(int colour, int key, comm_label label = {}) { return divided({operation::split}, colour, key, label); }
  /// The same ranks again, as a communicator that works beside the caller. Collective.
  thread_comm apart(comm_label label = {}) {
    world().helper(world_rank());  // if it cannot start, the peers are not kept waiting
    return divided({operation::split, dtype::uint8, "apart"}, 0, rank_, label);
  }

  /// A fresh world of the same ranks, called on the communicator of the whole world once it has failed, or when it is to be left. Collective over its
  /// ranks, whatever each of them has seen of the failure. Everything of the old world stays revoked and may be destroyed at any time. Throws
  /// peer_failed or timeout, on every rank, if one of them has ended or does not come within the first deadline: then only a new run helps.
  thread_comm rebuild() {
    require(size() == world().size() && !inner_, "moefold: rebuild is for the communicator of the whole world, not for ", label().view());
    const auto made = world().rebuild<thread_group>(
        world_rank(), [&] { return thread_group::of_world(world().size(), world().options_given(), label()); });
    if (auto* home = world().home(world_rank())) {
      *home = made->shared_world();
      made->world().set_home(world_rank(), *home);
    }
    return {made, world_rank()};
  }

  ticket barrier(host_exec e) {
    const signature what{operation::barrier};
    if (inner_) return issue(what, [e](thread_comm& c) { c.barrier(e); });
    collective(
        what, [](post&) {}, [](const signature&) {});
    return {};
  }

  template <writable_elements Data>
  ticket broadcast(host_exec e, Data&& range, int root) {
    using T = element_of<Data>;
    const std::span<T> data = span_of(range);
    require_rank(operation::broadcast, "root", root, size());
    const signature what{operation::broadcast, dtype_of<T>, "", root, data.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.broadcast(e, data, root); });
    collective(
        what, [&](post& mine) { show<T>(mine, data, rank_ == root); },
        [&](const signature& w) {
          read(w, [&] {
            if (rank_ != root) copy(data, from<T>(root, w), data.size_bytes());
          });
        });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce(host_exec e, const In& in, Out&& out, Op op, int root) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    require_rank(operation::reduce, "root", root, size());
    const std::span<T> to = span_of(out);
    if (rank_ == root) require_same(operation::reduce, source.size(), to.size());
    const signature what{operation::reduce, dtype_of<T>, Op::name, root, source.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.reduce(e, source, to, op, root); });
    collective(
        what, [&](post& mine) { show<T>(mine, source), mine.out = to.data(); },
        [&](const signature& w) {
          T* result = static_cast<T*>(group_->post_of(root, w.seq).out);
          if (group_->eager(w.seq) && rank_ != root) return;
          read(w, [&] {  // large: every rank makes one slice, in root's memory
            const auto [first, count] = group_->eager(w.seq) ? slice{0, source.size()} : slice_of(source.size(), rank_);
            combine(op, w, first, std::span<T>(result + first, count));
          });
        });
    return {};
  }

  /// Two phases: each rank reduces its slice of ceil(count / size) elements, then collects the others' slices.
  template <elements In, writable_elements Out, reduction Op>
  ticket all_reduce(host_exec e, const In& in, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_same(operation::all_reduce, source.size(), to.size());
    const signature what{operation::all_reduce, dtype_of<T>, Op::name, -1, source.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.all_reduce(e, source, to, op); });
    collective(
        what, [&](post& mine) { show<T>(mine, source), mine.out = to.data(); },
        [&](const signature& w) {
          if (group_->eager(w.seq)) return combine(op, w, 0, to);
          read(w, [&] {
            const auto [first, count] = slice_of(to.size(), rank_);
            combine(op, w, first, to.subspan(first, count));
          });
          read(w, [&] {
            each_peer([&](int peer) {
              const auto [first, count] = slice_of(to.size(), peer);
              copy(to.subspan(first, count), static_cast<const T*>(group_->post_of(peer, w.seq).out) + first, to.size_bytes());
            });
          });
        });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_gather(host_exec e, const In& in, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_parts(operation::all_gather, size(), source.size(), to.size());
    const signature what{operation::all_gather, dtype_of<T>, "", -1, source.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.all_gather(e, source, to); });
    collective(
        what, [&](post& mine) { show<T>(mine, source); },
        [&](const signature& w) {
          read_each(w, [&](int r) { copy(to.subspan(std::size_t(r) * source.size(), source.size()), from<T>(r, w), to.size_bytes()); });
        });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_gather_v(host_exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::all_gather_v, size(), counts, to.size());
    require_same(operation::all_gather_v, source.size(), counts[std::size_t(rank_)]);
    const signature what{operation::all_gather_v, dtype_of<T>};
    if (inner_) return issue(what, [=](thread_comm& c) { c.all_gather_v(e, source, counts, to); });
    collective(
        what, [&](post& mine) { show<T>(mine, source), std::copy(counts.begin(), counts.end(), mine.send_counts.begin()); },
        [&](const signature& w) {
          read_each(w, [&](int r) { copy(to.subspan(before(counts, r), counts[std::size_t(r)]), from<T>(r, w), to.size_bytes()); });
        });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(host_exec e, const In& in, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_parts(operation::reduce_scatter, size(), to.size(), source.size());
    const signature what{operation::reduce_scatter, dtype_of<T>, Op::name, -1, to.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.reduce_scatter(e, source, to, op); });
    collective(
        what, [&](post& mine) { show<T>(mine, source); },
        [&](const signature& w) { read(w, [&] { combine(op, w, std::size_t(rank_) * to.size(), to); }); });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(host_exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::reduce_scatter_v, size(), counts, source.size());
    require_same(operation::reduce_scatter_v, counts[std::size_t(rank_)], to.size());
    const signature what{operation::reduce_scatter_v, dtype_of<T>, Op::name};
    if (inner_) return issue(what, [=](thread_comm& c) { c.reduce_scatter_v(e, source, counts, to, op); });
    collective(
        what, [&](post& mine) { show<T>(mine, source), std::copy(counts.begin(), counts.end(), mine.send_counts.begin()); },
        [&](const signature& w) { read(w, [&] { combine(op, w, before(counts, rank_), to); }); });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_to_all(host_exec e, const In& in, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    const std::size_t part = to.size() / std::size_t(size());
    require_parts(operation::all_to_all, size(), part, to.size());
    require_same(operation::all_to_all, source.size(), to.size());
    const signature what{operation::all_to_all, dtype_of<T>, "", -1, part};
    if (inner_) return issue(what, [=](thread_comm& c) { c.all_to_all(e, source, to); });
    collective(
        what, [&](post& mine) { show<T>(mine, source); },
        [&](const signature& w) {
          read_each(w, [&](int r) {
            copy(to.subspan(std::size_t(r) * part, part), from<T>(r, w) + std::size_t(rank_) * part, 2 * to.size_bytes());
          });
        });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_to_all_v(host_exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out,
                      std::span<const std::size_t> recv_counts) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::all_to_all_v, size(), send_counts, source.size());
    require_counts(operation::all_to_all_v, size(), recv_counts, to.size());
    const signature what{operation::all_to_all_v, dtype_of<T>};
    if (inner_) return issue(what, [=](thread_comm& c) { c.all_to_all_v(e, source, send_counts, to, recv_counts); });
    collective(
        what,
        [&](post& mine) {
          show<T>(mine, source);
          std::copy(send_counts.begin(), send_counts.end(), mine.send_counts.begin());
          std::copy(recv_counts.begin(), recv_counts.end(), mine.recv_counts.begin());
        },
        [&](const signature& w) {
          read_each(w, [&](int r) {
            const std::span<const std::size_t> theirs = group_->post_of(r, w.seq).send_counts;
            copy(to.subspan(before(recv_counts, r), recv_counts[std::size_t(r)]), from<T>(r, w) + before(theirs, rank_),
                 2 * to.size_bytes());
          });
        });
    return {};
  }

  template <element T, showable Shown, class Fetch>
  ticket fetch_v(host_exec e, const Shown& shown, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 Fetch&& fetch) {
    static_assert(sizeof(Shown) <= thread_group::eager_bytes);
    require(send_counts.size() == std::size_t(size()) && recv_counts.size() == std::size_t(size()),
            "moefold: fetch_v needs a count for each of ", size(), " ranks, given ", send_counts.size(), " to send and ",
            recv_counts.size(), " to receive");
    const signature what{operation::all_to_all_v, dtype_of<T>};
    if (inner_) {
      at_once(what, [&](thread_comm& c) { c.fetch_v<T>(e, shown, send_counts, recv_counts, fetch); });
      return {};
    }
    collective(
        what,
        [&](post& mine) {
          std::memcpy(mine.inlined, &shown, sizeof shown);
          mine.in = mine.inlined;
          mine.small = false;  // what it points at is read until everybody has arrived again
          std::copy(send_counts.begin(), send_counts.end(), mine.send_counts.begin());
          std::copy(recv_counts.begin(), recv_counts.end(), mine.recv_counts.begin());
        },
        [&](const signature& w) {
          read(w, [&] { fetch([&](int r) -> const Shown& { return *static_cast<const Shown*>(group_->post_of(r, w.seq).in); }); });
        });
    return {};
  }

  /// Into a pooled buffer: returns at once, whatever the peer does.
  template <elements In>
  ticket send(host_exec e, const In& in, int peer) {
    const auto data = span_of(in);
    require_rank(operation::send, "peer", peer, size());
    require(data.size() <= std::size_t(PTRDIFF_MAX) / sizeof(data[0]), "moefold: send of ", data.size(),
            " elements, more than memory can hold; give the span its true size");
    signature what{operation::send, dtype_of<element_of<const In>>, "", peer, data.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.send(e, data, peer); });
    what.seq = sent_++;
    call(what, [&](const signature& w) {
      if (hook_) hook_(context_);
      group_->send(rank_, peer, w, std::as_bytes(data));
    });
    return {};
  }
  template <writable_elements Out>
  ticket recv(host_exec e, Out&& out, int peer) {
    const auto data = span_of(out);
    require_rank(operation::recv, "peer", peer, size());
    signature what{operation::recv, dtype_of<element_of<Out>>, "", peer, data.size()};
    if (inner_) return issue(what, [=](thread_comm& c) { c.recv(e, data, peer); });
    what.seq = received_++;
    call(what, [&](const signature& w) { group_->receive(rank_, peer, w, std::as_writable_bytes(data), hook_, context_); });
    return {};
  }

  /// The peers' own spans, from expose to close. Counts may differ between ranks.
  template <element T>
  class window {
   public:
    window(thread_comm& comm, thread_group::table&& spans) : comm_(&comm), spans_(std::move(spans)) {}
    window(window&& other) noexcept : comm_(std::exchange(other.comm_, nullptr)), spans_(std::move(other.spans_)) {}
    window& operator=(window&&) = delete;
    ~window() {
      if (comm_) comm_->abandon(spans_);
    }
    std::span<const T> peer(int rank) const {
      const std::span<const std::byte> bytes = spans_[std::size_t(rank)];
      return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
    }
    void close() {
      if (comm_) std::exchange(comm_, nullptr)->close(dtype_of<T>, spans_);
    }

   private:
    thread_comm* comm_;
    thread_group::table spans_;
  };
  template <elements In>
  auto expose(host_exec, const In& in) {
    using T = element_of<const In>;
    const auto mine = std::as_bytes(span_of(in));
    thread_group::table spans;
    const signature what{operation::expose, dtype_of<T>};
    if (inner_)
      at_once(what, [&](thread_comm& c) { spans = c.opened(what, mine); });
    else
      spans = opened(what, mine);
    return window<T>(*this, std::move(spans));
  }

 private:
  friend device_thread_comm;
  using post = thread_group::post;
  struct slice {
    std::size_t first, count;
  };

  thread_world& world() const { return group_->world(); }
  int world_rank() const { return group_->world_rank(rank_); }

  // What an apart communicator does: `inner_`, on the helper's lane, makes the calls.
  struct drained {  // nobody reads the memory of this rank any more
    void operator()(thread_comm* inner) const noexcept {
      thread_world& world = inner->world();
      thread_helper& helper = world.helper(inner->world_rank());
      if (!helper.done(inner->last_job_)) {
        if (std::uncaught_exceptions() > 0 && !world.failed()) world.fail_unwinding(inner->world_rank(), "left an operation in flight");
        helper.wait(inner->last_job_);
      }
      delete inner;
    }
  };
  template <class Body>
  ticket issue(signature what, Body body) {
    what.seq = what.op == operation::send ? sent_++ : what.op == operation::recv ? received_++ : seq_++;
    if (world().failed()) world().throw_failure(world_rank(), what, label());
    inner_->last_job_ = world().helper(world_rank()).issue([inner = inner_.get(), hook = hook_, context = context_, body] {
      inner->set_hook(hook, context);
      try {
        body(*inner);
      } catch (...) {
        if (!inner->world().failed()) inner->world().fail_with_current_exception(inner->world_rank(), 1);
        throw;
      }
    });
    return {world(), world_rank(), inner_->last_job_};
  }
  template <class Body>
  void at_once(const signature& what, Body&& body) {  // what it refers to lies in the caller
    auto* there = &body;
    const ticket done = issue(what, [there](thread_comm& c) { (*there)(c); });
    world().wait_for_helper(world_rank(), inner_->last_job_);
    (void)done;
  }

  /// split and apart.
  thread_comm divided(const signature& what, int colour, int key, const comm_label& label) {
    std::shared_ptr<thread_group> child;
    int child_rank = 0;
    const auto divide = [&](thread_comm& c) {
      c.collective(
          what, [&](post& mine) { mine.colour = colour, mine.key = key, mine.label = label; },
          [&](const signature& w) {
            child = std::move(c.group_->post_of(c.rank_, w.seq).child);
            child_rank = c.group_->post_of(c.rank_, w.seq).child_rank;
          });
    };
    if (inner_)
      at_once(what, divide);
    else
      divide(*this);
    thread_comm made(std::move(child), child_rank);
    if (made.group_->lane() == 1) made.inner_.reset(new thread_comm(made.group_, child_rank), drained{});
    return made;
  }
  thread_group::table opened(const signature& what, std::span<const std::byte> mine) {
    thread_group::table spans = table();
    group_->count_window(rank_, +1);
    try {
      collective(
          what, [&](post& p) { p.in = mine.data(), p.bytes = mine.size(), p.small = false; },
          [&](const signature& w) {
            each_rank([&](int r) {
              const post& theirs = group_->post_of(r, w.seq);
              spans[std::size_t(r)] = {static_cast<const std::byte*>(theirs.in), theirs.bytes};
            });
          });
    } catch (...) {
      group_->count_window(rank_, -1);
      throw;
    }
    return spans;
  }

  /// Any call: refuses when the world has failed, notes what the rank does, counts CPU time. What goes wrong inside fails the world, and
  /// this rank stays until no peer reads its memory.
  template <class Body>
  void call(const signature& what, Body&& body) {
    if (world().failed()) group_->throw_failure(rank_, what);
    const auto begin = steady::now();
    const double busy_before = busy_seconds(begin);
    thread_world::call& now = group_->last_call(rank_);
    now = {label(), what, begin, true, true};
    const std::uint64_t entered = group_->enter(rank_, what, begin);
    try {
      body(what);
    } catch (...) {
      if (!world().failed()) world().fail_with_current_exception(world_rank(), group_->lane());
      group_->leave(rank_);
      now.inside = false;
      group_->leave(rank_, entered, flight_state::failed, steady::now());
      throw;
    }
    now.inside = false;
    const auto end = steady::now();
    if (size() > 1 && what.op != operation::send) world().runs_since(world_rank(), group_->lane()) = end;
    group_->leave(rank_, entered, flight_state::done, end);
    world().add_cpu_seconds(world_rank(), group_->lane(), busy_seconds(end) - busy_before);
  }
  /// A collective call: shows the post, meets the peers, then moves data.
  template <class Show, class Move>
  void collective(signature what, Show&& show, Move&& move) {
    what.seq = seq_++;
    call(what, [&](const signature& w) {
      post& mine = group_->post_of(rank_, w.seq);
      mine.what = w;
      mine.since = group_->last_call(rank_).since;
      mine.small = true;
      show(mine);
      group_->arrive(rank_, w, true);
      if (world().options().latency.count() > 0 && w.op != operation::split && size() > 1)
        std::this_thread::sleep_for(world().options().latency);
      if (hook_) hook_(context_);
      move(w);
    });
  }
  /// Reads the peers' memory; they wait until everybody has. Small inputs lie in the posts, nobody waits.
  template <class Body>
  void read(const signature& what, Body&& body) {
    gather(what, std::forward<Body>(body), [] {});
  }
  /// The same for each rank's part: this rank's own comes last, when the peers know already that it has read them.
  template <class Part>
  void read_each(const signature& what, Part&& part) {
    gather(
        what, [&] { each_peer(part); }, [&] { part(rank_); });
  }
  template <class Peers, class Own>
  void gather(const signature& what, Peers&& peers, Own&& own) {
    if (group_->eager(what.seq)) return peers(), own();
    {
      const thread_group::access scope(*group_, rank_, what);
      peers();
    }
    const std::uint32_t seen = group_->announce(rank_, what, false);
    own();
    group_->await(rank_, what, seen);
  }

  template <class T>
  static void show(post& mine, std::span<const T> data, bool have = true) {
    mine.in = data.data();
    mine.small = data.size() <= thread_group::eager_bytes / sizeof(T);
    if (!mine.small || !have) return;
    if (!data.empty()) std::memcpy(mine.inlined, data.data(), data.size_bytes());
    mine.in = mine.inlined;
  }
  template <class T>
  const T* from(int peer, const signature& what) const {
    return static_cast<const T*>(group_->post_of(peer, what.seq).in);
  }
  template <class Body>
  void each_rank(Body&& body) const {  // itself first, then its right neighbours: no two ranks start at the same peer
    for (int step = 0; step < size(); ++step) body((rank_ + step) % size());
  }
  template <class Body>
  void each_peer(Body&& body) const {
    for (int step = 1; step < size(); ++step) body((rank_ + step) % size());
  }
  slice slice_of(std::size_t count, int rank) const {
    const std::size_t each = (count + std::size_t(size()) - 1) / std::size_t(size());
    const std::size_t first = std::min(count, each * std::size_t(rank));
    return {first, std::min(each, count - first)};
  }
  static std::size_t before(std::span<const std::size_t> counts, int rank) {
    std::size_t sum = 0;
    for (int r = 0; r < rank; ++r) sum += counts[std::size_t(r)];
    return sum;
  }
  template <class T>
  void copy(std::span<T> to, const T* source, std::size_t bytes_of_this_rank) const {
    if (to.data() != source) bulk_copy(to.data(), source, to.size_bytes(), bytes_of_this_rank * std::size_t(size()));
  }

  /// out[i] = op over ranks, in rank order, of their in[first + i]. Blockwise, so that out may be this rank's own in[first..].
  template <class T, class Op>
  void combine(Op op, const signature& what, std::size_t first, std::span<T> out) const {
    combine_ranks(
        op, size(), [&](int r) { return from<T>(r, what) + first; }, out);
  }

  thread_group::table table() {
    auto& spare = group_->spare_tables(rank_);
    if (spare.empty()) return thread_group::table(std::size_t(size()));
    thread_group::table t = std::move(spare.back());
    spare.pop_back();
    return t;
  }
  void close(dtype type, thread_group::table& spans) {
    if (inner_) return at_once({operation::close, type}, [&](thread_comm& c) { c.close(type, spans); });
    group_->count_window(rank_, -1);
    collective(
        {operation::close, type}, [](post&) {}, [](const signature&) {});
    group_->spare_tables(rank_).push_back(std::move(spans));
  }
  void abandon(thread_group::table& spans) noexcept {
    group_->count_window(rank_, -1);
    if (!world().failed()) world().fail_unwinding(world_rank(), "left a window on its memory without close");
    group_->leave(rank_);
    spans.clear();
  }
  /// A clock that stands while this rank sleeps. The thread's CPU clock is a system call, which takes as long as copying 30 KiB: it is read
  /// where ranks take turns on the cores and a call is slow anyway. Where each has its own core, time awake is CPU time.
  double busy_seconds(steady::time_point now) const {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    if (world().spins() > 0) return std::chrono::duration<double>(now.time_since_epoch() - group_->asleep(rank_)).count();
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
#else
    return 0;
#endif
  }

  std::shared_ptr<thread_group> group_;
  int rank_ = 0;
  std::shared_ptr<thread_comm> inner_;  // of an apart communicator; used by the helper while jobs are in flight
  std::uint64_t last_job_ = 0;          // of an inner one: the last that was issued; used by the rank's own thread
  std::uint64_t seq_ = 0, sent_ = 0, received_ = 0;
  void (*hook_)(void*) = nullptr;
  void* context_ = nullptr;
};

static_assert(communicator_of<thread_comm, host_exec, float> && peer_readable<thread_comm> && fetching<thread_comm> &&
              hookable<thread_comm>);
static_assert(overlapping<thread_comm> && rebuildable<thread_comm>);

/// Runs f(world) on `ranks` threads, one per rank, and joins them. When a rank throws, or its communicators fail, all other ranks' calls
/// end within milliseconds and the root cause is thrown here, as the exception it was; the others' consequences are dropped. It is thrown
/// even if f caught it on every rank, unless they have rebuilt the world: a failed world is never passed over in silence.
template <class F>
void run_threads(int ranks, F&& f, thread_options options = {}) {
  const auto group = thread_group::of_world(ranks, options, "world");
  std::vector<std::shared_ptr<thread_world>> worlds(std::size_t(ranks),
                                                    group->shared_world());  // that of each rank; rebuild puts another in its place
  auto run = [&](int rank) {
    std::shared_ptr<thread_world>& world = worlds[std::size_t(rank)];
    world->set_home(rank, world);
    try {
      try {
        thread_comm comm(group, rank);
        f(comm);
      } catch (const rank_exit&) {  // as if it had returned
      }
      world->finish(rank);
    } catch (...) {
      world->fail_with_current_exception(rank);
    }
    world->stop_helper(rank);
    world->end(rank);
  };
  std::vector<std::thread> threads;
  try {
    for (int r = 0; r < ranks; ++r) threads.emplace_back(run, r);
  } catch (...) {  // the system gives no more threads: those that run must not wait for the rest
    group->world().fail_with_current_exception(int(threads.size()));
    for (int r = int(threads.size()); r < ranks; ++r) group->world().end(r);
  }
  for (std::thread& t : threads) t.join();
  if (auto failure = worlds[0]->first_failure()) std::rethrow_exception(failure);
}

}  // namespace moefold
