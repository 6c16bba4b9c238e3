#pragma once
// Ranks as processes with a GPU each, over NCCL: the communicator of comm/communicator.hpp for device memory, and for host memory by way of the
// device. The world is made once; every other group is split from it. Include by name; link NCCL::nccl (CMake: moefold::nccl).
//
//   nccl_comm world = join_nccl(detect([](const char* n) { return std::getenv(n); }));     // under torchrun, mpirun or srun
//   auto tp = world.split(world.rank() / 2, world.rank(), "tp");
//   tp.all_reduce(e, in, out, sum{}).wait(e);     // e a cuda_exec: its stream waits, not the host; e a host_exec: host memory, done on return
//
// Where it differs from ranks as threads:
//   sums        are made in NCCL's order and, for bf16, rounded on the way: equal to the rank-ordered sum to rounding (fp32 1e-6, bf16 1e-2 of the
//               norm per doubling of ranks), and the same on all ranks. max and integers are exact.
//   signatures  are not compared: ranks that disagree on a call end by its deadline, or with wrong data, as in any NCCL program
//   messages    send copies, and never waits. Messages between neighbours of the ring of ranks wait for nothing but earlier ones the same
//               way; between other ranks they may queue behind each other, and among more than 8 ranks the first one of two of them makes both
//               calls wait for each other. The first send or recv on a communicator is collective: each of its ranks must come to one of its own
//               without another's data.
#include <moefold/comm/nccl_group.cuh>
#include <moefold/comm/rendezvous.hpp>

#include <cstdlib>

namespace moefold {

/// One rank's handle on a communicator of NCCL. Operations as in comm/communicator.hpp, but for the differences above.
///
/// With a cuda_exec, spans are device memory (counts host memory): the operation starts after what e's stream holds, on a stream of the
/// communicator, and is done for e's stream after ticket.wait(e), for the host after e.wait(). Data stays as it is until then. With a
/// host_exec, spans are host memory, staged through the device, and the call returns when it is done: for the small sums of a trainer.
/// Allocates nothing after the first call of its kind and size (send: per message size and number in flight).
/// Throws timeout, peer_failed, nccl_error by the watchdog's word (comm/nccl_world.cuh), then comm_revoked. Used by one thread.
class nccl_comm {
 public:
  class ticket {
   public:
    ticket() = default;
    ticket(std::shared_ptr<nccl_channel> channel, std::uint64_t number) : channel_(std::move(channel)), number_(number) {}
    /// cuda_exec: what comes next on its stream waits. host_exec: the host waits.
    void wait(cuda_exec e) const {
      if (channel_) channel_->before(e.stream, number_);
    }
    void wait(host_exec) const {
      if (channel_) channel_->wait(number_);
    }

   private:
    std::shared_ptr<nccl_channel> channel_;  // null: done, or in the order of the stream it was issued on
    std::uint64_t number_ = 0;
  };

  /// The world of the processes that were given the same id. Collective. The calling thread's current device is this rank's.
  nccl_comm(const ncclUniqueId& id, int rank, int size, const nccl_options& options = {}) {
    require<config_error>(size >= 1 && rank >= 0 && rank < size, "moefold: NCCL rank ", rank, " in a world of ", size,
                          "; ranks go from 0 to below the world size");
    auto world = std::make_shared<nccl_world>(rank, size, options);
    std::unique_ptr<nccl_channel> all;
    if (size > 1)
      all = std::make_unique<nccl_channel>(
          *world, "world", world->stream(0), signature{operation::split, dtype::uint8, "join"}, "ncclCommInitRankConfig", nullptr,
          [&](ncclComm_t* made, ncclConfig_t* config) { return ncclCommInitRankConfig(made, size, id, rank, config); });
    group_ = std::make_shared<nccl_group>(std::move(world), "world", 0, 1, std::move(all));
  }

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  const comm_label& label() const { return group_->label(); }

