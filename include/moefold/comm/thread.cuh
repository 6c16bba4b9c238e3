#pragma once
// Thread ranks over device memory: every folding on one GPU, or on the GPUs of one process that reach each other. Ranks meet and compare their calls as in
// comm/thread.hpp, and order their streams by events; data goes from device memory to device memory, and no thread waits for a device.
//
//   run_device_threads(8, [](device_thread_comm& world) {
//     cuda_context context(0);    const cuda_exec e(context);
//     world.all_reduce(e, in, out, sum{});                        // in device memory; done when e's stream has come past it
//     world.all_reduce(host_exec(..), numbers, numbers, sum{});   // in host memory, on the same communicator
//     auto grads = world.apart("grads");                          // on a stream and a helper thread of this rank, beside e's stream
//     auto t = grads.all_reduce(e, g, g, sum{});    compute();    t.wait(e);    e.wait();
//   });
#include <moefold/comm/device_group.cuh>
#include <moefold/comm/thread.hpp>

namespace moefold {

/// thread_comm with operations on device memory beside those on host memory: the same rules, failures, deadlines and texts, the same bits of sums.
///
/// An operation of cuda_exec lies on the stream of its exec when the call returns: what that stream does later sees its result, and may change its inputs.
/// Counts are host memory, read by the call. All ranks name the same memory, host or device, in one call. Memory that was given to an operation is given
/// back to the driver, or reused from another stream, only after e.wait(). Nothing is allocated after the first call of its kind.
///
/// `apart`: operations lie on one stream of the rank, which follows e's stream as it was at the call; ticket.wait(e) makes e's stream follow it. The host
/// waits in it, if at all, until the ranks have met, not for a device. Destroying an apart communicator waits for its stream.
class device_thread_comm {
 public:
  /// Waited for by the thread that got it.
  class ticket {
   public:
    ticket() = default;
    ticket(const thread_comm::ticket& host) : host_(host) {}
    explicit ticket(cudaStream_t stream) : on_(stream) {}
    ticket(const thread_comm::ticket& host, const device_lane& lane, std::uint64_t number) : host_(host), lane_(&lane), number_(number) {}

    /// What e's stream does from now on sees the data.
    void wait(cuda_exec e) const {
      host_.wait(e);
      on_.wait(e);
      if (lane_ != nullptr) lane_->event(number_).before(e.stream);
    }
    /// The host sees it.
    void wait(host_exec e) const {
      host_.wait(e);
      on_.wait(e);
      if (lane_ != nullptr) lane_->event(number_).wait();
    }

   private:
    thread_comm::ticket host_;
    stream_ticket on_;
    const device_lane* lane_ = nullptr;
    std::uint64_t number_ = 0;
  };

  explicit device_thread_comm(thread_comm host)
      : world_(host.group_->shared_world()), group_(host.group_->beside<device_group>()), host_(std::move(host)) {}
  device_thread_comm(device_thread_comm&&) noexcept = default;
  device_thread_comm& operator=(device_thread_comm&& other) noexcept {
    world_.swap(other.world_), beside_.swap(other.beside_), group_.swap(other.group_);
    std::swap(host_, other.host_);
    return *this;
  }

  int rank() const { return host_.rank(); }
  int size() const { return host_.size(); }
  const comm_label& label() const { return host_.label(); }
  double cpu_seconds() const { return host_.cpu_seconds(); }
  std::vector<straggler_count> stragglers() const { return host_.stragglers(); }
  void starting(bool on) { host_.starting(on); }
  device_thread_comm rebuild() { return device_thread_comm(host_.rebuild()); }
  void set_hook(void (*hook)(void*), void* context) { host_.set_hook(hook, context); }
  device_thread_comm split(int colour, int key, comm_label label = {}) { return device_thread_comm(host_.split(colour, key, label)); }
  device_thread_comm apart(comm_label label = {}) { return device_thread_comm(host_.apart(label)); }

