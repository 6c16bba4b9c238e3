#pragma once
// Views cut from one stack of memory. An `arena` owns its memory (what a layer keeps for backward, a model's parameters);
// a `scratch` borrows the rank's own and gives it back when it goes out of scope. Neither allocates once warm.
//
//   take<T>(..)        memory of the exec: the device's, where the exec runs on one
//   take_host<T>(..)   host memory of the same life, for the few numbers that the host itself must read (counts, sizes); on the host the same as take
#include <moefold/core/exec.hpp>
#include <moefold/tensor/view.hpp>

namespace moefold {

namespace detail {

/// The host memory that goes with a stack of device memory; a stack of host memory is its own.
template <class Memory>
struct beside_on_host {
  using mark_t = memory_stack<host_memory>::mark_t;
  memory_stack<host_memory> stack;
  memory_stack<host_memory>& of(memory_stack<Memory>&) { return stack; }
  mark_t mark() const { return stack.mark(); }
  void release(mark_t mark) { stack.release(mark); }
};
template <>
struct beside_on_host<host_memory> {
  struct mark_t {};
  static memory_stack<host_memory>& of(memory_stack<host_memory>& own) { return own; }
  static mark_t mark() { return {}; }
  static void release(mark_t) {}
};

}  // namespace detail

/// Many tensors in one owned stack. clear() forgets them all and keeps the memory.
template <class Memory>
class basic_arena {
 public:
  struct mark_t {
    typename memory_stack<Memory>::mark_t own{};
    [[no_unique_address]] typename detail::beside_on_host<Memory>::mark_t host{};
  };

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
  template <class T, class... Extents>
  view<T> take_host(Extents... extents) {
    return take_host<T>(shape{extent_t(extents)...});
  }
  template <class T>
  view<T> take_host(const shape& s) {
    return {reinterpret_cast<T*>(host_.of(stack_).take(std::size_t(s.size()) * sizeof(T))), s};
  }
  mark_t mark() const { return {stack_.mark(), host_.mark()}; }
  void release(mark_t mark) {
    stack_.release(mark.own);
    host_.release(mark.host);
  }
  void reserve(std::size_t bytes) { stack_.reserve(bytes); }
  void clear() { release({}); }
  std::size_t peak() const { return stack_.peak(); }          // bytes
  std::size_t capacity() const { return stack_.capacity(); }  // bytes

 private:
  memory_stack<Memory> stack_;
  [[no_unique_address]] detail::beside_on_host<Memory> host_;
};

using arena = basic_arena<host_memory>;

/// Temporary tensors of one function: taken from the exec's scratch, returned together at the end of the scope.
template <class Exec>
class scratch {
 public:
  explicit scratch(Exec e) : stack_(e.scratch()), host_(e.host_scratch()), mark_(stack_.mark()), host_mark_(host_.mark()) {}
  ~scratch() {
    host_.release(host_mark_);
    stack_.release(mark_);
  }
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
  template <class T, class... Extents>
  view<T> take_host(Extents... extents) {
    return take_host<T>(shape{extent_t(extents)...});
  }
  template <class T>
  view<T> take_host(const shape& s) {
    return {reinterpret_cast<T*>(host_.take(std::size_t(s.size()) * sizeof(T))), s};
  }

 private:
  memory_stack<typename Exec::memory>& stack_;
  memory_stack<host_memory>& host_;  // on the host the same stack
  typename memory_stack<typename Exec::memory>::mark_t mark_;
  memory_stack<host_memory>::mark_t host_mark_;
};

}  // namespace moefold
