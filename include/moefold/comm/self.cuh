#pragma once
// A communicator of one rank over device memory: every operation is a copy on the stream it is called with. The CUDA twin of comm/self.hpp; with host_exec
// it is that one.
//
//   device_self_comm world;    world.all_reduce(cuda_exec(..), in, out, sum{});    world.all_reduce(host_exec(..), numbers, numbers, sum{});
#include <moefold/comm/device_room.cuh>
#include <moefold/comm/self.hpp>

#include <utility>

namespace moefold {

class device_self_comm {
 public:
  using ticket = stream_ticket;

  explicit device_self_comm(comm_label label = "world") : host_(label) {}

  int rank() const { return 0; }
  int size() const { return 1; }
  const comm_label& label() const { return host_.label(); }
  device_self_comm split(int, int, comm_label label = {}) { return device_self_comm(label.empty() ? host_.label() : label); }
  device_self_comm apart(comm_label label = {}) { return split(0, 0, label); }  // nothing travels: it lies on the caller's stream

  ticket barrier(cuda_exec e) { return ticket(e.stream); }
  template <writable_elements Data>
  ticket broadcast(cuda_exec e, Data&&, int root) {
    require_rank(operation::broadcast, "root", root, 1);
    return ticket(e.stream);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce(cuda_exec e, const In& in, Out&& out, Op, int root) {
    require_rank(operation::reduce, "root", root, 1);
    return copy(e, operation::reduce, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket all_reduce(cuda_exec e, const In& in, Out&& out, Op) {
    return copy(e, operation::all_reduce, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_gather(cuda_exec e, const In& in, Out&& out) {
    return copy(e, operation::all_gather, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_gather_v(cuda_exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    require_counts(operation::all_gather_v, 1, counts, std::size(in));
    return copy(e, operation::all_gather_v, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(cuda_exec e, const In& in, Out&& out, Op) {
    return copy(e, operation::reduce_scatter, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(cuda_exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op) {
    require_counts(operation::reduce_scatter_v, 1, counts, std::size(in));
    return copy(e, operation::reduce_scatter_v, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_to_all(cuda_exec e, const In& in, Out&& out) {
    return copy(e, operation::all_to_all, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_to_all_v(cuda_exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out,
                      std::span<const std::size_t> recv_counts) {
    require_counts(operation::all_to_all_v, 1, send_counts, std::size(in));
    require_counts(operation::all_to_all_v, 1, recv_counts, std::size(out));
    return copy(e, operation::all_to_all_v, in, out);
  }

  /// To itself: kept in device memory until the recv, in order.
  template <elements In>
  ticket send(cuda_exec e, const In& in, int peer) {
    require_rank(operation::send, "peer", peer, 1);
    const auto bytes = std::as_bytes(span_of(in));
    device_room& room = rooms_->take(bytes.size(), 0);
    room.fill(e, bytes.data(), bytes.size());
    outbox_.push_back({dtype_of<element_of<const In>>, bytes.size(), &room});
    return ticket(e.stream);
  }
  template <writable_elements Out>
  ticket recv(cuda_exec e, Out&& out, int peer) {
    require_rank(operation::recv, "peer", peer, 1);
    require(!outbox_.empty(), "moefold: recv from itself on ", label().view(), " would wait for ever; send first");
    const auto bytes = std::as_writable_bytes(span_of(out));
    const message first = outbox_.front();
    require(first.type == dtype_of<element_of<Out>> && first.bytes == bytes.size(), "moefold: recv of ", bytes.size(), " bytes of ",
            name_of(dtype_of<element_of<Out>>), " meets a send of ", first.bytes, " bytes of ", name_of(first.type));
    first.room->empty(e, bytes.data(), bytes.size());
    rooms_->give_back(*first.room);
    outbox_.erase(outbox_.begin());
    return ticket(e.stream);
  }

  // Over host memory: comm/self.hpp.
  ticket barrier(host_exec) { return {}; }
  template <class... A>
  ticket broadcast(host_exec e, A&&... a) {
    return host_.broadcast(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket reduce(host_exec e, A&&... a) {
    return host_.reduce(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket all_reduce(host_exec e, A&&... a) {
    return host_.all_reduce(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket all_gather(host_exec e, A&&... a) {
    return host_.all_gather(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket all_gather_v(host_exec e, A&&... a) {
    return host_.all_gather_v(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket reduce_scatter(host_exec e, A&&... a) {
    return host_.reduce_scatter(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket reduce_scatter_v(host_exec e, A&&... a) {
    return host_.reduce_scatter_v(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket all_to_all(host_exec e, A&&... a) {
    return host_.all_to_all(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket all_to_all_v(host_exec e, A&&... a) {
    return host_.all_to_all_v(e, std::forward<A>(a)...), ticket();
  }
  template <element T, class... A>
  ticket fetch_v(host_exec e, A&&... a) {
    return host_.template fetch_v<T>(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket send(host_exec e, A&&... a) {
    return host_.send(e, std::forward<A>(a)...), ticket();
  }
  template <class... A>
  ticket recv(host_exec e, A&&... a) {
    return host_.recv(e, std::forward<A>(a)...), ticket();
  }
  template <elements In>
  auto expose(host_exec e, const In& in) {
    return host_.expose(e, in);
  }

 private:
  struct message {
    dtype type;
    std::size_t bytes;
    device_room* room;
  };

  template <class In, class Out>
  static ticket copy(cuda_exec e, operation op, const In& in, Out& out) {
    static_assert(std::is_same_v<element_of<const In>, element_of<Out>>, "moefold: in and out of one operation have the same element type");
    require_same(op, std::size(in), std::size(out));
    const std::size_t bytes = span_of(in).size_bytes();
    if (bytes > 0 && std::data(in) != std::data(out))
      cuda_check(cudaMemcpyAsync(std::data(out), std::data(in), bytes, cudaMemcpyDeviceToDevice, e.stream), name_of(op), " of ", bytes,
                 " bytes on one rank");
    return ticket(e.stream);
  }

  self_comm host_;
  std::unique_ptr<device_rooms> rooms_ = std::make_unique<device_rooms>();
  std::vector<message> outbox_;
};

static_assert(communicator_of<device_self_comm, host_exec, float> && communicator_of<device_self_comm, cuda_exec, float> &&
              overlapping<device_self_comm, cuda_exec>);
static_assert(fetching<device_self_comm> && !fetching<device_self_comm, cuda_exec> && peer_readable<device_self_comm>);

}  // namespace moefold
