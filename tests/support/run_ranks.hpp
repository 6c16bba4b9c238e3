#pragma once
// Tests run ranks as threads: run_ranks<8>([](auto& comm) { ... }). A failed CHECK is reported by doctest from any thread; what a rank
// throws (a failed REQUIRE too) ends the others and is thrown here.
#include <moefold/comm/thread.hpp>

#include <utility>

namespace moefold {

template <class F>
void run_ranks(int ranks, F&& f, thread_options options = {}) {
  run_threads(ranks, std::forward<F>(f), options);
}
template <int Ranks, class F>
void run_ranks(F&& f, thread_options options = {}) {
  run_threads(Ranks, std::forward<F>(f), options);
}

}  // namespace moefold