  /// The ranks with the same colour become a communicator, ordered by key, then by rank here. An empty label inherits this one's. Colours are
  /// 0 or more; a rank may be alone with its own. Waits until what is in flight on this communicator is done.
  nccl_comm split(int colour, int key, comm_label label = {}) { return divided({operation::split}, colour, key, label, group_->lane()); }
  /// The same ranks again, on a stream of their own: operations go on beside those of other communicators. Collective.
  nccl_comm apart(comm_label label = {}) { return divided({operation::split, dtype::uint8, "apart"}, 0, rank(), label, 1); }

  /// cuda_exec: what comes next on e's stream comes after what the peers' streams hold now. host_exec: the host waits too.
  template <class Exec>
  ticket barrier(Exec e) {
    std::int32_t* const word = group_->word();
    const signature what = group_->numbered({operation::barrier});
    nccl_channel* const all = group_->main();
    if (all == nullptr) return {};
    const ticket t = ticket_of(*all, all->issue(what, stream_of(e, all->stream()), [&](detail::nccl_calls& calls) {
      calls("ncclAllReduce", ncclAllReduce(word, word, 1, ncclInt32, ncclMax, all->handle(), all->stream()));
    }));
    if constexpr (on_host<Exec>) t.wait(e);
    return t;
  }
  template <class Exec, writable_elements Data>
  ticket broadcast(Exec e, Data&& range, int root) {
    using T = element_of<Data>;
    const std::span<T> data = span_of(range);
    require_rank(operation::broadcast, "root", root, size());
    const bool mine = rank() == root;
    return carry<T>(e, {operation::broadcast, dtype_of<T>, "", root, data.size()}, mine ? data : std::span<T>{}, data, data.size(), true,
                    [=](const call& c, const T* in, T* out) {
                      c("ncclBroadcast",
                        ncclBroadcast(mine ? in : out, out, data.size(), detail::nccl_type<T>(), root, c.handle, c.stream));
                    });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce(Exec e, const In& range, Out&& result, Op, int root) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_rank(operation::reduce, "root", root, size());
    const bool mine = rank() == root;
    if (mine) require_same(operation::reduce, in.size(), out.size());
    return carry<T>(e, {operation::reduce, dtype_of<T>, Op::name, root, in.size()}, in, mine ? out : std::span<T>{}, in.size(), mine,
                    [=](const call& c, const T* from, T* to) {
                      c("ncclReduce",
                        ncclReduce(from, to, in.size(), detail::nccl_sums<T>(), detail::nccl_op<Op>(), root, c.handle, c.stream));
                    });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket all_reduce(Exec e, const In& range, Out&& result, Op) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_same(operation::all_reduce, in.size(), out.size());
    return carry<T>(e, {operation::all_reduce, dtype_of<T>, Op::name, -1, in.size()}, in, out, in.size(), true,
                    [=](const call& c, const T* from, T* to) {
                      c("ncclAllReduce",
                        ncclAllReduce(from, to, in.size(), detail::nccl_sums<T>(), detail::nccl_op<Op>(), c.handle, c.stream));
                    });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather(Exec e, const In& range, Out&& result) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_parts(operation::all_gather, size(), in.size(), out.size());
    return carry<T>(e, {operation::all_gather, dtype_of<T>, "", -1, in.size()}, in, out, out.size(), true,
                    [=](const call& c, const T* from, T* to) {
                      c("ncclAllGather", ncclAllGather(from, to, in.size(), detail::nccl_type<T>(), c.handle, c.stream));
                    });
  }
  /// One group of broadcasts, one per rank that gives something; equal counts: all_gather.
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather_v(Exec e, const In& range, std::span<const std::size_t> counts, Out&& result) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_counts(operation::all_gather_v, size(), counts, out.size());
    require_same(operation::all_gather_v, in.size(), counts[std::size_t(rank())]);
    return carry<T>(e, {operation::all_gather_v, dtype_of<T>}, in, out, out.size(), true,
                    [=, me = rank()](const call& c, const T* from, T* to) {
                      if (even(counts))
                        return c("ncclAllGather", ncclAllGather(from, to, in.size(), detail::nccl_type<T>(), c.handle, c.stream));
                      for (int r = 0; r < int(counts.size()); ++r) {
                        const std::size_t count = counts[std::size_t(r)];
                        if (count > 0)
                          c("ncclBroadcast", ncclBroadcast(r == me ? from : to, to, count, detail::nccl_type<T>(), r, c.handle, c.stream));
                        to += count;
                      }
                    });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(Exec e, const In& range, Out&& result, Op) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_parts(operation::reduce_scatter, size(), out.size(), in.size());
    return carry<T>(e, {operation::reduce_scatter, dtype_of<T>, Op::name, -1, out.size()}, in, out, in.size(), true,
                    [=](const call& c, const T* from, T* to) {
                      c("ncclReduceScatter",
                        ncclReduceScatter(from, to, out.size(), detail::nccl_sums<T>(), detail::nccl_op<Op>(), c.handle, c.stream));
                    });
  }
  /// One group of reductions, one to each rank that keeps something; equal counts: reduce_scatter.
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(Exec e, const In& range, std::span<const std::size_t> counts, Out&& result, Op) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_counts(operation::reduce_scatter_v, size(), counts, in.size());
    require_same(operation::reduce_scatter_v, counts[std::size_t(rank())], out.size());
    return carry<T>(
        e, {operation::reduce_scatter_v, dtype_of<T>, Op::name}, in, out, in.size(), true, [=](const call& c, const T* from, T* to) {
          constexpr ncclRedOp_t op = detail::nccl_op<Op>();
          if (even(counts))
            return c("ncclReduceScatter", ncclReduceScatter(from, to, out.size(), detail::nccl_sums<T>(), op, c.handle, c.stream));
          for (int r = 0; r < int(counts.size()); ++r) {
            const std::size_t count = counts[std::size_t(r)];
            if (count > 0) c("ncclReduce", ncclReduce(from, to, count, detail::nccl_sums<T>(), op, r, c.handle, c.stream));
            from += count;
          }
        });
  }
  /// One group of sends and recvs.
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all(Exec e, const In& range, Out&& result) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    const std::size_t part = out.size() / std::size_t(size());
    require_parts(operation::all_to_all, size(), part, out.size());
    require_same(operation::all_to_all, in.size(), out.size());
    return carry<T>(e, {operation::all_to_all, dtype_of<T>, "", -1, part}, in, out, out.size(), true,
                    [=, n = size()](const call& c, const T* from, T* to) {
                      for (int r = 0; r < n; ++r) {
                        c("ncclSend", ncclSend(from + std::size_t(r) * part, part, detail::nccl_type<T>(), r, c.handle, c.stream));
                        c("ncclRecv", ncclRecv(to + std::size_t(r) * part, part, detail::nccl_type<T>(), r, c.handle, c.stream));
                      }
                    });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all_v(Exec e, const In& range, std::span<const std::size_t> send_counts, Out&& result,
                      std::span<const std::size_t> recv_counts) {
    using T = same_element<In, Out>;
    const std::span<const T> in = span_of(range);
    const std::span<T> out = span_of(result);
    require_counts(operation::all_to_all_v, size(), send_counts, in.size());
    require_counts(operation::all_to_all_v, size(), recv_counts, out.size());
    return carry<T>(e, {operation::all_to_all_v, dtype_of<T>}, in, out, in.size() + out.size(), true,
                    [=](const call& c, const T* from, T* to) {
                      for (int r = 0; r < int(send_counts.size()); ++r) {
                        const std::size_t sent = send_counts[std::size_t(r)], received = recv_counts[std::size_t(r)];
                        if (sent > 0) c("ncclSend", ncclSend(from, sent, detail::nccl_type<T>(), r, c.handle, c.stream));
                        if (received > 0) c("ncclRecv", ncclRecv(to, received, detail::nccl_type<T>(), r, c.handle, c.stream));
                        from += sent, to += received;
                      }
                    });
  }

  /// Copies the message in the order of e's stream, and sends the copy when the peer takes it.
  template <class Exec, elements In>
  ticket send(Exec e, const In& range, int peer) {
    using T = element_of<const In>;
    const std::span<const T> in = span_of(range);
    require_rank(operation::send, "peer", peer, size());
    const signature what = group_->numbered({operation::send, dtype_of<T>, "", peer, in.size()});
    const cudaStream_t copies = stream_of(e, group_->stream());
    nccl_channel* const queue = group_->queue(rank(), peer);
    if (queue == nullptr) {
      group_->keep(in.data(), in.size_bytes(), dtype_of<T>, copies);
    } else if (!in.empty()) {
      nccl_rooms::room& room = group_->rooms().take(in.size_bytes());
      copy(room.data, in.data(), in.size_bytes(), copies);
      queue->issue(what, copies, [&](detail::nccl_calls& calls) {
        calls("ncclSend", ncclSend(room.data, in.size(), detail::nccl_type<T>(), peer, queue->handle(), queue->stream()));
      });
      group_->rooms().leave(room, queue->stream());
    }
    return {};
  }
  template <class Exec, writable_elements Out>
  ticket recv(Exec e, Out&& range, int peer) {
    using T = element_of<Out>;
    const std::span<T> out = span_of(range);
    require_rank(operation::recv, "peer", peer, size());
    const signature what = group_->numbered({operation::recv, dtype_of<T>, "", peer, out.size()});
    nccl_channel* const queue = group_->queue(peer, rank());
    if (queue == nullptr) {
      group_->fetch(out.data(), out.size_bytes(), dtype_of<T>, stream_of(e, group_->stream()));
      if constexpr (on_host<Exec>) synchronise(group_->stream(), what);
      return {};
    }
    if (out.empty()) return {};
    const auto issue = [&](T* to, cudaStream_t after) {
      return queue->issue(what, after, [&](detail::nccl_calls& calls) {
        calls("ncclRecv", ncclRecv(to, out.size(), detail::nccl_type<T>(), peer, queue->handle(), queue->stream()));
      });
    };
    if constexpr (on_host<Exec>) {
      const staged place(group_->world(), 0, out.size_bytes());
      queue->wait(issue(reinterpret_cast<T*>(place.out), queue->stream()));
      copy(out.data(), place.out, out.size_bytes(), group_->stream());
      synchronise(group_->stream(), what);
      return {};
    } else {
      return ticket_of(*queue, issue(out.data(), e.stream));
    }
  }

 private:
  template <class Exec>
  static constexpr bool on_host = std::same_as<Exec, host_exec>;
  template <class In, class Out>
  struct same {
    static_assert(std::is_same_v<element_of<const In>, element_of<Out>>, "moefold: in and out of one operation have the same element type");
    using type = element_of<Out>;
  };
  template <class In, class Out>
  using same_element = typename same<In, Out>::type;

  struct call {  // what a body needs to call NCCL
    detail::nccl_calls& calls;
    ncclComm_t handle;
    cudaStream_t stream;
    void operator()(const char* name, ncclResult_t result) const { calls(name, result); }
  };
  struct staged {  // device memory of one call on host memory
    nccl_world& world;
    memory_stack<device_memory>::mark_t mark;
    std::byte *in, *out;
    staged(nccl_world& w, std::size_t in_bytes, std::size_t out_bytes)
        : world(w), mark(w.staging().mark()), in(w.staging().take(in_bytes)), out(w.staging().take(out_bytes)) {}
    ~staged() { world.staging().release(mark); }
    staged(const staged&) = delete;
    staged& operator=(const staged&) = delete;
  };

  explicit nccl_comm(std::shared_ptr<nccl_group> group) : group_(std::move(group)) {}

  static cudaStream_t stream_of(cuda_exec e, cudaStream_t) { return e.stream; }
  static cudaStream_t stream_of(host_exec, cudaStream_t own) { return own; }
  static void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    if (bytes > 0 && to != from)
      cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync of ", bytes, " bytes");
  }
  void synchronise(cudaStream_t stream, const signature& what) const {
    cuda_check(cudaStreamSynchronize(stream), describe(what), " on ", label().view(), ", rank ", group_->world().rank(), ", to the host");
  }
  static bool even(std::span<const std::size_t> counts) {
    return std::all_of(counts.begin(), counts.end(), [&](std::size_t c) { return c == counts[0]; });
  }
  /// A ticket keeps the group alive.
  ticket ticket_of(nccl_channel& channel, std::uint64_t number) const { return {std::shared_ptr<nccl_channel>(group_, &channel), number}; }

  /// Any collective that moves data. `moved`: elements of both sides; 0: nothing is called. `download`: out is for this rank.
  template <class T, class Exec, class Body>
  ticket carry(Exec e, const signature& unnumbered, std::span<const T> in, std::span<T> out, std::size_t moved, bool download,
               Body&& body) {
    const signature what = group_->numbered(unnumbered);
    nccl_channel* const all = group_->main();
    if (all == nullptr) {
      require_same(what.op, in.size(), out.size());
      if constexpr (!on_host<Exec>)
        copy(out.data(), in.data(), out.size_bytes(), e.stream);
      else if (!in.empty() && in.data() != out.data())
        std::memcpy(out.data(), in.data(), out.size_bytes());
      return {};
    }
    if (moved == 0) return all->passed(what), ticket{};
    const auto issue = [&](const T* from, T* to, cudaStream_t after) {
      return all->issue(what, after, [&](detail::nccl_calls& calls) { body(call{calls, all->handle(), all->stream()}, from, to); });
    };
    if constexpr (on_host<Exec>) {
      const staged place(group_->world(), in.size_bytes(), out.size_bytes());
      copy(place.in, in.data(), in.size_bytes(), all->stream());
      all->wait(issue(reinterpret_cast<const T*>(place.in), reinterpret_cast<T*>(place.out), all->stream()));
      if (download) {
        copy(out.data(), place.out, out.size_bytes(), all->stream());
        synchronise(all->stream(), what);
      }
      return {};
    } else {
      return ticket_of(*all, issue(in.data(), out.data(), e.stream));
    }
  }

  nccl_comm divided(const signature& unnumbered, int colour, int key, const comm_label& name, int lane) {
    const signature what = group_->numbered(unnumbered);
    const comm_label label = name.empty() ? group_->label() : name;
    require(colour >= 0, "moefold: split of ", group_->label().view(), " with colour ", colour,
            "; NCCL wants 0 or more, also of a rank that stays alone");
    std::unique_ptr<nccl_channel> made;
    if (nccl_channel* const all = group_->main()) {
      group_->drain();
      all->around(what, [&] {
        made = std::make_unique<nccl_channel>(
            group_->world(), label, group_->world().stream(lane), what, "ncclCommSplit", all,
            [&](ncclComm_t* handle, ncclConfig_t* config) { return ncclCommSplit(all->handle(), colour, key, handle, config); });
      });
    }
    const std::uint64_t child = flight_id(what.seq, std::uint64_t(colour), group_->id());
    return nccl_comm(std::make_shared<nccl_group>(group_->shared_world(), label, lane, child, std::move(made)));
  }

  std::shared_ptr<nccl_group> group_;
};

