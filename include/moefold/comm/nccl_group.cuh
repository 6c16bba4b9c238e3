#pragma once
// The parts of a communicator over NCCL: one channel for its collectives, and, once messages are sent, up to four more that carry only messages, so
// that a message waits neither for a collective nor for one that goes the other way.
//
//   queue 0   even rank -> a higher one       queue 1   even rank -> a lower one        rank r's messages to and from r - 1 and r + 1 lie on four
//   queue 2   odd rank -> a higher one        queue 3   odd rank -> a lower one         queues: none of them waits for another of them
// NCCL's send waits for its recv, and operations of one NCCL communicator wait for each other; ours must not, or a pipeline could stand still. Even the
// call waits the first time, until the peer has called too: NCCL connects the two. So queues are connected when they are made.
#include <moefold/comm/device_room.cuh>
#include <moefold/comm/nccl_world.cuh>

#include <deque>
#include <memory>

namespace moefold {

namespace detail {

template <class T>
constexpr ncclDataType_t nccl_type() {
  switch (dtype_of<T>) {
    case dtype::fp64: return ncclFloat64;
    case dtype::fp32: return ncclFloat32;
    case dtype::bf16: return ncclBfloat16;
    case dtype::int64: return ncclInt64;
    case dtype::int32: return ncclInt32;
    default: return ncclUint8;  // fp8 travels as bytes
  }
}
template <class T>
constexpr ncclDataType_t nccl_sums() {
  static_assert(dtype_of<T> != dtype::fp8_e4m3 && dtype_of<T> != dtype::fp8_e5m2,
                "moefold: fp8 travels, but is not added; convert it first");
  return nccl_type<T>();
}
template <class Op>
constexpr ncclRedOp_t nccl_op() {
  return std::same_as<Op, sum> ? ncclSum : ncclMax;
}

}  // namespace detail

/// Which of the four queues carries a message; -1: to itself.
constexpr int message_queue(int from, int to) { return from == to ? -1 : 2 * (from & 1) + (to > from ? 0 : 1); }

/// Whether two ranks are connected from the first: all pairs of a few ranks, and neighbours in the ring of many. Buffers of a connection are some MiB.
constexpr bool connected_early(int a, int b, int ranks) { return ranks <= 8 || (a + 1) % ranks == b || (b + 1) % ranks == a; }

/// Copies of messages on their way, on the device; used again when they have been sent.
class nccl_rooms {
 public:
  struct room {
    std::byte* data;
    std::size_t capacity;  // bytes
    bool held;             // until leave
    cuda_event free;
  };
  explicit nccl_rooms(memory_stack<device_memory>& memory) : memory_(memory) {}

  room& take(std::size_t bytes) {
    const std::size_t capacity = device_rooms::capacity_for(bytes);
    for (room& r : rooms_)
      if (r.capacity == capacity && !r.held && detail::reached(r.free)) return r.held = true, r;
    return rooms_.emplace_back(room{memory_.take(capacity), capacity, true, cuda_event()});
  }
  /// It is free when `stream` has come here.
  void leave(room& r, cudaStream_t stream) {
    r.free.record(stream);
    r.held = false;
  }

 private:
  memory_stack<device_memory>& memory_;
  std::deque<room> rooms_;  // they stay where they are
};

/// What one rank has of one communicator. Channels are made collectively, over the ranks of the communicator.
class nccl_group {
 public:
  /// `id`: of the flight recorder.
  nccl_group(std::shared_ptr<nccl_world> world, const comm_label& label, int lane, std::uint64_t id, std::unique_ptr<nccl_channel> channel)
      : world_(std::move(world)), label_(label), lane_(lane), id_(id), rooms_(world_->memory()), main_(std::move(channel)) {
    if (main_) rank_ = main_->rank(), size_ = main_->size();
    if (size_ == 1) main_.reset();  // nothing travels
    if (main_) record(*main_);
    word_ = reinterpret_cast<std::int32_t*>(world_->memory().take(sizeof(std::int32_t) * std::size_t(1 + size_)));
    cuda_check(cudaMemsetAsync(word_, 0, sizeof *word_, stream()), "cudaMemsetAsync");
  }

