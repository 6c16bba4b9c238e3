#pragma once
// Device memory on the host: a region of addresses that only kernels and copies may touch. New memory holds 0xff (NaN, or -1); a fence behind each block
// shows whoever wrote past its end. Host code that reads or writes device memory ends with a segmentation fault, as it should.
#include <sys/mman.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(begin, bytes) ((void)(begin), (void)(bytes))
#endif

namespace emulator {

class device_heap {
 public:
  static device_heap& get() {
    static device_heap* const only = new device_heap;  // never destroyed: contexts may outlive statics
    return *only;
  }

  void* allocate(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const std::size_t need = (bytes + fence + page - 1) / page * page;
    if (used_ + need > limit()) return nullptr;
    std::size_t at = 0;
    for (auto f = free_.begin(); f != free_.end(); ++f)
      if (f->second >= need) {
        at = f->first;
        if (f->second > need) free_.emplace(at + need, f->second - need);
        free_.erase(f);
        break;
      }
    if (at == 0) {
      if (top_ + need > region_bytes) return nullptr;
      at = top_, top_ += need;
    }
    used_ += need;
    std::byte* const block = base_ + at;
    if (depth_ > 0) protect(PROT_READ | PROT_WRITE);
    const bool closed = depth_ == 0;
    if (closed) mprotect(block, need, PROT_READ | PROT_WRITE);
    ASAN_UNPOISON_MEMORY_REGION(block, need);
    std::memset(block, 0xff, bytes);
    std::memset(block + bytes, fence_value, need - bytes);
    ASAN_POISON_MEMORY_REGION(block + (bytes + 7) / 8 * 8, need - (bytes + 7) / 8 * 8);
    if (closed) mprotect(block, need, PROT_NONE);
    blocks_.emplace(block, bytes);
    return block;
  }
  bool release(void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto at = blocks_.find(static_cast<std::byte*>(pointer));
    if (at == blocks_.end()) return false;
    const std::size_t bytes = at->second, need = (bytes + fence + page - 1) / page * page;
    if (depth_ == 0) mprotect(at->first, need, PROT_READ | PROT_WRITE);
    ASAN_UNPOISON_MEMORY_REGION(at->first, need);
    for (std::size_t i = bytes; i < need; ++i)
      if (at->first[i] != std::byte(fence_value)) {
        std::fprintf(stderr, "emulator: a kernel wrote %zu bytes past the end of a device block of %zu bytes\n", i - bytes + 1, bytes);
        std::abort();
      }
    ASAN_POISON_MEMORY_REGION(at->first, need);
    if (depth_ == 0) mprotect(at->first, need, PROT_NONE);
    std::size_t begin = std::size_t(at->first - base_), size = need;
    blocks_.erase(at);
    used_ -= need;
    auto next = free_.lower_bound(begin);
    if (next != free_.end() && begin + size == next->first) size += next->second, next = free_.erase(next);
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == begin) begin = before->first, size += before->second, free_.erase(before);
    }
    free_.emplace(begin, size);
    return true;
  }
  bool holds(const void* pointer) const {
    const auto* const p = static_cast<const std::byte*>(pointer);
    return p >= base_ && p < base_ + region_bytes;
  }
  std::size_t used() const { return used_; }
  static std::size_t limit() {
    static const char* const text = std::getenv("MOEFOLD_EMULATOR_MEMORY");  // bytes
    static const std::size_t bytes = text ? std::strtoull(text, nullptr, 10) : std::size_t{6} << 30;
    return bytes;
  }

  /// While one lives, this process is a device.
  class opened {
   public:
    opened() { get().enter(); }
    ~opened() { get().leave(); }
    opened(const opened&) = delete;
    opened& operator=(const opened&) = delete;
  };

 private:
  static constexpr std::size_t region_bytes = std::size_t{64} << 30, page = 4096, fence = 256;
  static constexpr int fence_value = 0xcd;

  device_heap() {
    base_ = static_cast<std::byte*>(mmap(nullptr, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base_ == MAP_FAILED) {
      std::fprintf(stderr, "emulator: no addresses for device memory\n");
      std::abort();
    }
  }
  void protect(int how) { mprotect(base_, top_, how); }
  void enter() {
    const std::lock_guard lock(mutex_);
    if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    if (--depth_ == 0) protect(PROT_NONE);
  }

  std::mutex mutex_;
  std::byte* base_;
  std::size_t top_ = page, used_ = 0;
  int depth_ = 0;
  std::map<std::size_t, std::size_t> free_;  // begin -> bytes
  std::map<std::byte*, std::size_t> blocks_;
};

/// Page-locked host memory: the host and the device see the same bytes, and copies from it read it when they run, not when they are issued.
class pinned_heap {
 public:
  static pinned_heap& get() {
    static pinned_heap* const only = new pinned_heap;
    return *only;
  }
  void* allocate(std::size_t bytes) {
    void* const block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (block == nullptr) return nullptr;
    std::memset(block, 0xff, bytes);
    const std::lock_guard lock(mutex_);
    blocks_.emplace(static_cast<std::byte*>(block), bytes);
    return block;
  }
  bool release(void* pointer) {
    const std::lock_guard lock(mutex_);
    if (blocks_.erase(static_cast<std::byte*>(pointer)) == 0) return false;
    std::free(pointer);
    return true;
  }
  bool holds(const void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto* const p = static_cast<const std::byte*>(pointer);
    auto at = blocks_.upper_bound(const_cast<std::byte*>(p));
    if (at == blocks_.begin()) return false;
    --at;
    return p < at->first + at->second;
  }

 private:
  std::mutex mutex_;
  std::map<std::byte*, std::size_t> blocks_;
};

}  // namespace emulator
