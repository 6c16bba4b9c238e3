#pragma once
// Replaces the global operators new and delete of a test binary by counting ones. Include it in exactly one file of a binary.
//
//   const auto before = allocations_of_this_thread();  work();  CHECK(allocations_of_this_thread() == before);
// Every form is replaced, so that AddressSanitizer, which brings its own of each, never sees a mismatched pair. Memory comes from
// malloc or aligned_alloc and goes back through free. Never inlined: g++ would take new and free for a mismatched pair.
#include <cstddef>
#include <cstdlib>
#include <new>

namespace moefold::test {

inline std::size_t& allocations_of_this_thread() {
  static thread_local std::size_t count = 0;
  return count;
}

inline void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations_of_this_thread();
  const std::size_t whole = (bytes == 0 ? 1 : (bytes + alignment - 1) / alignment) * alignment;
  return alignment > alignof(std::max_align_t) ? std::aligned_alloc(alignment, whole) : std::malloc(whole);
}
inline void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* block = counted(bytes, alignment)) return block;
  throw std::bad_alloc();
}

}  // namespace moefold::test

// clang-format off
#define COUNTED_OPERATORS(op)                                                                                                          \
  [[gnu::noinline]] void* operator new op(std::size_t n) { return moefold::test::counted_or_throw(n, 1); }                                \
  [[gnu::noinline]] void* operator new op(std::size_t n, std::align_val_t a) {                                                   \
    return moefold::test::counted_or_throw(n, std::size_t(a));                                                                            \
  }                                                                                                                                       \
  [[gnu::noinline]] void* operator new op(std::size_t n, const std::nothrow_t&) noexcept { return moefold::test::counted(n, 1); }         \
  [[gnu::noinline]] void* operator new op(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {                            \
    return moefold::test::counted(n, std::size_t(a));                                                                                     \
  }                                                                                                                                       \
  [[gnu::noinline]] void operator delete op(void* p) noexcept { std::free(p); }                                                           \
  [[gnu::noinline]] void operator delete op(void* p, std::size_t) noexcept { std::free(p); }                                              \
  [[gnu::noinline]] void operator delete op(void* p, std::align_val_t) noexcept { std::free(p); }                                         \
  [[gnu::noinline]] void operator delete op(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }                            \
  [[gnu::noinline]] void operator delete op(void* p, const std::nothrow_t&) noexcept { std::free(p); }                                    \
  [[gnu::noinline]] void operator delete op(void* p, std::align_val_t, const std::nothrow_t&) noexcept { std::free(p); }
COUNTED_OPERATORS()
COUNTED_OPERATORS([])
#undef COUNTED_OPERATORS
// clang-format on