static_assert(communicator_of<nccl_comm, cuda_exec, float> && communicator_of<nccl_comm, host_exec, float> && overlapping<nccl_comm> &&
              overlapping<nccl_comm, cuda_exec>);

/// The world of the processes of a launch (comm/bootstrap.hpp): rank 0's id goes to all by the rendezvous, or, where NCCL_COMM_ID is set, by nobody:
/// every process makes the same. Make the rank's device current first: cuda_context context(device_of(me.local_rank, devices, visible)).
inline nccl_comm join_nccl(const launch_info& me, const nccl_options& options = {}, const rendezvous_options& meet = {}) {
  ncclUniqueId id{};
  if (me.size > 1) {
    const char* const fixed = std::getenv("NCCL_COMM_ID");
    const bool same = fixed != nullptr && *fixed != '\0';
    if (same) (void)parse_address("NCCL_COMM_ID", fixed);  // NCCL takes one without a port, and listens nowhere
    if (same || me.rank == 0) {
      const ncclResult_t made = ncclGetUniqueId(&id);
      require<config_error>(made == ncclSuccess, "moefold: ncclGetUniqueId failed on rank ", me.rank, " of ", me.size, ": ",
                            detail::text_of(made, nullptr), "; see NCCL_SOCKET_IFNAME and NCCL_COMM_ID");
    }
    if (!same) share_from_first(me.rank, me.size, me.meeting, std::as_writable_bytes(std::span(id.internal)), meet);
  }
  return nccl_comm(id, me.rank, me.size, options);
}

}  // namespace moefold
