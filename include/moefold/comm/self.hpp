#pragma once
// A communicator of one rank: every operation is a copy, nothing travels. The single-rank oracle and all groups of size 1 run on it.
#include <moefold/comm/signature.hpp>

#include <vector>

namespace moefold {

class self_comm {
 public:
  using ticket = completed;

  explicit self_comm(comm_label label = "world") : label_(label) {}

  int rank() const { return 0; }
  int size() const { return 1; }
  const comm_label& label() const { return label_; }
  self_comm split(int, int, comm_label label = {}) { return self_comm(label.empty() ? label_ : label); }
  self_comm rebuild() { return self_comm(label_); }
  self_comm apart(comm_label label = {}) { return split(0, 0, label); }  // nothing travels: done when the call returns

  ticket barrier(host_exec) { return {}; }
  template <writable_elements Data>
  ticket broadcast(host_exec, Data&&, int root) {
    require_rank(operation::broadcast, "root", root, 1);
    return {};
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce(host_exec, const In& in, Out&& out, Op, int root) {
    require_rank(operation::reduce, "root", root, 1);
    return copy(operation::reduce, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket all_reduce(host_exec, const In& in, Out&& out, Op) {
    return copy(operation::all_reduce, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_gather(host_exec, const In& in, Out&& out) {
    return copy(operation::all_gather, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_gather_v(host_exec, const In& in, std::span<const std::size_t> counts, Out&& out) {
    require_counts(operation::all_gather_v, 1, counts, std::size(in));
    return copy(operation::all_gather_v, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(host_exec, const In& in, Out&& out, Op) {
    return copy(operation::reduce_scatter, in, out);
  }
  template <elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(host_exec, const In& in, std::span<const std::size_t> counts, Out&& out, Op) {
    require_counts(operation::reduce_scatter_v, 1, counts, std::size(in));
    return copy(operation::reduce_scatter_v, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_to_all(host_exec, const In& in, Out&& out) {
    return copy(operation::all_to_all, in, out);
  }
  template <elements In, writable_elements Out>
  ticket all_to_all_v(host_exec, const In& in, std::span<const std::size_t> send_counts, Out&& out,
                      std::span<const std::size_t> recv_counts) {
    require_counts(operation::all_to_all_v, 1, send_counts, std::size(in));
    require_counts(operation::all_to_all_v, 1, recv_counts, std::size(out));
    return copy(operation::all_to_all_v, in, out);
  }

  template <element T, showable Shown, class Fetch>
  ticket fetch_v(host_exec, const Shown& shown, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 Fetch&& fetch) {
    require(send_counts.size() == 1 && recv_counts.size() == 1 && send_counts[0] == recv_counts[0],
            "moefold: fetch_v on one rank sends itself what it receives; give both counts the same number");
    fetch([&](int) -> const Shown& { return shown; });
    return {};
  }

  /// To itself: kept until the recv, in order.
  template <elements In>
  ticket send(host_exec, const In& in, int peer) {
    require_rank(operation::send, "peer", peer, 1);
    const auto bytes = std::as_bytes(span_of(in));
    outbox_.push_back({dtype_of<element_of<const In>>, {bytes.begin(), bytes.end()}});
    return {};
  }
  template <writable_elements Out>
  ticket recv(host_exec, Out&& out, int peer) {
    require_rank(operation::recv, "peer", peer, 1);
    require(!outbox_.empty(), "moefold: recv from itself on ", label_.view(), " would wait for ever; send first");
    const auto bytes = std::as_writable_bytes(span_of(out));
    const message& first = outbox_.front();
    require(first.type == dtype_of<element_of<Out>> && first.bytes.size() == bytes.size(), "moefold: recv of ", bytes.size(), " bytes of ",
            name_of(dtype_of<element_of<Out>>), " meets a send of ", first.bytes.size(), " bytes of ", name_of(first.type));
    if (!bytes.empty()) std::memcpy(bytes.data(), first.bytes.data(), bytes.size());
    outbox_.erase(outbox_.begin());
    return {};
  }

  /// Its only peer is itself.
  template <element T>
  struct window {
    std::span<const T> mine;
    std::span<const T> peer(int) const { return mine; }
    void close() {}
  };
  template <elements In>
  auto expose(host_exec, const In& in) {
    return window<element_of<const In>>{span_of(in)};
  }

 private:
  struct message {
    dtype type;
    std::vector<std::byte> bytes;
  };

  template <class In, class Out>
  static ticket copy(operation op, const In& in, Out& out) {
    static_assert(std::is_same_v<element_of<const In>, element_of<Out>>, "moefold: in and out of one operation have the same element type");
    require_same(op, std::size(in), std::size(out));
    if (std::size(in) > 0 && std::data(in) != std::data(out)) std::memcpy(std::data(out), std::data(in), span_of(in).size_bytes());
    return {};
  }

  comm_label label_;
  std::vector<message> outbox_;
};

static_assert(communicator_of<self_comm, host_exec, float> && peer_readable<self_comm> && fetching<self_comm> && overlapping<self_comm> &&
              rebuildable<self_comm>);

}  // namespace moefold
