#pragma once
// Known bugs of folded training, each behind a switch that only the tests' program of mutants has: it puts one of them back, and the suites must notice.
// Everywhere else mutated() is false for the compiler, and what it guards is not there. Write it into a condition: the initialiser of a const bool is evaluated
// by the compiler where it can be, and there no bug is put back.
//
//   const auto scale = mutated(mutant::aux_scaled_by_group) ? wrong : right;        MOEFOLD_MUTANT=aux_scaled_by_group mutants_test
#include <moefold/core/config.hpp>

#include <array>
#include <cstdint>
#include <string_view>

#if MOEFOLD_HAS_MUTANTS
#include <cstdio>
#include <cstdlib>
#include <type_traits>
#endif

namespace moefold {

enum class mutant : std::uint8_t {
  skipped_tp_sum,           // gradients of what tp replicates (norms, router) are summed over cp x dp only
  expert_gradients_by_edp,  // summed gradients of experts once more divided by the number of their replicas
  norm_counts_replicas,     // the gradient norm adds up what every replica holds
  swapped_axes,             // the group over cp x dp lies over tp x dp
  early_return_on_no_rows,  // a rank whose experts got no row leaves before the exchange
  aux_scaled_by_group,      // balance losses count once per rank that shares the micro-batch
  own_token_count,          // a rank divides by its own tokens, not by those of all
  local_positions,          // rotary embedding by the place on this rank, not in the sequence
  stale_replicas            // updated shards stay where they are
};
inline constexpr std::array<std::string_view, 9> mutant_names{"skipped_tp_sum",  "expert_gradients_by_edp", "norm_counts_replicas",
                                                              "swapped_axes",    "early_return_on_no_rows", "aux_scaled_by_group",
                                                              "own_token_count", "local_positions",         "stale_replicas"};

#if MOEFOLD_HAS_MUTANTS

namespace detail {
/// Which one MOEFOLD_MUTANT names, as its place among the names; -1: none. Ends the program at a name that is none of them.
inline int chosen_mutant() {
  static const int chosen = [] {
    const char* const name = std::getenv("MOEFOLD_MUTANT");
    if (name == nullptr) return -1;
    for (std::size_t i = 0; i < mutant_names.size(); ++i)
      if (mutant_names[i] == name) return int(i);
    std::fprintf(stderr, "moefold: MOEFOLD_MUTANT is '%s', which is none of moefold::mutant_names\n", name);
    std::_Exit(3);
  }();
  return chosen;
}
}  // namespace detail

constexpr bool mutated(mutant m) { return !std::is_constant_evaluated() && detail::chosen_mutant() == int(m); }

#else

constexpr bool mutated(mutant) { return false; }

#endif

}  // namespace moefold
