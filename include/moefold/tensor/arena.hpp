#pragma once
// Views cut from one stack of memory. An `arena` owns its memory (what a layer keeps for backward, a model's parameters);
// a `scratch` borrows the rank's own and gives it back when it goes out of scope. Neither allocates once warm.
#include <moefold/core/exec.hpp>
#include <moefold/tensor/view.hpp>

namespace moefold {

/// Many tensors in one owned stack. clear() forgets them all and keeps the memory.
template <class Memory>
class basic_arena {
 public:
  using mark_t = typename memory_stack<Memory>::mark_t;

  basic_arena() = default;
  explicit basic_arena(std::size_t bytes) : stack_(bytes) {}

  /// An uninitialised tensor of these extents; valid until clear() or the release of an earlier mark.
  template <class T, class... Extents>
  view<T> take(Extents... extents) {
    return take<T>(shape{extent_t(extents)...});
  }
  template <class T>
  view<T> take(const shape& s) {
    return {reinterpret_cast<T*>(stack_.take(std::size_t(s.size()) * sizeof(T))), s};
  }
  mark_t mark() const { return stack_.mark(); }
  void release(mark_t mark) { stack_.release(mark); }
  void reserve(std::size_t bytes) { stack_.reserve(bytes); }
  void clear() { stack_.clear(); }
  std::size_t peak() const { return stack_.peak(); }          // bytes
  std::size_t capacity() const { return stack_.capacity(); }  // bytes

 private:
  memory_stack<Memory> stack_;
};

using arena = basic_arena<host_memory>;

/// Temporary tensors of one function: taken from the exec's scratch, returned together at the end of the scope.
template <class Exec>
class scratch {
 public:
  explicit scratch(Exec e) : stack_(e.scratch()), mark_(stack_.mark()) {}
  ~scratch() { stack_.release(mark_); }
  scratch(const scratch&) = delete;
  scratch& operator=(const scratch&) = delete;

  template <class T, class... Extents>
  view<T> take(Extents... extents) {
    return take<T>(shape{extent_t(extents)...});
  }
  template <class T>
  view<T> take(const shape& s) {
    return {reinterpret_cast<T*>(stack_.take(std::size_t(s.size()) * sizeof(T))), s};
  }

 private:
  memory_stack<typename Exec::memory>& stack_;
  typename memory_stack<typename Exec::memory>::mark_t mark_;
};

}  // namespace moefold
