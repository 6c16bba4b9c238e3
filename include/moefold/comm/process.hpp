#pragma once
// Ranks as processes, on one machine or many, over any transport: MPI (comm/mpi.hpp), TCP (comm/socket.hpp). The same operations, the same bits and the same
// words on failure as ranks that are threads (comm/thread.hpp).
//
//   run_process(std::make_shared<my_transport>(...), [](process_comm& world) {      every process calls it
//     auto tp = world.split(world.rank() / 2, world.rank(), "tp");
//     tp.all_reduce(exec, in, out, sum{});
//   });                                                                              throws what the first rank to fail threw
#include <moefold/comm/combine.hpp>
#include <moefold/comm/process_group.hpp>

namespace moefold {

/// This process's handle on a communicator of processes. Operations as in comm/communicator.hpp, complete when the call returns.
///
/// Throws timeout, signature_mismatch, peer_failed on every rank with one root cause, then comm_revoked; never hangs, never writes data of a call that was
/// not agreed on; data may be half written when a rank fails in the middle of a call. Sizes that contradict each other on one rank throw moefold::error
/// there. Destroying always works. Each collective sends every peer one head (some 100 bytes, 8 per rank more in v-operations, up to 512 of data), then
/// what core/traffic_rule.hpp counts, in pieces of 256 KiB through memory of its own: 4 MiB per lane, and all_reduce, reduce and reduce_scatter as much
/// again. Allocates nothing after the first call of its kind (send: per message size and number in flight). By the rank's own thread only.
///
/// `apart` is as for threads: what it issues is done by the one helper thread of this process, in the order it was issued.
class process_comm {
 public:
  /// Of an operation that is finished, or in the hands of the helper. Waited for by the thread that got it, while a communicator of its world lives.
  class ticket {
   public:
    ticket() = default;
    ticket(process_world& world, process_world::epoch& epoch, std::uint64_t number) : world_(&world), epoch_(&epoch), number_(number) {}
    /// The data is there. Throws the root cause if this operation, or an earlier one of the helper, has failed.
    template <class Exec>
    void wait(Exec) const {
      if (world_) world_->wait_for_helper(*epoch_, number_);
    }

   private:
    process_world* world_ = nullptr;
    process_world::epoch* epoch_ = nullptr;
    std::uint64_t number_ = 0;
  };

  /// The world communicator of an epoch: of all ranks.
  explicit process_comm(std::shared_ptr<process_world> world) {
    std::vector<int> all;
    for (int r = 0; r < world->size(); ++r) all.push_back(r);
    const int rank = world->rank();
    const std::uint64_t number = world->next_group(0);
    world->took_group(0, number);
    auto epoch = world->now();
    group_ = std::make_shared<process_group>(std::move(world), std::move(epoch), std::move(all), rank, "world", 2 * number, 0);
  }

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  const comm_label& label() const { return group_->label(); }
  void set_hook(void (*hook)(void*), void* context) { hook_ = hook, context_ = context; }
  /// While true, every call of this process has the long deadline.
  void starting(bool yes) { world().starting(yes); }
  /// Which ranks the others have waited for, as far as this rank has noted it: every meeting is noted by one rank. [world]
  std::vector<straggler_count> stragglers() const { return world().stragglers().counts(); }

  /// The ranks with the same colour become a communicator, ordered by key, then by rank here. An empty label inherits this one's.
  process_comm split(int colour, int key, comm_label label = {}) { return divided({operation::split}, colour, key, label); }
  /// The same ranks again, as a communicator that works beside the caller. Collective.
  process_comm apart(comm_label label = {}) {
    world().helper(epoch());  // if it cannot start, the peers are not kept waiting
    return divided({operation::split, dtype::uint8, "apart"}, 0, rank(), label);
  }
  /// After a failure: the world anew, over the same processes. Collective over all of them, on the world's communicator.
  process_comm rebuild() {
    require(&epoch() == world().now().get(),
            "moefold: rebuild was called on a communicator of a world that has been rebuilt already; use what that rebuild has returned");
    require(size() == world().size() && group_->lane() == 0, "moefold: rebuild was called on ", label().view(), ", of ", size(), " of the ",
            world().size(), " ranks; call it on the world's communicator");
    world().rebuild();
    return process_comm(group_->shared_world());
  }

