#pragma once
// Fibers: one for each thread of an emulated block. They take turns on one thread of the host and change places only where a kernel waits for others.
#include <sys/mman.h>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

#if defined(__x86_64__)
/// Saves where the caller is and goes on where `to` was saved.
__attribute__((naked, noinline)) inline void switch_stacks(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif

/// A stack and a place on it. start() sets it to run body(argument) when it is resumed next; the body ends by calling leave() a last time.
class fiber {
 public:
  static constexpr std::size_t stack_bytes = std::size_t{256} << 10;

  fiber() {
    stack_ =
        static_cast<std::byte*>(mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stack_ == MAP_FAILED) {
      std::fprintf(stderr, "emulator: no memory for the stack of a kernel's thread\n");
      std::abort();
    }
  }
  ~fiber() { munmap(stack_, stack_bytes); }
  fiber(const fiber&) = delete;
  fiber& operator=(const fiber&) = delete;

  void start(void (*body)(void*), void* argument) {
    body_ = body, argument_ = argument;
#if defined(__x86_64__)
    auto** top = reinterpret_cast<void**>(stack_ + stack_bytes);
    *--top = nullptr;  // entry sees a stack that is 8 bytes off 16, as after a call
    *--top = reinterpret_cast<void*>(&entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    here_ = top;
#else
    getcontext(&here_);
    here_.uc_stack.ss_sp = stack_, here_.uc_stack.ss_size = stack_bytes, here_.uc_link = nullptr;
    makecontext(&here_, &entry, 0);
#endif
  }
  /// From the scheduler into the fiber; returns when it calls leave().
  void resume() {
    running() = this;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, stack_bytes);
#endif
#if defined(__x86_64__)
    switch_stacks(&scheduler_, here_);
#else
    swapcontext(&scheduler_, &here_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }
  /// From the fiber back to the scheduler. `for_ever`: it will not be resumed.
  void leave([[maybe_unused]] bool for_ever = false) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &fake, scheduler_stack_, scheduler_bytes_);
#endif
#if defined(__x86_64__)
    switch_stacks(&here_, scheduler_);
#else
    swapcontext(&here_, &scheduler_);
#endif
    arrived();
  }

 private:
  static fiber*& running() {
    static thread_local fiber* now = nullptr;
    return now;
  }
  static void entry() {
    fiber& self = *running();
    self.arrived();
    self.body_(self.argument_);
    self.leave(true);
  }
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_bytes_);
#endif
  }

  std::byte* stack_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void *here_ = nullptr, *scheduler_ = nullptr;
#else
  ucontext_t here_, scheduler_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_bytes_ = 0;
#endif
};

}  // namespace emulator
