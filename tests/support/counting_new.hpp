#pragma once
// Replaces the global operators new and delete of a test binary by counting ones. Include it in exactly one file of a binary.
//
//   const auto before = allocations_of_this_thread();  work();  CHECK(allocations_of_this_thread() == before);
// All forms of new arrive at the two that are replaced here (the standard says so for arrays, nothrow and sized delete). Memory comes from
// malloc and aligned_alloc, whose memory free() takes back, so that sanitizers still see every block. Never inlined: g++ would take new and
// free for a mismatched pair.
#include <cstddef>
#include <cstdlib>
#include <new>

namespace moefold::test {

inline std::size_t& allocations_of_this_thread() {
  static thread_local std::size_t count = 0;
  return count;
}

}  // namespace moefold::test

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++moefold::test::allocations_of_this_thread();
  if (void* block = std::malloc(bytes ? bytes : 1)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++moefold::test::allocations_of_this_thread();
  const std::size_t a = std::size_t(alignment);
  if (void* block = std::aligned_alloc(a, (bytes + a - 1) / a * a + (bytes ? 0 : a))) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
