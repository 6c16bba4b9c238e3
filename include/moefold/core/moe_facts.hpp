#pragma once
// What a MoE layer lets its user choose, as plain numbers: which pairs are kept, how the load is balanced, how tokens travel. The policies of
// moe/ are types that carry these values; the inventory counts memory and traffic from them without knowing the types.
//
//   token_rule       dropless (percent 0), or capacity: C = ceil(percent * T * k / (100 * E)) rows per expert and token set
//   balance_losses   coefficients of the auxiliary losses; 0: off
#include <moefold/core/error.hpp>

#include <algorithm>
#include <array>
#include <string>

namespace moefold {

/// Which (token, expert) pairs a layer keeps.
struct token_rule {
  extent_t percent = 0;        // of the even share; 0: dropless, every pair is kept
  bool full_sequence = false;  // the set is the whole micro-batch over TP x CP; else this rank's tokens
  bool by_position = false;    // keep the first C in token order; else the C with the largest weights
  bool padded = false;         // every expert gets exactly min(C, n) rows of each source rank, empty ones filled with zeros

  constexpr bool drops() const { return percent > 0; }
  /// C of a set of `tokens` tokens. Exact in 64 bits up to 2^31 tokens, k = 256 and 10^5 percent.
  constexpr extent_t capacity(extent_t tokens, extent_t top_k, extent_t experts) const {
    return (percent * tokens * top_k + 100 * experts - 1) / (100 * experts);
  }
  /// Rows that every expert gets of a source rank with n of the set's `tokens` tokens, when padded.
  constexpr extent_t padded_rows(extent_t n, extent_t tokens, extent_t top_k, extent_t experts) const {
    return std::min(capacity(tokens, top_k, experts), n);
  }
  constexpr bool operator==(const token_rule&) const = default;
};

/// Coefficients of the auxiliary losses, which may be combined, and the step of the expert bias. Perfect balance gives a loss of exactly its coefficient.
///   L = c * E / (k * T^2) * sum over e of N_e * P_e, over a set of T tokens (semantics: padding does not count)
struct balance_losses {
  double micro_batch = 0;     // the set is the micro-batch over TP x CP
  double sequence = 0;        // each sequence by itself
  double global = 0;          // shares of the previous step instead of N_e: the same in every mapping, no communication
  double global_running = 0;  // shares of micro-batches 0..m of all DP ranks, as Megatron-Core does; depends on DP * B
  double z = 0;               // times logsumexp(logits)^2, mean over tokens
  double bias_step = 1e-3;    // u of the expert bias, where the model has one

  constexpr bool counts_sets() const { return micro_batch > 0 || sequence > 0; }
  constexpr bool any_load() const { return counts_sets() || global > 0 || global_running > 0; }
  constexpr bool any() const { return any_load() || z > 0; }
  constexpr bool operator==(const balance_losses&) const = default;
};

/// The losses in one order: coefficients, sums and names go by index.
inline constexpr std::size_t balance_kinds = 5;
using balance_values = std::array<double, balance_kinds>;
inline constexpr std::array<const char*, balance_kinds> balance_names = {"micro_batch", "sequence", "global", "global_running", "z"};
constexpr balance_values coefficients(const balance_losses& b) { return {b.micro_batch, b.sequence, b.global, b.global_running, b.z}; }

constexpr bool coefficient_holds(double c) { return c >= 0 && c < 1e300; }
constexpr bool holds(const balance_losses& b) {
  bool all = coefficient_holds(b.bias_step);
  for (const double c : coefficients(b)) all = all && coefficient_holds(c);
  return all;
}
constexpr void check(const balance_losses& b) {
  for (const double c : coefficients(b))
    require<config_error>(coefficient_holds(c), "moefold: coefficients of balance losses are finite and 0 (off) or above (given ", c, ")");
  require<config_error>(coefficient_holds(b.bias_step), "moefold: the bias step is finite and 0 (off) or above (given ", b.bias_step, ")");
}

/// How tokens reach their experts, as far as traffic and memory depend on it.
enum class dispatch_kind : std::uint8_t { all_to_all, all_gather, other };

struct moe_facts {
  token_rule tokens{};
  balance_losses balance{};
  double jitter = 0;  // the router's input is multiplied by U(1 - jitter, 1 + jitter), in training
  dispatch_kind dispatch = dispatch_kind::all_to_all;
  constexpr bool operator==(const moe_facts&) const = default;
};

constexpr bool jitter_holds(double jitter) { return jitter >= 0 && jitter < 1; }
constexpr void check(const moe_facts& f) {
  check(f.balance);
  require<config_error>(jitter_holds(f.jitter), "moefold: jitter lies in [0, 1) (given ", f.jitter, "); 0.01 is usual, 0 is off");
  require<config_error>(f.tokens.percent >= 0 && f.tokens.percent <= 100000,
                        "moefold: a capacity lies between 1 and 100000 percent of the even share, 0 is dropless (given ", f.tokens.percent,
                        ")");
  require<config_error>(f.tokens.drops() || f.tokens == token_rule{},
                        "moefold: full_sequence, by_position and padded belong to a capacity; give it a percentage, 100 is the even share");
}

/// Whether a run of these choices is another one in another mapping: sub-sequence capacity looks at the tokens of one rank of TP x CP, the running
/// balance loss at the micro-batches of all DP ranks.
constexpr bool depends_on_mapping(const moe_facts& f, extent_t tp_cp, extent_t dp) {
  return (f.tokens.drops() && !f.tokens.full_sequence && tp_cp > 1) || (f.balance.global_running > 0 && dp > 1);
}

/// "dropless"; "capacity 125%, sub-sequence, by probability, padded"
inline std::string describe(const token_rule& rule) {
  if (!rule.drops()) return "dropless";
  return sentence("capacity ", rule.percent, "%, ", rule.full_sequence ? "full sequence" : "sub-sequence", ", by ",
                  rule.by_position ? "position" : "probability", rule.padded ? ", padded" : "");
}

/// "0.01 micro_batch + 0.001 z"; "none"
inline std::string describe(const balance_losses& b) {
  std::string text;
  for (std::size_t i = 0; i < balance_kinds; ++i)
    if (coefficients(b)[i] > 0) text += sentence(text.empty() ? "" : " + ", coefficients(b)[i], ' ', balance_names[i]);
  return text.empty() ? "none" : text;
}

constexpr const char* name_of(dispatch_kind kind) {
  return kind == dispatch_kind::all_to_all ? "all_to_all" : kind == dispatch_kind::all_gather ? "all_gather" : "a dispatcher of the user's";
}

}  // namespace moefold
