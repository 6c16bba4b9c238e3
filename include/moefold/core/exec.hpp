#pragma once
// An exec says where an operation runs: it is a small handle on the context of one rank and chooses the overload of every op by its type.
// On the host the context is scratch memory and a count of work; on a device it also carries the stream and library handles (core/exec.cuh).
#include <moefold/core/memory.hpp>

namespace moefold {

template <class Exec>
class deferred_products_of;  // layers/deferred.hpp
struct host_exec;

/// What one host rank keeps for its whole life: scratch that operations borrow and give back.
struct host_context {
  memory_stack<host_memory> scratch;
  deferred_products_of<host_exec>* deferred = nullptr;  // where weight gradients are noted instead of made; null: made at once
  std::int64_t multiply_adds = 0;                       // that all products of this rank made so far (ops/gemm.hpp)
};

/// Passed by value to every operation. Points at the context of the calling rank; never shared between ranks.
struct host_exec {
  using memory = host_memory;
  host_context* context;

  explicit host_exec(host_context& owner) : context(&owner) {}
  memory_stack<host_memory>& scratch() const { return context->scratch; }
  memory_stack<host_memory>& host_scratch() const { return context->scratch; }
  deferred_products_of<host_exec>*& deferred() const { return context->deferred; }
  void wait() const {}  // nothing is ever in flight
};

}  // namespace moefold
