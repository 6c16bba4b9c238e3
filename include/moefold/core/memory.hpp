#pragma once
// Host memory, counted, and the stack of bytes from which arenas and scratch are cut. A stack grows in chunks while a program warms up and
// never afterwards: what is released is handed out again, and pointers stay valid until their mark is released.
//
//   chunk 0 [ aaaa bbbb cccccc ....]   chunk 1 [ dddddddd ........]        take() cuts 64-byte aligned pieces from left to right;
//                    ^ mark                              ^ top             release(mark) moves the top back, memory stays
#include <moefold/core/error.hpp>
#include <moefold/core/memory_ledger.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <limits>
#include <new>
#include <utility>
#include <vector>

namespace moefold {

/// Thrown when memory cannot be had: says how much was asked for and what for.
class out_of_memory : public error {
 public:
  using error::error;
};

/// Where host tensors live. Alignment 64 bytes: one cache line, one vector register. Bytes are charged to the calling thread's memory_scope.
struct host_memory {
  static constexpr std::size_t alignment = 64;

  static void* allocate(std::size_t bytes) {
    const bool fits = bytes <= std::numeric_limits<std::size_t>::max() - alignment;
    void* block = fits ? ::operator new (bytes + alignment, std::align_val_t{alignment}, std::nothrow) : nullptr;
    require<out_of_memory>(block != nullptr, "moefold: could not allocate ", bytes,
                           " bytes of host memory; use fewer ranks per machine, a smaller micro-batch or a smaller model");
    allocations_.fetch_add(1, std::memory_order_relaxed);
    bytes_ += bytes;
    const record* const mine = new (block) record{bytes, memory_scope::current()};
    mine->charge.add(bytes);
    return static_cast<std::byte*>(block) + alignment;
  }
  static void deallocate(void* block) noexcept {
    if (block == nullptr) return;
    void* const whole = static_cast<std::byte*>(block) - alignment;
    record* const mine = static_cast<record*>(whole);
    mine->charge.remove(mine->bytes);
    mine->~record();
    ::operator delete (whole, std::align_val_t{alignment});
  }

  /// Allocations made so far by all threads: a training step after the first adds none.
  static std::size_t allocations() { return allocations_.load(std::memory_order_relaxed); }
  /// Bytes asked for so far by the calling thread, freed ones included: what a rank takes while it is built.
  static std::size_t bytes_of_this_thread() { return bytes_; }

 private:
  struct record {  // in front of every block
    std::size_t bytes;
    memory_ledger::charge charge;
  };
  static_assert(sizeof(record) <= alignment);

  inline static std::atomic<std::size_t> allocations_{0};
  inline static thread_local std::size_t bytes_ = 0;
};

/// A stack of bytes in chunks of Memory. Not shared between threads: each rank has its own. All its chunks are charged where the first scope in which it
/// was reserved or used stands (core/memory_ledger.hpp).
template <class Memory = host_memory>
class memory_stack {
 public:
  struct mark_t {
    std::size_t chunk = 0;
    std::size_t used = 0;    // bytes of this chunk
    std::size_t in_use = 0;  // bytes of all pieces below; the ends of chunks that nothing fitted into do not count
  };

  memory_stack() = default;
  explicit memory_stack(std::size_t bytes) { reserve(bytes); }
  memory_stack(memory_stack&& other) noexcept
      : chunks_(std::exchange(other.chunks_, {})), top_(std::exchange(other.top_, {})), peak_(std::exchange(other.peak_, 0)),
        charge_(other.charge_) {}
  memory_stack& operator=(memory_stack&& other) noexcept {
    memory_stack(std::move(other)).swap(*this);
    return *this;
  }
  ~memory_stack() {
    for (const chunk& c : chunks_) Memory::deallocate(c.data);
  }

  /// One chunk that holds `bytes` in one piece, made now instead of during the first step.
  void reserve(std::size_t bytes) {
    if (bytes > 0) add_chunk(rounded(bytes));
  }

  /// `bytes` bytes, 64-byte aligned, uninitialised, valid until a mark set before is released. Zero bytes give a valid pointer.
  std::byte* take(std::size_t bytes) {
    const std::size_t need = std::max(rounded(bytes), Memory::alignment);
    while (top_.chunk < chunks_.size() && chunks_[top_.chunk].size - top_.used < need) top_ = {top_.chunk + 1, 0, top_.in_use};
    if (top_.chunk == chunks_.size()) add_chunk(std::max(need, smallest_chunk));
    std::byte* piece = chunks_[top_.chunk].data + top_.used;
    top_.used += need;
    top_.in_use += need;
    peak_ = std::max(peak_, top_.in_use);
    return piece;
  }

  mark_t mark() const { return top_; }
  void release(mark_t mark) { top_ = mark; }
  void clear() { release({}); }

  std::size_t peak() const { return peak_; }  // bytes, the most ever in use at once
  std::size_t capacity() const {
    std::size_t bytes = 0;
    for (const chunk& c : chunks_) bytes += c.size;
    return bytes;
  }

 private:
  static constexpr std::size_t smallest_chunk = std::size_t{1} << 20;
  struct chunk {
    std::byte* data;
    std::size_t size;
  };
  static std::size_t rounded(std::size_t bytes) { return (bytes + Memory::alignment - 1) / Memory::alignment * Memory::alignment; }
  void add_chunk(std::size_t bytes) {
    if (chunks_.empty()) charge_ = memory_scope::current();
    const memory_scope scope(charge_);
    chunks_.reserve(chunks_.size() + 1);
    chunks_.push_back({static_cast<std::byte*>(Memory::allocate(bytes)), bytes});
  }
  void swap(memory_stack& other) noexcept {
    std::swap(chunks_, other.chunks_);
    std::swap(top_, other.top_);
    std::swap(peak_, other.peak_);
    std::swap(charge_, other.charge_);
  }

  std::vector<chunk> chunks_;
  mark_t top_;
  std::size_t peak_ = 0;
  memory_ledger::charge charge_{};
};

}  // namespace moefold
