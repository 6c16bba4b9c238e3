#pragma once
// Streams and events that close themselves. A stream is a queue of device work; an event is a place in a queue, for which another queue, or the host,
// may wait.
//
//   stream a:  kernel  kernel  [event]  kernel        event.record(a);
//   stream b:  kernel           wait--^ kernel        event.before(b);     what comes next on b starts when a has reached the event
#include <moefold/core/memory.cuh>

#include <utility>

namespace moefold {

/// Owns a stream of the current device that does not wait for the legacy default stream.
class cuda_stream {
 public:
  cuda_stream() { cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  cuda_stream(cuda_stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  cuda_stream& operator=(cuda_stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~cuda_stream() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  operator cudaStream_t() const { return stream_; }
  /// The host waits until all work issued so far is done.
  void wait() const { cuda_check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Owns an event without timing, reused as often as one likes.
class cuda_event {
 public:
  cuda_event() { cuda_check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  cuda_event(cuda_event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  cuda_event& operator=(cuda_event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~cuda_event() {
    if (event_ != nullptr) (void)cudaEventDestroy(event_);
  }
  operator cudaEvent_t() const { return event_; }
  void record(cudaStream_t stream) const { cuda_check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// What is issued on `stream` from now on waits for the event as it was recorded last.
  void before(cudaStream_t stream) const { cuda_check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent"); }
  /// The host waits for it.
  void wait() const { cuda_check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace moefold
