#pragma once
// A grid of blocks on the host: block after block, the threads of a block as fibers. Barriers and shuffles are real: whoever arrives waits for the others,
// and a kernel in which they can never meet ends with an error that says where everybody stands. A warp runs as far as it comes before the next one does,
// and the order of warps and lanes changes from round to round (forwards, backwards), so that a result that depends on a missing barrier or on an order
// differs from the host's.
#include "fiber.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim{}, gridDim{};
inline constexpr int warpSize = 32;

namespace emulator {

inline constexpr std::size_t most_shared = 227 * 1024;

enum class wait_for { nothing, block, warp, finished };
enum class collective { none, shuffle, vote, sync };

struct warp_state {
  unsigned lanes = 0, arrived = 0, generation = 0;  // lanes, arrived: masks
  collective kind = collective::none;
  alignas(16) std::byte slot[2][32][16];
};

struct kernel_thread {
  fiber stack;
  wait_for waits = wait_for::nothing;
  unsigned until = 0;  // the generation that is over when it may go on
  unsigned index = 0;
  uint3 id{};
  warp_state* warp = nullptr;
  unsigned lane() const { return index % 32; }
};

/// The block that is running on this thread of the host.
class block {
 public:
  static block*& current() {
    static thread_local block* now = nullptr;
    return now;
  }

  void run(dim3 grid, dim3 threads, std::size_t shared_bytes, void (*body)(void*), void* argument) {
    const unsigned count = threads.x * threads.y * threads.z;
    while (threads_.size() < count) threads_.push_back(std::make_unique<kernel_thread>());
    warps_.resize((count + 31) / 32);
    if (shared_.size() < shared_bytes + 16) shared_.resize(shared_bytes + 16);
    block* const before = std::exchange(current(), this);
    const auto place = std::tuple(threadIdx, blockIdx, blockDim, gridDim);
    gridDim = grid, blockDim = threads;
    body_ = body, argument_ = argument, count_ = count;
    for (unsigned z = 0; z < grid.z && !failure_; ++z)
      for (unsigned y = 0; y < grid.y && !failure_; ++y)
        for (unsigned x = 0; x < grid.x && !failure_; ++x) {
          blockIdx = {x, y, z};
          std::memset(shared_.data(), 0xff, shared_.size());
          run_block();
        }
    std::tie(threadIdx, blockIdx, blockDim, gridDim) = place;
    current() = before;
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  void* shared() { return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(shared_.data()) + 15) / 16 * 16); }

  void sync_block() {
    kernel_thread& me = *running_;
    const unsigned generation = generation_;
    if (++arrived_ == live_) return open_block();
    me.waits = wait_for::block, me.until = generation;
    pause();
  }
  int reduce_block(int value, int kind) {  // 0: sum of (value != 0), 1: and, 2: or
    votes_[generation_ & 1] += value != 0;
    const unsigned at = generation_ & 1, all = live_;
    sync_block();
    const int sum = votes_[at];
    sync_block();
    votes_[at] = 0;
    return kind == 0 ? sum : kind == 1 ? sum == int(all) : sum > 0;
  }

