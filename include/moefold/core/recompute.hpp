#pragma once
// What a block computes a second time in its backward pass instead of keeping it from its forward: memory for time. Plain numbers: the layers obey
// them, the inventory counts from them what is kept, what is set aside once per rank for the recomputation, and what travels again.
//
//   part             no longer kept                                   computed again
//   norms            the two normed inputs [rows, H]                  two norms; those of query and key heads keep what they need
//   activation       act [R, F/ETP] and the shared expert's           silu * up
//   core_attention   out [T, q/TP] and log-sum-exp                    attention over the kept q, k, v; context parallelism communicates again
//   moe              all that the MoE layer keeps                     router, dispatch, experts and combine, their traffic too
//   full             all but the block's input                        the block
//
//   static constexpr auto recompute = moefold::selective<recompute_part::norms, recompute_part::activation>;      none and full are rules too
// Source: Korthikanti et al. 2022, arXiv 2205.05198 (selective recomputation). Gradients keep every bit.
#include <moefold/core/error.hpp>

#include <string>

namespace moefold {

enum class recompute_part : std::uint8_t { norms, activation, core_attention, moe };
inline constexpr std::size_t recompute_parts = 4;
constexpr const char* name_of(recompute_part part) {
  constexpr const char* names[recompute_parts] = {"norms", "activation", "core_attention", "moe"};
  return names[std::size_t(part)];
}

struct recompute_rule {
  std::uint8_t parts = 0;  // a bit for each recompute_part
  bool full = false;       // the whole block: parts make no difference then

  constexpr bool any() const { return full || parts != 0; }
  /// Whether the part is recomputed by itself, inside a block that is not recomputed as a whole.
  constexpr bool has(recompute_part part) const { return !full && ((parts >> int(part)) & 1) != 0; }
  /// Whether the forward of the part runs twice.
  constexpr bool twice(recompute_part part) const { return full || has(part); }
  /// The rule without a part, where there is nothing of it.
  constexpr recompute_rule without(recompute_part part) const { return {std::uint8_t(parts & ~(1u << unsigned(part))), full}; }
  constexpr bool operator==(const recompute_rule&) const = default;
};

inline constexpr recompute_rule recompute_none{};
inline constexpr recompute_rule recompute_full{0, true};
template <recompute_part... Parts>
inline constexpr recompute_rule selective{std::uint8_t((0u | ... | (1u << unsigned(Parts)))), false};

/// "none"; "full"; "selective: norms, moe"
inline std::string describe(const recompute_rule& rule) {
  if (rule.full) return "full";
  std::string text;
  for (std::size_t i = 0; i < recompute_parts; ++i)
    if (rule.has(recompute_part(i))) text += sentence(text.empty() ? "selective: " : ", ", name_of(recompute_part(i)));
  return text.empty() ? "none" : text;
}

}  // namespace moefold
