#pragma once
// Copies into shared memory that a thread begins and waits for in groups (cp.async). On a device they arrive at some moment between; here those of odd
// threads arrive when they are begun and those of even threads when they are waited for, so a kernel that reads too early, or overwrites what is still
// being read, computes something else.
#include "grid.h"

#include <cstdint>
#include <cstring>
#include <vector>

namespace emulator {

class async_copies {
 public:
  /// Those of the thread that is running.
  static async_copies& own() {
    static thread_local std::vector<async_copies> all(1024);
    return all[threadIdx.x];
  }
  void begin(void* to, const void* from, std::size_t bytes, bool real) {
    waiting_.push_back({to, from, bytes, real, group_});
    if (threadIdx.x % 2 != 0) arrive(group_ + 1);
  }
  void end_group() { ++group_; }
  void wait(std::uint64_t pending) {
    if (group_ >= pending) arrive(group_ - pending);
  }

 private:
  struct copy {
    void* to;
    const void* from;
    std::size_t bytes;
    bool real;
    std::uint64_t group;
  };
  void arrive(std::uint64_t end) {  // groups before `end`
    std::erase_if(waiting_, [end](const copy& c) {
      if (c.group >= end) return false;
      c.real ? std::memcpy(c.to, c.from, c.bytes) : std::memset(c.to, 0, c.bytes);
      return true;
    });
  }

  std::vector<copy> waiting_;
  std::uint64_t group_ = 0;
};

}  // namespace emulator