  /// All lanes of the warp bring a value; every lane gets a look at all of them.
  template <class T>
  const std::byte (*meet(collective kind, unsigned mask, const T& value))[16] {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16, "emulator: shuffles move up to 16 bytes");
    kernel_thread& me = *running_;
    warp_state& w = *me.warp;
    if ((mask & w.lanes) != w.lanes)
      fail("a shuffle or vote of part of a warp; the emulator knows only whole warps, and none of whose lanes has exited");
    if (w.arrived != 0 && w.kind != kind) fail("lanes of one warp meet in different operations (shuffle, vote, __syncwarp)");
    w.kind = kind;
    const unsigned generation = w.generation;
    std::memcpy(w.slot[generation & 1][me.lane()], &value, sizeof value);
    w.arrived |= 1u << me.lane();
    if (w.arrived == w.lanes) {
      w.arrived = 0, ++w.generation, progress_ = true;
    } else {
      me.waits = wait_for::warp, me.until = generation;
      pause();
    }
    return w.slot[generation & 1];
  }
  unsigned lane() const { return running_->lane(); }
  unsigned lanes() const { return running_->warp->lanes; }

  [[noreturn]] void fail(const std::string& what) {
    throw std::logic_error("emulator: block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                           std::to_string(blockIdx.z) + "), thread " + std::to_string(running_ ? running_->index : 0) + ": " + what);
  }

 private:
  void run_block() {
    live_ = count_, arrived_ = 0, votes_[0] = votes_[1] = 0;
    for (unsigned w = 0; w < warps_.size(); ++w) {
      const unsigned lanes = std::min(32u, count_ - w * 32);
      warps_[w].lanes = lanes == 32 ? ~0u : (1u << lanes) - 1;
      warps_[w].arrived = warps_[w].generation = 0;
    }
    for (unsigned i = 0; i < count_; ++i) {
      kernel_thread& t = *threads_[i];
      t.index = i, t.waits = wait_for::nothing, t.warp = &warps_[i / 32];
      t.id = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
      t.stack.start(&enter, this);
    }
    while (live_ > 0 && !failure_) {
      progress_ = false;
      const bool backwards = (++round_ & 1) != 0;
      const unsigned all = unsigned(warps_.size());
      for (unsigned i = 0; i < all && !failure_; ++i) run_warp(backwards ? all - 1 - i : i, backwards);
      if (!progress_ && live_ > 0) {
        running_ = nullptr;
        unsigned at_block = 0, at_warp = 0;
        for (unsigned i = 0; i < count_; ++i)
          at_block += threads_[i]->waits == wait_for::block, at_warp += threads_[i]->waits == wait_for::warp;
        failure_ = std::make_exception_ptr(
            std::logic_error("emulator: block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                             std::to_string(blockIdx.z) + ") hangs: " + std::to_string(at_block) + " threads wait in __syncthreads, " +
                             std::to_string(at_warp) + " in a shuffle or vote, " + std::to_string(count_ - live_) + " have exited"));
      }
    }
  }
  /// As far as it comes without other warps: it may be a barrier ahead of them, or behind.
  void run_warp(unsigned warp, bool backwards) {
    const unsigned first = warp * 32, lanes = std::min(32u, count_ - first);
    for (bool moved = true; moved && !failure_;) {
      moved = false;
      for (unsigned i = 0; i < lanes && !failure_; ++i) {
        kernel_thread& t = *threads_[first + (backwards ? lanes - 1 - i : i)];
        if (t.waits == wait_for::finished || (t.waits == wait_for::block && t.until == generation_) ||
            (t.waits == wait_for::warp && t.until == t.warp->generation))
          continue;
        t.waits = wait_for::nothing;
        progress_ = moved = true;
        running_ = &t;
        threadIdx = t.id;
        t.stack.resume();
      }
    }
  }
  static void enter(void* self) {
    block& b = *static_cast<block*>(self);
    kernel_thread& me = *b.running_;
    try {
      b.body_(b.argument_);
    } catch (...) {
      b.failure_ = std::current_exception();
    }
    me.waits = wait_for::finished;
    me.warp->lanes &= ~(1u << me.lane());
    if (--b.live_ > 0 && b.arrived_ == b.live_) b.open_block();
  }
  void open_block() { arrived_ = 0, ++generation_, progress_ = true; }
  void pause() {
    kernel_thread& me = *running_;
    me.stack.leave();
    running_ = &me;
    threadIdx = me.id;
  }

  std::vector<std::unique_ptr<kernel_thread>> threads_;
  std::vector<warp_state> warps_;
  std::vector<std::byte> shared_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  kernel_thread* running_ = nullptr;
  unsigned count_ = 0, live_ = 0, arrived_ = 0, generation_ = 0, round_ = 0;
  int votes_[2] = {0, 0};
  bool progress_ = false;
  std::exception_ptr failure_;
};

inline void* dynamic_shared() { return block::current()->shared(); }

/// Runs body() once for each thread of the grid.
template <class Body>
void run_grid(dim3 grid, dim3 threads, std::size_t shared, Body& body) {
  static thread_local block here;
  here.run(
      grid, threads, shared, [](void* b) { (*static_cast<Body*>(b))(); }, &body);
}

}  // namespace emulator

inline void __syncthreads() { emulator::block::current()->sync_block(); }
inline int __syncthreads_count(int value) { return emulator::block::current()->reduce_block(value, 0); }
inline int __syncthreads_and(int value) { return emulator::block::current()->reduce_block(value, 1); }
inline int __syncthreads_or(int value) { return emulator::block::current()->reduce_block(value, 2); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::block::current()->meet(emulator::collective::sync, mask, 0); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  emulator::block& b = *emulator::block::current();
  const auto* const slot = b.meet(emulator::collective::shuffle, mask, value);
  const unsigned at = b.lane() / unsigned(width) * unsigned(width) + unsigned(source) % unsigned(width);
  T got;
  std::memcpy(&got, slot[at], sizeof got);
  return got;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int away, int width = 32) {
  const unsigned lane = emulator::block::current()->lane(), at = (lane ^ unsigned(away));
  const bool inside = at / unsigned(width) <= lane / unsigned(width);
  return __shfl_sync(mask, value, int((inside ? at : lane) % unsigned(width)),
                     inside && at / unsigned(width) != lane / unsigned(width) ? 32 : width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned away, int width = 32) {
  const unsigned in = emulator::block::current()->lane() % unsigned(width);
  return __shfl_sync(mask, value, int(in >= away ? in - away : in), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned away, int width = 32) {
  const unsigned in = emulator::block::current()->lane() % unsigned(width);
  return __shfl_sync(mask, value, int(in + away < unsigned(width) ? in + away : in), width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  emulator::block& b = *emulator::block::current();
  const unsigned lanes = b.lanes();
  const auto* const slot = b.meet(emulator::collective::vote, mask, predicate != 0);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane)
    if ((lanes >> lane & 1u) != 0 && slot[lane][0] != std::byte{0}) votes |= 1u << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
