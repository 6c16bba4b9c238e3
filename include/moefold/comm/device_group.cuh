#pragma once
// What thread ranks over device memory have besides their threads: events of each rank on each communicator, a stream beside its own, and the kernel that
// adds in rank order. comm/thread.cuh makes operations of them.
//
//   rank's stream    .. [ready]  wait for the peers' ready | copies, sums | [done]  wait for the peers' done ..
//   rank's thread     show, arrive #1 ^                                    arrive #2 ^          no thread waits for a device
// An event is recorded before its rank arrives and waited for before the next time that rank arrives, so two events serve for ever.
#include <moefold/comm/device_room.cuh>
#include <moefold/comm/thread_helper.hpp>
#include <moefold/core/launch.cuh>
#include <moefold/core/pack.cuh>

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

namespace moefold {

inline constexpr int most_device_ranks = 128;  // of one communicator: their addresses are the kernel's arguments

struct combine_tuning {
  int threads = 256;      // per block
  int most_blocks = 512;  // each walks over what is left in strides
};

/// Where a sum comes from and goes to: one address per rank. `out` has `outs` addresses, all get the result.
template <class T>
struct combined_ranks {
  const T* in[most_device_ranks];
  T* out[most_device_ranks];
  int ranks = 0, outs = 0;
};

namespace kernel {

/// One lane group of out = in[0] op in[1] op .., in accumulate_t<T>, rounded once: the bits of thread_comm.
template <int Lanes, class Op, class T>
__device__ inline void combine_at(const combined_ranks<T>& r, std::size_t at) {
  using A = accumulate_t<T>;
  A total[Lanes];
  const pack<T, Lanes> first = load_pack<Lanes>(r.in[0] + at);
  for (int l = 0; l < Lanes; ++l) total[l] = A(first.lane[l]);
  for (int p = 1; p < r.ranks; ++p) {
    const pack<T, Lanes> next = load_pack<Lanes>(r.in[p] + at);
    for (int l = 0; l < Lanes; ++l) total[l] = Op{}(total[l], A(next.lane[l]));
  }
  pack<T, Lanes> result;
  for (int l = 0; l < Lanes; ++l) result.lane[l] = T(total[l]);
  for (int o = 0; o < r.outs; ++o) store_whole(r.out[o] + at, result);
}

/// An out may be the in of any rank: each element is read from all ranks before it is written, by one thread.
template <int Threads, int Lanes, class Op, class T>
__global__ void __launch_bounds__(Threads) combine_ranks(const __grid_constant__ combined_ranks<T> r, std::size_t count) {
  const std::size_t packs = count / Lanes, begin = std::size_t(blockIdx.x) * Threads + threadIdx.x;
  const std::size_t stride = std::size_t(gridDim.x) * Threads;
  for (std::size_t i = begin; i < packs; i += stride) combine_at<Lanes, Op>(r, i * Lanes);
  if (packs * Lanes + begin < count) combine_at<1, Op>(r, packs * Lanes + begin);
}

}  // namespace kernel

template <combine_tuning Tune = combine_tuning{}, class Op, class T>
void combine(cuda_exec e, const char* op, Op, const combined_ranks<T>& r, std::size_t count) {
  bool aligned = true;
  for (int p = 0; p < r.ranks; ++p) aligned = aligned && packs(0, r.in[p]);
  for (int o = 0; o < r.outs; ++o) aligned = aligned && packs(0, r.out[o]);
  const auto start = [&]<int Lanes>(std::integral_constant<int, Lanes>) {
    const std::size_t per_block = std::size_t(Tune.threads) * Lanes, blocks = count / per_block + (count % per_block != 0);
    launch(e, op, kernel::combine_ranks<Tune.threads, Lanes, Op, T>, unsigned(std::min(blocks, std::size_t(Tune.most_blocks))),
           unsigned(Tune.threads), 0, r, count);
  };
  if (aligned)
    start(std::integral_constant<int, whole_pack<T>>());
  else
    start(std::integral_constant<int, 1>());
}

/// The slice of `count` elements that one of `ranks` ranks adds, beginning on 16 bytes where the whole does.
template <class T>
constexpr std::pair<std::size_t, std::size_t> combined_slice(std::size_t count, int ranks, int rank) {
  const std::size_t lanes = whole_pack<T>, n = std::size_t(ranks);
  const std::size_t each = ((count + n - 1) / n + lanes - 1) / lanes * lanes;
  const std::size_t first = std::min(count, each * std::size_t(rank));
  return {first, std::min(each, count - first)};
}

/// What a rank shows its peers of one operation.
struct device_post {
  const void* in;
  void* out;
  cudaEvent_t ready, done;
  int device;
};

/// The ranks of one communicator.
class device_group {
 public:
  struct alignas(64) member {               // of one rank; used by the thread that calls the communicator
    std::optional<cuda_event> ready, done;  // made at its first operation, on its device
    std::atomic<int> device{-1};
    bool reached = false;  // the peers' devices, by this rank's
    device_rooms rooms;    // of what it sends
  };