  ticket barrier(host_exec e) {
    const signature what{operation::barrier};
    if (inner_) return issue(what, [e](process_comm& c) { c.barrier(e); });
    collective(what, {}, [] {});
    return {};
  }

  /// A chain from root on: each rank passes on what has come.
  template <writable_elements Data>
  ticket broadcast(host_exec e, Data&& range, int root) {
    using T = element_of<Data>;
    const std::span<T> data = span_of(range);
    require_rank(operation::broadcast, "root", root, size());
    const signature what{operation::broadcast, dtype_of<T>, "", root, data.size()};
    if (inner_) return issue(what, [=](process_comm& c) { c.broadcast(e, data, root); });
    const bool small = is_small(data);
    collective(what, {.input = small && rank() == root ? bytes(data) : nothing}, [&] {
      if (small) {
        if (rank() != root) copy(data, inlined<T>(root));
        return;
      }
      const int right = (rank() + 1) % size(), left = (rank() + size() - 1) % size();
      exchange(
          what, [&](int p) { return p == right && right != root ? bytes(data) : nothing; },
          [&](int p) { return p == left && rank() != root ? room(data) : no_room; }, rank() != root);
    });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce(host_exec e, const In& in, Out&& out, Op op, int root) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    require_rank(operation::reduce, "root", root, size());
    const std::span<T> to = span_of(out);
    if (rank() == root) require_same(operation::reduce, source.size(), to.size());
    const signature what{operation::reduce, dtype_of<T>, Op::name, root, source.size()};
    if (inner_) return issue(what, [=](process_comm& c) { c.reduce(e, source, to, op, root); });
    const bool small = is_small(source);
    collective(what, {.input = small ? bytes(source) : nothing, .only = root}, [&] {
      if (small) {
        if (rank() == root) combine_inlined(op, 0, to);
        return;
      }
      gather_and_combine(op, what, source, to, source.size(), [&](int p) { return p == root ? slice{0, source.size()} : slice{0, 0}; });
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
    if (inner_) return issue(what, [=](process_comm& c) { c.all_reduce(e, source, to, op); });
    const bool small = is_small(source);
    collective(what, {.input = small ? bytes(source) : nothing}, [&] {
      if (small) return combine_inlined(op, 0, to);
      const auto slices = [&](int p) { return slice_of(to.size(), p); };
      const slice mine = slices(rank());
      gather_and_combine(op, what, source, to.subspan(mine.first, mine.count), slices(0).count, slices);
      exchange(
          what, [&](int) { return bytes(to.subspan(mine.first, mine.count)); },
          [&](int p) { return room(to.subspan(slices(p).first, slices(p).count)); });
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
    if (inner_) return issue(what, [=](process_comm& c) { c.all_gather(e, source, to); });
    const std::size_t count = source.size();
    gathered(what, {}, source, [=](int p) { return to.subspan(std::size_t(p) * count, count); });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_gather_v(host_exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::all_gather_v, size(), counts, to.size());
    require_same(operation::all_gather_v, source.size(), counts[std::size_t(rank())]);
    const signature what{operation::all_gather_v, dtype_of<T>};
    if (inner_) return issue(what, [=](process_comm& c) { c.all_gather_v(e, source, counts, to); });
    gathered(what, counts, source, [=](int p) { return to.subspan(before(counts, p), counts[std::size_t(p)]); });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(host_exec e, const In& in, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_parts(operation::reduce_scatter, size(), to.size(), source.size());
    const signature what{operation::reduce_scatter, dtype_of<T>, Op::name, -1, to.size()};
    if (inner_) return issue(what, [=](process_comm& c) { c.reduce_scatter(e, source, to, op); });
    const std::size_t count = to.size();
    scattered(op, what, {}, source, to, count, [=](int p) { return slice{std::size_t(p) * count, count}; });
    return {};
  }

  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(host_exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::reduce_scatter_v, size(), counts, source.size());
    require_same(operation::reduce_scatter_v, counts[std::size_t(rank())], to.size());
    const signature what{operation::reduce_scatter_v, dtype_of<T>, Op::name};
    if (inner_) return issue(what, [=](process_comm& c) { c.reduce_scatter_v(e, source, counts, to, op); });
    scattered(op, what, counts, source, to, *std::max_element(counts.begin(), counts.end()), [=](int p) {
      return slice{before(counts, p), counts[std::size_t(p)]};
    });
    return {};
  }

  template <elements In, writable_elements Out>
  ticket all_to_all(host_exec e, const In& in, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    const std::size_t count = source.size() / std::size_t(size());
    require_parts(operation::all_to_all, size(), count, source.size());
    require_same(operation::all_to_all, source.size(), to.size());
    const signature what{operation::all_to_all, dtype_of<T>, "", -1, count};
    if (inner_) return issue(what, [=](process_comm& c) { c.all_to_all(e, source, to); });
    const auto part = [=](int p) { return slice{std::size_t(p) * count, count}; };
    exchanged(what, {}, {}, source, to, part, part, [&](int) { return std::size_t(rank()) * count; });
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
    if (inner_) return issue(what, [=](process_comm& c) { c.all_to_all_v(e, source, send_counts, to, recv_counts); });
    exchanged(
        what, send_counts, recv_counts, source, to,
        [=](int p) {
          return slice{before(send_counts, p), send_counts[std::size_t(p)]};
        },
        [=](int p) {
          return slice{before(recv_counts, p), recv_counts[std::size_t(p)]};
        },
        [&](int p) { return before(group_->post_of(p).send_counts, rank()); });
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
    if (inner_) return issue(what, [=](process_comm& c) { c.send(e, data, peer); });
    what.seq = sent_++;
    group_->call(what, [&] {
      if (hook_) hook_(context_);
      group_->send(peer, what, std::as_bytes(data));
    });
    return {};
  }
  template <writable_elements Out>
  ticket recv(host_exec e, Out&& out, int peer) {
    const auto data = span_of(out);
    require_rank(operation::recv, "peer", peer, size());
    signature what{operation::recv, dtype_of<element_of<Out>>, "", peer, data.size()};
    if (inner_) return issue(what, [=](process_comm& c) { c.recv(e, data, peer); });
    what.seq = received_++;
    group_->call(what, [&] { group_->receive(peer, what, std::as_writable_bytes(data), hook_, context_); });
    return {};
  }

 private:
  using said = process_group::said;
  struct slice {
    std::size_t first, count;
  };
  static constexpr std::span<const std::byte> nothing{};
  static constexpr std::span<std::byte> no_room{};

  process_comm(std::shared_ptr<process_group> group) : group_(std::move(group)) {}
  process_world& world() const { return group_->world(); }
  process_world::epoch& epoch() const { return group_->epoch(); }

  // What an apart communicator does: `inner_`, on the helper's lane, makes the calls.
  struct drained {  // nobody touches the memory of this rank any more
    void operator()(process_comm* inner) const noexcept {
      process_world& world = inner->world();
      process_world::epoch& epoch = inner->epoch();
      if (inner->last_job_ > 0 && !epoch.helper->done(inner->last_job_)) {
        if (std::uncaught_exceptions() > 0 && !inner->group_->failing()) world.fail_unwinding(epoch);
        (void)epoch.helper->wait(inner->last_job_);
      }
      delete inner;
    }
  };
  template <class Body>
  ticket issue(signature what, Body body) {
    what.seq = what.op == operation::send ? sent_++ : what.op == operation::recv ? received_++ : seq_++;
    if (group_->failing()) world().throw_failure(epoch(), what, label(), 0);
    inner_->last_job_ = world().helper(epoch()).issue([inner = inner_.get(), hook = hook_, context = context_, body] {
      inner->set_hook(hook, context);
      try {
        body(*inner);
      } catch (...) {
        if (!inner->group_->failing()) inner->world().fail_with_current_exception(inner->epoch(), 1);
        throw;
      }
    });
    return {world(), epoch(), inner_->last_job_};
  }

  /// split and apart.
  process_comm divided(const signature& what, int colour, int key, const comm_label& label) {
    std::shared_ptr<process_group> child;
    const auto divide = [&](process_comm& c) {
      c.collective(what, {.colour = colour, .key = key, .label = label}, [&] { child = c.group_->child(*what.reduction != '\0'); });
    };
    if (inner_) {
      auto* there = &divide;
      (void)issue(what, [there](process_comm& c) { (*there)(c); });
      world().wait_for_helper(epoch(), inner_->last_job_);
    } else {
      divide(*this);
    }
    process_comm made(std::move(child));
    if (made.group_->lane() == 1) made.inner_.reset(new process_comm(made.group_), drained{});
    return made;
  }

  /// A collective call: tells the peers, hears them, then moves data.
  template <class Move>
  void collective(signature what, const said& mine, Move&& move) {
    what.seq = seq_++;
    current_ = what.seq;
    group_->call(what, [&] {
      group_->meet(what, mine);
      if (hook_) hook_(context_);
      move();
    });
  }
  template <class Outgoing, class Incoming>
  void exchange(signature what, Outgoing&& outgoing, Incoming&& incoming, bool forwards = false) {
    what.seq = current_;
    if (size() > 1) group_->exchange(what, outgoing, incoming, forwards);
  }
  /// Every rank's input goes to all; place(p) is where rank p's lies in this rank's output.
  template <class T, class Place>
  void gathered(const signature& what, std::span<const std::size_t> counts, std::span<const T> source, Place&& place) {
    collective(what, {.send_counts = counts, .input = is_small(source) ? bytes(source) : nothing}, [&] {
      copy(place(rank()), source.data());
      for (int p = 0; p < size(); ++p)
        if (p != rank() && is_small(place(p))) copy(place(p), inlined<T>(p));
      exchange(
          what, [&](int) { return is_small(source) ? nothing : bytes(source); },
          [&](int p) { return is_small(place(p)) ? no_room : room(place(p)); });
    });
  }
  /// Every rank keeps the sum of its part; part(p) is where rank p's lies in every input, `longest` the longest of them.
  template <class T, class Op, class Part>
  void scattered(Op op, const signature& what, std::span<const std::size_t> counts, std::span<const T> source, std::span<T> to,
                 std::size_t longest, Part&& part) {
    const bool small = is_small(source);
    collective(what, {.send_counts = counts, .input = small ? bytes(source) : nothing}, [&] {
      if (small) return combine_inlined(op, part(rank()).first, to);
      gather_and_combine(op, what, source, to, longest, part);
    });
  }
  /// send(p) of the input goes to rank p, and what comes from it to recv(p) of the output; theirs(p): where that begins in p's input.
  template <class T, class Send, class Recv, class Theirs>
  void exchanged(const signature& what, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 std::span<const T> source, std::span<T> to, Send&& send, Recv&& recv, Theirs&& theirs) {
    collective(what, {.send_counts = send_counts, .recv_counts = recv_counts, .input = is_small(source) ? bytes(source) : nothing}, [&] {
      const auto place = [&](int p) { return to.subspan(recv(p).first, recv(p).count); };
      const auto came = [&](int p) { return place(p).empty() || !group_->post_of(p).inlined.empty(); };
      copy(place(rank()), source.data() + send(rank()).first);
      for (int p = 0; p < size(); ++p)
        if (p != rank() && came(p) && !place(p).empty()) copy(place(p), inlined<T>(p) + theirs(p));
      exchange(
          what, [&](int p) { return is_small(source) ? nothing : bytes(source.subspan(send(p).first, send(p).count)); },
          [&](int p) { return came(p) ? no_room : room(place(p)); });
    });
  }
  /// to = op over ranks of their part(this rank), in blocks that all ranks walk together: `longest` is the longest part of any.
  template <class T, class Op, class Part>
  void gather_and_combine(Op op, const signature& what, std::span<const T> source, std::span<T> to, std::size_t longest, Part&& part) {
    const std::size_t block = std::max<std::size_t>(gathered_bytes / sizeof(T) / std::size_t(size()), 1024);
    const slice mine = part(rank());
    T* const contributions =
        reinterpret_cast<T*>(world().gathered(group_->lane(), std::min(block, longest) * std::size_t(size()) * sizeof(T)));
    const auto clipped = [&](slice s, std::size_t at) {
      return at < s.count ? slice{s.first + at, std::min(block, s.count - at)} : slice{s.first, 0};
    };
    for (std::size_t at = 0; at < longest; at += block) {
      const slice here = clipped(mine, at);
      const auto from = [&](int p) { return std::span<T>(contributions + std::size_t(p) * here.count, here.count); };
      exchange(
          what,
          [&](int p) {
            const slice theirs = clipped(part(p), at);
            return bytes(source.subspan(theirs.first, theirs.count));
          },
          [&](int p) { return room(from(p)); });
      if (here.count > 0)
        combine_ranks(
            op, size(), [&](int p) { return p == rank() ? source.data() + here.first : static_cast<const T*>(from(p).data()); },
            to.subspan(at, here.count));
    }
  }
  template <class T, class Op>
  void combine_inlined(Op op, std::size_t first, std::span<T> to) const {
    combine_ranks(
        op, size(), [&](int p) { return inlined<T>(p) + first; }, to);
  }

  template <class T>
  static bool is_small(std::span<T> data) {
    return data.size() <= process_group::eager_bytes / sizeof(T);
  }
  template <class T>
  static std::span<const std::byte> bytes(std::span<T> data) {
    return std::as_bytes(data);
  }
  template <class T>
  static std::span<std::byte> room(std::span<T> data) {
    return std::as_writable_bytes(data);
  }
  template <class T>
  const T* inlined(int peer) const {
    return reinterpret_cast<const T*>(group_->post_of(peer).inlined.data());
  }
  template <class T>
  static void copy(std::span<T> to, const T* from) {
    if (!to.empty() && to.data() != from) std::memcpy(to.data(), from, to.size_bytes());
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

  static constexpr std::size_t gathered_bytes = std::size_t(4) << 20;

  std::shared_ptr<process_group> group_;
  std::shared_ptr<process_comm> inner_;  // of an apart communicator; used by the helper while jobs are in flight
  std::uint64_t last_job_ = 0;           // of an inner one: the last that was issued; used by the rank's own thread
  std::uint64_t seq_ = 0, sent_ = 0, received_ = 0;
  std::uint64_t current_ = 0;  // the number of the call it is in
  void (*hook_)(void*) = nullptr;
  void* context_ = nullptr;
};

static_assert(communicator_of<process_comm, host_exec, float> && overlapping<process_comm> && hookable<process_comm> &&
              rebuildable<process_comm>);

/// Runs f(world) on this process's own thread, as one rank of the transport's; every process of the job calls it. When a rank throws, or its
/// communicators fail, the calls of all other ranks end within milliseconds, and the root cause is thrown here on every rank: on the one that threw it as
/// the exception it was, elsewhere as what its calls throw, even if f caught it. Returns when every rank's function has returned; after a failure it
/// waits no longer than `grace` for those that do not end.
template <class F>
void run_process(std::shared_ptr<transport> carrier, F&& f, process_options options = {}) {
  auto world = std::make_shared<process_world>(std::move(carrier), options);
  std::exception_ptr refused;  // what this rank itself will not do: mostly found by all ranks alike, so each keeps its own words
  try {
    process_comm comm(world);
    try {
      f(comm);
    } catch (const rank_exit&) {  // as if it had returned
    }
    world->finish();
  } catch (const config_error&) {
    refused = std::current_exception();
    world->fail_with_current_exception(*world->now());
  } catch (...) {
    world->fail_with_current_exception(*world->now());
  }
  const auto epoch = world->now();
  world->stop_helper(*epoch);
  if (auto failure = world->first_failure(*epoch)) {
    world->leave();
    world->carrier().give_up();
    std::rethrow_exception(refused ? refused : failure);
  }
}

}  // namespace moefold