  /// What the ranks' streams do after it comes after what they did before it, on all ranks.
  ticket barrier(cuda_exec e) {
    const signature what = of_device({operation::barrier});
    return run(e, what, [what](const side& s) { s.exchange(what, nullptr, nullptr, [](const auto&) {}); });
  }
  template <writable_elements Data>
  ticket broadcast(cuda_exec e, Data&& range, int root) {
    using T = element_of<Data>;
    const std::span<T> data = span_of(range);
    require_rank(operation::broadcast, "root", root, size());
    const signature what = of_device({operation::broadcast, dtype_of<T>, "", root, data.size()});
    return run(e, what, [=](const side& s) {
      s.exchange(what, data.data(), nullptr, [&](const auto& peer) {
        if (s.rank() != root) s.copy(what.op, data, static_cast<const T*>(peer(root).in));
      });
    });
  }
  /// Every rank adds one slice, in root's memory.
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce(cuda_exec e, const In& in, Out&& out, Op op, int root) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_rank(operation::reduce, "root", root, size());
    if (rank() == root) require_same(operation::reduce, source.size(), to.size());
    const signature what = of_device({operation::reduce, dtype_of<T>, Op::name, root, source.size()});
    return run(e, what, [=](const side& s) {
      s.exchange(what, source.data(), to.data(), [&](const auto& peer) {
        const auto [first, count] = combined_slice<T>(source.size(), s.size(), s.rank());
        s.combine<T>(op, peer, first, count,
                     [&, first = first](combined_ranks<T>& r) { r.out[r.outs++] = static_cast<T*>(peer(root).out) + first; });
      });
    });
  }
  /// Every rank adds one slice, and writes it into the memory of all.
  template <elements In, writable_elements Out, reduction Op>
  ticket all_reduce(cuda_exec e, const In& in, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_same(operation::all_reduce, source.size(), to.size());
    const signature what = of_device({operation::all_reduce, dtype_of<T>, Op::name, -1, source.size()});
    return run(e, what, [=](const side& s) {
      s.exchange(what, source.data(), to.data(), [&](const auto& peer) {
        const auto [first, count] = combined_slice<T>(source.size(), s.size(), s.rank());
        s.combine<T>(op, peer, first, count, [&, first = first](combined_ranks<T>& r) {
          for (int p = 0; p < s.size(); ++p) r.out[r.outs++] = static_cast<T*>(peer(p).out) + first;
        });
      });
    });
  }
  template <elements In, writable_elements Out>
  ticket all_gather(cuda_exec e, const In& in, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_parts(operation::all_gather, size(), source.size(), to.size());
    const signature what = of_device({operation::all_gather, dtype_of<T>, "", -1, source.size()});
    return run(e, what, [=](const side& s) {
      s.exchange(what, source.data(), nullptr, [&](const auto& peer) {
        s.each_rank(
            [&](int r) { s.copy(what.op, to.subspan(std::size_t(r) * source.size(), source.size()), static_cast<const T*>(peer(r).in)); });
      });
    });
  }
  template <elements In, writable_elements Out>
  ticket all_gather_v(cuda_exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::all_gather_v, size(), counts, to.size());
    require_same(operation::all_gather_v, source.size(), counts[std::size_t(rank())]);
    const signature what = of_device({operation::all_gather_v, dtype_of<T>});
    return run(e, what, [=](const side& s) {
      s.exchange(
          what, source.data(), nullptr,
          [&](const auto& peer) {
            s.each_rank([&](int r) {
              s.copy(what.op, to.subspan(thread_comm::before(counts, r), counts[std::size_t(r)]), static_cast<const T*>(peer(r).in));
            });
          },
          counts);
    });
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(cuda_exec e, const In& in, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_parts(operation::reduce_scatter, size(), to.size(), source.size());
    const signature what = of_device({operation::reduce_scatter, dtype_of<T>, Op::name, -1, to.size()});
    return run(e, what, [=](const side& s) {
      s.exchange(what, source.data(), nullptr, [&](const auto& peer) {
        s.combine<T>(op, peer, std::size_t(s.rank()) * to.size(), to.size(), [&](combined_ranks<T>& r) { r.out[r.outs++] = to.data(); });
      });
    });
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(cuda_exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::reduce_scatter_v, size(), counts, source.size());
    require_same(operation::reduce_scatter_v, counts[std::size_t(rank())], to.size());
    const signature what = of_device({operation::reduce_scatter_v, dtype_of<T>, Op::name});
    return run(e, what, [=](const side& s) {
      s.exchange(
          what, source.data(), nullptr,
          [&](const auto& peer) {
            s.combine<T>(op, peer, thread_comm::before(counts, s.rank()), to.size(),
                         [&](combined_ranks<T>& r) { r.out[r.outs++] = to.data(); });
          },
          counts);
    });
  }
  template <elements In, writable_elements Out>
  ticket all_to_all(cuda_exec e, const In& in, Out&& out) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    const std::size_t part = to.size() / std::size_t(size());
    require_parts(operation::all_to_all, size(), part, to.size());
    require_same(operation::all_to_all, source.size(), to.size());
    const signature what = of_device({operation::all_to_all, dtype_of<T>, "", -1, part});
    return run(e, what, [=](const side& s) {
      s.exchange(what, source.data(), nullptr, [&](const auto& peer) {
        s.each_rank([&](int r) {
          s.copy(what.op, to.subspan(std::size_t(r) * part, part), static_cast<const T*>(peer(r).in) + std::size_t(s.rank()) * part);
        });
      });
    });
  }
  template <elements In, writable_elements Out>
  ticket all_to_all_v(cuda_exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out,
                      std::span<const std::size_t> recv_counts) {
    using T = same_element<In, Out>;
    const std::span<const T> source = span_of(in);
    const std::span<T> to = span_of(out);
    require_counts(operation::all_to_all_v, size(), send_counts, source.size());
    require_counts(operation::all_to_all_v, size(), recv_counts, to.size());
    const signature what = of_device({operation::all_to_all_v, dtype_of<T>});
    return run(e, what, [=](const side& s) {
      s.exchange(
          what, source.data(), nullptr,
          [&](const auto& peer) {
            s.each_rank([&](int r) {
              s.copy(what.op, to.subspan(thread_comm::before(recv_counts, r), recv_counts[std::size_t(r)]),
                     static_cast<const T*>(peer(r).in) + thread_comm::before(peer.send_counts(r), s.rank()));
            });
          },
          send_counts, recv_counts);
    });
  }

  /// Into a room of device memory: neither the host nor the stream waits for the peer.
  template <elements In>
  ticket send(cuda_exec e, const In& in, int peer) {
    const auto data = span_of(in);
    require_rank(operation::send, "peer", peer, size());
    require(data.size() <= std::size_t(PTRDIFF_MAX) / sizeof(data[0]), "moefold: send of ", data.size(),
            " elements, more than memory can hold; give the span its true size");
    const signature what = of_device({operation::send, dtype_of<element_of<const In>>, "", peer, data.size()});
    return run(e, what, [=](const side& s) { s.send(what, std::as_bytes(data), peer); });
  }
  /// The host waits until the message has been sent.
  template <writable_elements Out>
  ticket recv(cuda_exec e, Out&& out, int peer) {
    const auto data = span_of(out);
    require_rank(operation::recv, "peer", peer, size());
    const signature what = of_device({operation::recv, dtype_of<element_of<Out>>, "", peer, data.size()});
    return run(e, what, [=](const side& s) { s.recv(what, std::as_writable_bytes(data), peer); });
  }

  // Over host memory: comm/thread.hpp.
  ticket barrier(host_exec e) { return host_.barrier(e); }
  template <class... A>
  ticket broadcast(host_exec e, A&&... a) {
    return host_.broadcast(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket reduce(host_exec e, A&&... a) {
    return host_.reduce(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket all_reduce(host_exec e, A&&... a) {
    return host_.all_reduce(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket all_gather(host_exec e, A&&... a) {
    return host_.all_gather(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket all_gather_v(host_exec e, A&&... a) {
    return host_.all_gather_v(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket reduce_scatter(host_exec e, A&&... a) {
    return host_.reduce_scatter(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket reduce_scatter_v(host_exec e, A&&... a) {
    return host_.reduce_scatter_v(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket all_to_all(host_exec e, A&&... a) {
    return host_.all_to_all(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket all_to_all_v(host_exec e, A&&... a) {
    return host_.all_to_all_v(e, std::forward<A>(a)...);
  }
  template <element T, class... A>
  ticket fetch_v(host_exec e, A&&... a) {
    return host_.template fetch_v<T>(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket send(host_exec e, A&&... a) {
    return host_.send(e, std::forward<A>(a)...);
  }
  template <class... A>
  ticket recv(host_exec e, A&&... a) {
    return host_.recv(e, std::forward<A>(a)...);
  }
  template <elements In>
  auto expose(host_exec e, const In& in) {
    return host_.expose(e, in);
  }

 private:
  static signature of_device(signature what) {
    what.device = true;
    return what;
  }

  /// What the ranks have shown for the call in progress.
  struct peers {
    thread_group& group;
    std::uint64_t seq;
    const device_post& operator()(int rank) const { return *static_cast<const device_post*>(group.post_of(rank, seq).in); }
    std::span<const std::size_t> send_counts(int rank) const { return group.post_of(rank, seq).send_counts; }
  };

  /// One rank's side of an operation: the communicator of threads it meets its peers on, and the stream its work lies on.
  struct side {
    thread_comm& c;
    device_group& group;
    cuda_exec e;

    int rank() const { return c.rank_; }
    int size() const { return c.size(); }
    template <class Body>
    void each_rank(Body&& body) const {
      c.each_rank(body);
    }

    /// A collective call: move(peers) issues this rank's work when the peers have shown their memory, and is ordered with theirs.
    template <class Move>
    void exchange(const signature& what, const void* in, void* out, Move&& move, std::span<const std::size_t> send_counts = {},
                  std::span<const std::size_t> recv_counts = {}) const {
      try {
        device_group::member& mine = group.of(rank());
        c.collective(
            what,
            [&](thread_comm::post& p) {
              group.started(rank(), e.context->device);
              mine.ready->record(e.stream);
              p.in = new (p.inlined) device_post{in, out, *mine.ready, *mine.done, e.context->device};
              p.small = false;  // its memory is used until everybody has arrived again
              std::copy(send_counts.begin(), send_counts.end(), p.send_counts.begin());
              std::copy(recv_counts.begin(), recv_counts.end(), p.recv_counts.begin());
            },
            [&](const signature& w) {
              const peers shown{*c.group_, w.seq};
              c.read(w, [&] {
                c.each_peer([&](int r) {
                  if (!mine.reached) device_group::reach(rank(), e.context->device, r, shown(r).device);
                  cuda_check(cudaStreamWaitEvent(e.stream, shown(r).ready, 0), "waiting for a peer's memory");
                });
                mine.reached = true;
                move(shown);
                mine.done->record(e.stream);
              });
              c.each_peer([&](int r) { cuda_check(cudaStreamWaitEvent(e.stream, shown(r).done, 0), "waiting for a peer's work"); });
            });
      } catch (...) {
        group.quiesce();
        throw;
      }
    }

    template <class T>
    void copy(operation op, std::span<T> to, const T* from) const {
      if (!to.empty() && to.data() != from)
        cuda_check(cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToDevice, e.stream), name_of(op), " of ",
                   to.size_bytes(), " bytes on ", c.label().view(), ", rank ", rank());
    }
    /// Adds elements first .. first + count of all ranks, in rank order; where(table) says where to.
    template <class T, class Op, class Where>
    void combine(Op op, const peers& peer, std::size_t first, std::size_t count, Where&& where) const {
      combined_ranks<T> r;
      for (int p = 0; p < size(); ++p) r.in[r.ranks++] = static_cast<const T*>(peer(p).in) + first;
      where(r);
      moefold::combine(e, "combine_ranks", op, r, count);
    }

    void send(signature what, std::span<const std::byte> data, int peer) const {
      what.seq = c.sent_++;
      c.call(what, [&](const signature& w) {
        if (c.hook_) c.hook_(c.context_);
        device_room* const room = &group.of(rank()).rooms.take(data.size(), peer);
        room->fill(e, data.data(), data.size());
        c.group_->send(rank(), peer, w, std::as_bytes(std::span(&room, 1)));
      });
    }
    void recv(signature what, std::span<std::byte> data, int peer) const {
      what.seq = c.received_++;
      c.call(what, [&](const signature& w) {
        device_room* room = nullptr;
        c.group_->receive(rank(), peer, w, std::as_writable_bytes(std::span(&room, 1)), c.hook_, c.context_);
        room->empty(e, data.data(), data.size());
        group.of(peer).rooms.give_back(*room);
      });
    }
  };

  /// On e's stream, by this thread; of an apart communicator on the rank's other stream, by its helper.
  template <class Body>
  ticket run(cuda_exec e, const signature& what, Body body) {
    if (!host_.inner_) {
      body(side{host_, *group_, e});
      return ticket(e.stream);
    }
    thread_world& world = host_.world();
    device_lane& lane = world.beside<device_lane>(host_.world_rank(), e.context->device);
    if (!beside_) beside_.reset(&lane);
    const std::uint64_t number = world.helper(host_.world_rank()).issued() + 1;
    lane.follow(e.stream, number);
    const auto issued = host_.issue(what, [body, e = e.on(lane.stream()), to = &lane, number, group = group_.get()](thread_comm& c) {
      to->begin(number);
      body(side{c, *group, e});
      to->end(number);
    });
    return ticket(issued, lane, number);
  }
  struct drained {
    void operator()(device_lane* lane) const noexcept { (void)cudaStreamSynchronize(lane->stream()); }
  };

  std::shared_ptr<thread_world> world_;           // owns the lane
  std::unique_ptr<device_lane, drained> beside_;  // of an apart communicator that has been used
  std::shared_ptr<device_group> group_;
  thread_comm host_;  // last: its end waits for the helper, which uses the above
};

static_assert(communicator_of<device_thread_comm, host_exec, float> && communicator_of<device_thread_comm, cuda_exec, float> &&
              hookable<device_thread_comm>);
static_assert(overlapping<device_thread_comm> && overlapping<device_thread_comm, cuda_exec> && rebuildable<device_thread_comm>);
static_assert(fetching<device_thread_comm> && !fetching<device_thread_comm, cuda_exec> && peer_readable<device_thread_comm>);

/// run_threads over device memory: f(device_thread_comm&) on `ranks` threads. Each makes a cuda_context of its own, which chooses the device.
template <class F>
void run_device_threads(int ranks, F&& f, thread_options options = {}) {
  run_threads(
      ranks,
      [&](thread_comm& host) {
        device_thread_comm world(std::move(host));
        f(world);
      },
      options);
}

}  // namespace moefold
