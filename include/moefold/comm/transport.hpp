#pragma once
// What ranks that are processes travel by: bytes from one process to another, by tag, nothing else. Everything a communicator promises (comm/process.hpp)
// stands on these few non-blocking calls, so that MPI (comm/mpi.hpp), TCP (comm/socket.hpp) and the queues of the tests all keep the same promises.
//
//   sender    r = send(peer, tag, bytes)     ... test(r) ...              the bytes stay as they are until test says true
//   receiver  r = receive(peer, tag, room)   ... test(r, &bytes) ...      the room is not touched by the caller until test says true
//   either    abandon(r, memory)                                          forget it at once; memory lives on as long as the transport may touch it
//
// Order: messages of one sender and one tag are received in the order in which they were sent, by the receives in the order in which they were started;
// two tags know nothing of each other. A message may come before its receive is started: it waits inside the transport. An empty message is a message.
// Threads: all calls may be made from any thread at any time; one request is used by one thread at a time, and messages of one tag are started by one
// thread at a time. No call waits for a peer.
// Lost peers: a transport that notices that a process is gone (its connection was closed or reset) first delivers what had arrived; then every test of
// what was started with that peer, and every new send and receive, throws transport_error with its rank. MPI may never notice: then deadlines do.
#include <moefold/core/error.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace moefold {

/// The transport cannot do what it was asked. peer: the rank that is lost, -1 if it is no one's fault in particular.
class transport_error : public error {
 public:
  explicit transport_error(const std::string& what, int peer = -1) : error(what), peer_(peer) {}
  int peer() const { return peer_; }

 private:
  int peer_;
};

class transport {
 public:
  /// Longest message, in bytes. Whoever has more sends pieces.
  static constexpr std::size_t most_bytes = std::size_t(1) << 20;

  /// What is under way: given by send and receive, empty again once test has said true or abandon was called. The transport's own meaning of `id`.
  struct request {
    std::uintptr_t id = 0;
    int peer = -1;
    bool sending = false;
    bool pending() const { return peer >= 0; }
  };

  virtual ~transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "MPI (Open MPI 4.1.4)", "TCP sockets": for the first lines of a log.
  virtual std::string name() const = 0;
  /// Tags go from 0 to this, at least 32767.
  virtual std::uint32_t most_tag() const { return 0x7fffffff; }

  /// Starts sending to another process (peer is not rank()). At most most_bytes.
  virtual request send(int peer, std::uint32_t tag, std::span<const std::byte> data) = 0;
  /// Starts receiving the next message of `tag` from `peer`. A message longer than the room is a transport_error when it is tested.
  virtual request receive(int peer, std::uint32_t tag, std::span<std::byte> room) = 0;
  /// Makes progress. True when r is finished (it is empty then, and *bytes is how many came); an empty request is finished.
  virtual bool test(request& r, std::size_t* bytes = nullptr) = 0;
  /// Nobody asks for r any more; it is empty then. A receive that has not matched never will, a send may or may not be received. `memory` owns what the
  /// request points at; the transport drops it as soon as it cannot touch it any more, at the latest when it ends.
  virtual void abandon(request& r, std::shared_ptr<void> memory) noexcept = 0;

  /// Returns when a test may say something new, or after `at_most`. May always return early.
  virtual void idle(std::chrono::nanoseconds at_most) = 0;
  /// A run over it has failed: peers may be gone or stuck, and the end of the transport is not to wait for them.
  virtual void give_up() {}
  /// Ends the job in whatever way it can, so that no peer waits for this process: MPI_Abort ends every process, this one too; sockets close all
  /// connections, and this process goes on. `code` is the exit code where one is given. For when the agreed end (comm/process_world.hpp) is not to be had.
  virtual void abort(int code) noexcept = 0;
};

}  // namespace moefold
