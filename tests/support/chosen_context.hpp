#pragma once
// A context policy that is chosen at run time, so that what trains many mappings compiles one trainer.
#include "sampled_runs.hpp"

#include <moefold/attention/cp_all_gather.hpp>
#include <moefold/attention/cp_all_to_all.hpp>
#include <moefold/attention/cp_ring.hpp>

#include <optional>

namespace moefold::testing {

/// The context policy of the run at hand. One run at a time: the choice is the process's.
struct chosen_context {
  static constexpr const char* name = "chosen_context";
  inline static context_choice choice = context_choice::all_gather;
  inline static context_facts facts{};
  static void choose(context_choice c) {
    choice = c;
    facts = c == context_choice::all_gather ? cp_all_gather::facts
          : c == context_choice::ring       ? cp_ring::facts
          : c == context_choice::all_to_all ? cp_all_to_all::facts
                                            : cp_combined<2>::facts;
  }
  template <class Comm>
  struct groups {
    std::optional<cp_all_gather::groups<Comm>> all_gather;
    std::optional<cp_ring::groups<Comm>> ring;
    std::optional<cp_all_to_all::groups<Comm>> all_to_all;
    std::optional<cp_combined<2>::groups<Comm>> combined;
    groups(Comm& cp, bool overlap) {
      switch (choice) {
        case context_choice::all_gather: all_gather.emplace(cp, overlap); break;
        case context_choice::ring: ring.emplace(cp, overlap); break;
        case context_choice::all_to_all: all_to_all.emplace(cp, overlap); break;
        case context_choice::combined: combined.emplace(cp, overlap); break;
      }
    }
  };
  template <class T, class A, class Exec, class Comm, class... Rest>
  static void forward(Exec e, groups<Comm>& g, const Rest&... rest) {
    switch (choice) {
      case context_choice::all_gather: return cp_all_gather::forward<T, A>(e, *g.all_gather, rest...);
      case context_choice::ring: return cp_ring::forward<T, A>(e, *g.ring, rest...);
      case context_choice::all_to_all: return cp_all_to_all::forward<T, A>(e, *g.all_to_all, rest...);
      case context_choice::combined: return cp_combined<2>::forward<T, A>(e, *g.combined, rest...);
    }
  }
  template <class T, class A, class Exec, class Comm, class... Rest>
  static void backward(Exec e, groups<Comm>& g, const Rest&... rest) {
    switch (choice) {
      case context_choice::all_gather: return cp_all_gather::backward<T, A>(e, *g.all_gather, rest...);
      case context_choice::ring: return cp_ring::backward<T, A>(e, *g.ring, rest...);
      case context_choice::all_to_all: return cp_all_to_all::backward<T, A>(e, *g.all_to_all, rest...);
      case context_choice::combined: return cp_combined<2>::backward<T, A>(e, *g.combined, rest...);
    }
  }
};

}  // namespace moefold::testing