  nccl_world& world() const { return *world_; }
  const std::shared_ptr<nccl_world>& shared_world() const { return world_; }
  const comm_label& label() const { return label_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  int lane() const { return lane_; }
  std::uint64_t id() const { return id_; }
  cudaStream_t stream() const { return world_->stream(lane_); }
  nccl_channel* main() const { return main_.get(); }  // null: one rank
  std::int32_t* word() const { return word_; }        // on the device, for barriers

  /// The number of a call, if the world is well.
  signature numbered(signature what) {
    what.seq = what.op == operation::send ? sent_++ : what.op == operation::recv ? received_++ : seq_++;
    if (world_->failed()) world_->throw_failure(what, label_);
    return what;
  }
  /// Until nothing is in flight.
  void drain() {
    if (main_) main_->drain();
    for (const auto& m : mail_)
      if (m) m->channel->drain();
  }

  /// The channel for messages; null for those to itself. The first call with another rank is collective.
  nccl_channel* queue(int from, int to) {
    const int q = message_queue(from, to);
    if (q < 0) return nullptr;
    if (!mail_[std::size_t(q)]) open_mail();
    return mail_[std::size_t(q)]->channel.get();
  }
  nccl_rooms& rooms() { return rooms_; }

  /// A message to itself: kept until the recv, in order.
  void keep(const void* data, std::size_t bytes, dtype type, cudaStream_t on) {
    nccl_rooms::room& r = rooms_.take(bytes);
    if (bytes > 0) cuda_check(cudaMemcpyAsync(r.data, data, bytes, cudaMemcpyDefault, on), "copying a message of ", bytes, " bytes");
    r.free.record(on);
    letters_.push_back({&r, bytes, type});
  }
  void fetch(void* data, std::size_t bytes, dtype type, cudaStream_t on) {
    require(!letters_.empty(), "moefold: recv from itself on ", label_.view(), " would wait for ever; send first");
    const letter first = letters_.front();
    require(first.type == type && first.bytes == bytes, "moefold: recv of ", bytes, " bytes of ", name_of(type), " meets a send of ",
            first.bytes, " bytes of ", name_of(first.type));
    letters_.pop_front();
    first.room->free.before(on);
    if (bytes > 0)
      cuda_check(cudaMemcpyAsync(data, first.room->data, bytes, cudaMemcpyDefault, on), "copying a message of ", bytes, " bytes");
    rooms_.leave(*first.room, on);
  }

 private:
  struct mail {
    cuda_stream stream;
    std::unique_ptr<nccl_channel> channel;
  };
  struct letter {
    nccl_rooms::room* room;
    std::size_t bytes;
    dtype type;
  };

  void record(nccl_channel& channel) const {
    if (flight_recorder* const r = world_->recorder())
      channel.record(r->ring(world_->rank(), lane_), {id_, r->labels().number_of(label_), std::uint32_t(size_), std::uint32_t(rank_)});
  }
  void open_mail() {
    main_->drain();
    for (int q = 0; q < 4; ++q) {
      if (size_ == 2 && q != message_queue(0, 1) && q != message_queue(1, 0)) continue;
      auto made = std::make_unique<mail>();
      made->channel = std::make_unique<nccl_channel>(
          *world_, label_, made->stream, signature{operation::split, dtype::uint8, "messages"}, "ncclCommSplit", main_.get(),
          [&](ncclComm_t* handle, ncclConfig_t* config) { return ncclCommSplit(main_->handle(), 0, rank_, handle, config); });
      connect(q, *made->channel);
      record(*made->channel);
      mail_[std::size_t(q)] = std::move(made);
    }
  }
  /// A byte to and from every peer with which this rank has the queue.
  void connect(int q, nccl_channel& queue) {
    const auto linked = [&](int from, int to) { return message_queue(from, to) == q && connected_early(from, to, size_); };
    bool any = false;
    for (int peer = 0; peer < size_; ++peer) any = any || linked(rank_, peer) || linked(peer, rank_);
    if (!any) return;
    queue.issue({operation::split, dtype::uint8, "messages"}, queue.stream(), [&](detail::nccl_calls& calls) {
      for (int peer = 0; peer < size_; ++peer) {
        if (linked(rank_, peer)) calls("ncclSend", ncclSend(word_, 1, ncclUint8, peer, queue.handle(), queue.stream()));
        if (linked(peer, rank_)) calls("ncclRecv", ncclRecv(word_ + 1 + peer, 1, ncclUint8, peer, queue.handle(), queue.stream()));
      }
    });
  }

  std::shared_ptr<nccl_world> world_;  // first: all below uses it
  comm_label label_;
  int rank_ = 0, size_ = 1, lane_;
  std::uint64_t id_;
  std::int32_t* word_ = nullptr;  // and one for each peer
  std::uint64_t seq_ = 0, sent_ = 0, received_ = 0;
  nccl_rooms rooms_;
  std::deque<letter> letters_;
  std::unique_ptr<nccl_channel> main_;
  std::array<std::unique_ptr<mail>, 4> mail_;
};

}  // namespace moefold
