#pragma once
// Where a message waits in device memory between its send and its recv, and the place in a stream that an operation ends at. Shared by the communicators
// over device memory (comm/self.cuh, comm/thread.cuh).
//
//   sender's stream      .. copy into the room [filled] ..                     the room is used again only after [emptied]: neither
//   receiver's stream    ..                        wait--^ copy out [emptied]  rank's host waits for a device
#include <moefold/comm/signature.hpp>
#include <moefold/core/exec.cuh>

#include <bit>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace moefold {

/// Device memory for one message from a rank to a peer, and the events that pass it on.
struct device_room {
  std::byte* data;
  std::size_t capacity;
  int peer;
  cuda_event filled;                  // on a stream of the sender
  std::optional<cuda_event> emptied;  // on a stream of the receiver, which makes it: it may have another device

  device_room(std::size_t bytes, int to) : data(static_cast<std::byte*>(device_memory::allocate(bytes))), capacity(bytes), peer(to) {}
  ~device_room() { device_memory::deallocate(data); }
  device_room(const device_room&) = delete;
  device_room& operator=(const device_room&) = delete;

  /// The sender's half; `from` may change when e's stream has come past it.
  void fill(cuda_exec e, const void* from, std::size_t bytes) {
    if (emptied) emptied->before(e.stream);
    if (bytes > 0)
      cuda_check(cudaMemcpyAsync(data, from, bytes, cudaMemcpyDeviceToDevice, e.stream), "keeping a message of ", bytes, " bytes");
    filled.record(e.stream);
  }
  /// The receiver's half.
  void empty(cuda_exec e, void* to, std::size_t bytes) {
    filled.before(e.stream);
    if (bytes > 0)
      cuda_check(cudaMemcpyAsync(to, data, bytes, cudaMemcpyDeviceToDevice, e.stream), "taking a message of ", bytes, " bytes");
    if (!emptied) emptied.emplace();
    emptied->record(e.stream);
  }
};

/// The rooms of one sending rank. They are charged to nobody, as on the host; made some at a time, so that whether a message was taken before the next
/// one was sent does not decide who allocates when.
class device_rooms {
 public:
  /// A room for `bytes` bytes to `peer`. By the sender's thread.
  device_room& take(std::size_t bytes, int peer) {
    const std::size_t capacity = capacity_for(bytes);
    const std::lock_guard lock(mutex_);
    for (std::size_t i = free_.size(); i-- > 0;)
      if (free_[i]->capacity == capacity && free_[i]->peer == peer) {
        device_room& room = *free_[i];
        free_[i] = free_.back();
        free_.pop_back();
        return room;
      }
    const memory_scope nobody{memory_ledger::charge()};
    const int made = capacity <= large ? 8 : 2;
    free_.reserve(all_.size() + std::size_t(made));  // all of them come back one day
    for (int i = 0; i < made; ++i) free_.push_back(all_.emplace_back(std::make_unique<device_room>(capacity, peer)).get());
    device_room& room = *free_.back();
    free_.pop_back();
    return room;
  }
  /// By the receiver's thread, when `empty` has been issued.
  void give_back(device_room& room) {
    const std::lock_guard lock(mutex_);
    free_.push_back(&room);
  }
  std::size_t made() {
    const std::lock_guard lock(mutex_);
    return all_.size();
  }

  /// Sizes that differ by less than a quarter share rooms.
  static constexpr std::size_t capacity_for(std::size_t bytes) {
    const std::size_t step = std::max<std::size_t>(256, std::bit_floor(bytes) / 4);
    return std::max(step, (bytes + step - 1) / step * step);
  }

 private:
  static constexpr std::size_t large = std::size_t{1} << 20;
  std::mutex mutex_;
  std::vector<std::unique_ptr<device_room>> all_;
  std::vector<device_room*> free_;
};

/// The ticket of operations that lie on the stream they were called with: whoever waits on that stream need not. By the thread of the rank.
class stream_ticket {
 public:
  stream_ticket() = default;
  explicit stream_ticket(cudaStream_t stream) : stream_(stream), any_(true) {}

  /// What is issued on e's stream from now on comes after the operation.
  void wait(cuda_exec e) const {
    if (!any_ || e.stream == stream_) return;
    const cuda_event now;
    now.record(stream_);
    now.before(e.stream);
  }
  /// The host waits until the data is there.
  void wait(host_exec) const {
    if (any_) cuda_check(cudaStreamSynchronize(stream_), "waiting for a communicator's operation");
  }

 private:
  cudaStream_t stream_ = nullptr;
  bool any_ = false;
};

}  // namespace moefold
