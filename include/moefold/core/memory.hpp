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
#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace moefold {

/// Thrown when memory cannot be had: says how much was asked for and what for. On the other ranks it arrives as the root cause (comm/failure.hpp).
class out_of_memory : public error {
 public:
  using error::error;
  out_of_memory(const std::string& text, int rank, std::size_t need, std::size_t have, memory_category what)
      : error(text), rank_(rank), need_(need), have_(have), what_for_(what) {}

  int rank() const { return rank_; }          // world rank, as its ledger knows it; -1: no ledger
  std::size_t need() const { return need_; }  // bytes asked for
  std::size_t have() const { return have_; }  // bytes left of the budget; 0 where it is the system that had none
  memory_category what_for() const { return what_for_; }

 private:
  int rank_ = -1;
  std::size_t need_ = 0, have_ = 0;
  memory_category what_for_ = memory_category::other;
};

/// For tests: makes an allocation of this thread fail as if the system had no memory left.
class failing_allocation {
 public:
  /// The n-th from here on, counted from 1, and no other; 0: none.
  static void arm(std::uint64_t nth) { left_ = nth; }
  /// How many more it takes; 0 after it has failed.
  static std::uint64_t left() { return left_; }
  /// Asked once per allocation.
  static bool now() { return left_ != 0 && --left_ == 0; }

 private:
  inline static thread_local std::uint64_t left_ = 0;
};

namespace detail {

/// Throws it; `charge` has refused the bytes, or the system has.
[[noreturn]] inline void refuse_memory(const memory_ledger::charge& charge, std::size_t bytes, const char* kind, const char* mend) {
  const std::size_t left = charge.left();
  const bool over = left != memory_ledger::no_budget && bytes > left;
  std::string text = sentence("moefold: could not allocate ", bytes, " bytes of ", kind, " memory");
  if (charge.rank() >= 0) text += sentence(" for ", name_of(charge.category()), " of rank ", charge.rank());
  if (over) text += sentence(", of whose budget ", left, " are left");
  throw out_of_memory(text + "; " + mend, charge.rank(), bytes, over ? left : 0, charge.category());
}

}  // namespace detail

/// Where host tensors live. Alignment 64 bytes: one cache line, one vector register. Bytes are charged to the calling thread's memory_scope.
struct host_memory {
  static constexpr std::size_t alignment = 64;

  static void* allocate(std::size_t bytes) {
    constexpr const char* mend = "use fewer ranks per machine, a smaller micro-batch or a smaller model";
    const memory_ledger::charge& charge = memory_scope::current();
    const bool fits = bytes <= std::numeric_limits<std::size_t>::max() - alignment && !failing_allocation::now();
    void* block = fits ? ::operator new (bytes + alignment, std::align_val_t{alignment}, std::nothrow) : nullptr;
    if (block == nullptr || !charge.add(bytes)) {
      if (block != nullptr) ::operator delete (block, std::align_val_t{alignment});
      detail::refuse_memory(charge, bytes, "host", mend);
    }
    allocations_.fetch_add(1, std::memory_order_relaxed);
    bytes_ += bytes;
    new (block) record{bytes, charge};
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