  explicit device_group(int ranks) : members_(std::size_t(ranks)) {}

  member& of(int rank) { return members_[std::size_t(rank)]; }
  member& started(int rank, int device) {
    member& m = of(rank);
    if (m.ready) return m;
    require(int(members_.size()) <= most_device_ranks, "moefold: a communicator of ", members_.size(),
            " ranks over device memory; at most ", most_device_ranks, ", use processes with NCCL beyond");
    m.ready.emplace(), m.done.emplace();
    m.device.store(device, std::memory_order_seq_cst);
    return m;
  }

  /// Lets kernels of this rank's device read and write the memory of a peer's.
  static void reach(int rank, int device, int peer, int device_of_peer) {
    if (device == device_of_peer) return;
    int can = 0;
    cuda_check(cudaDeviceCanAccessPeer(&can, device, device_of_peer), "cudaDeviceCanAccessPeer(", device, ", ", device_of_peer, ")");
    require(can != 0, "moefold: rank ", rank, " is on device ", device, ", which cannot reach memory of device ", device_of_peer, " (rank ",
            peer, "); put thread ranks on devices that reach each other, or use processes with NCCL");
    const cudaError_t enabled = cudaDeviceEnablePeerAccess(device_of_peer, 0);
    if (enabled == cudaErrorPeerAccessAlreadyEnabled)
      (void)cudaGetLastError();
    else
      cuda_check(enabled, "cudaDeviceEnablePeerAccess(", device_of_peer, ") on device ", device);
  }

  /// After a failure: returns when the devices are done with what was issued, so that no peer reads memory that its rank gives up.
  void quiesce() noexcept {
    int here = 0;
    (void)cudaGetDevice(&here);
    for (std::size_t r = 0; r < members_.size(); ++r) {
      const int device = members_[r].device.load(std::memory_order_seq_cst);
      bool seen = device < 0;
      for (std::size_t p = 0; p < r; ++p) seen = seen || members_[p].device.load(std::memory_order_seq_cst) == device;
      if (seen || cudaSetDevice(device) != cudaSuccess) continue;
      (void)cudaDeviceSynchronize();
    }
    (void)cudaSetDevice(here);
    (void)cudaGetLastError();
  }

 private:
  std::vector<member> members_;
};

/// The stream on which a rank's apart communicators work, all of them in the order it issues to them: its helper's twin on the device.
class device_lane {
 public:
  explicit device_lane(int device) : device_(device) {}

  cudaStream_t stream() const { return stream_; }
  /// By the owner, before it issues job `number`: what it has issued so far comes before the job.
  void follow(cudaStream_t caller, std::uint64_t number) { begin_[number % places].record(caller); }
  /// By the helper, around what job `number` does.
  void begin(std::uint64_t number) {
    cuda_check(cudaSetDevice(device_), "cudaSetDevice(", device_, ")");
    begin_[number % places].before(stream_);
  }
  void end(std::uint64_t number) { end_[number % places].record(stream_); }
  /// Recorded when the helper is past job `number`. Used again after many jobs, for a later place of the same stream: waits for it stay right.
  const cuda_event& event(std::uint64_t number) const { return end_[number % places]; }

 private:
  static constexpr std::size_t places = 2 * thread_helper::most_in_flight;  // an owner is at most one job further than the helper's ring
  int device_;
  cuda_stream stream_;
  std::array<cuda_event, places> begin_, end_;
};

}  // namespace moefold
