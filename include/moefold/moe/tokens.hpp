#pragma once
// Which (token, expert) pairs a MoE layer keeps. A token policy is a small struct that carries a token_rule; its options are tags in any order.
//
//   dropless                                                every pair
//   capacity<125>                                           1.25 x the even share per expert and rank, largest weights first
//   capacity<100, full_sequence, by_position, padded>       per micro-batch over TP x CP, first tokens first, every expert the same number of rows
#include <moefold/core/moe_facts.hpp>
#include <moefold/moe/groups.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/ops/capacity.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/numbered_choices.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

// Options of capacity: what counts as the set of tokens, who is kept, and whether rows are filled up.
struct sub_sequence {};    // the tokens of one rank (the default): no communication
struct full_sequence {};   // all tokens of the micro-batch: the result does not depend on TP and CP
struct by_probability {};  // the largest weights (the default); ties: the lower token
struct by_position {};     // the first tokens
struct padded {};          // every expert gets exactly min(C, n) rows of each rank: shapes known before routing; n is the same on all ranks

MOEFOLD_RULE(
    capacity_percent, percent, most, percent >= 1 && percent <= most,
    "moefold: a capacity is given in percent of the even share, from 1 to 100000; 100 is the even share itself, dropless keeps all")
MOEFOLD_RULE(
    capacity_options, options, known, options == known,
    "moefold: the options of capacity are sub_sequence or full_sequence, by_probability or by_position, and padded, each at most once")

namespace detail {
template <class Tag, class... Options>
inline constexpr int times = (0 + ... + int(std::is_same_v<Tag, Options>));
}  // namespace detail

struct dropless {  // shapes follow the routing
  static constexpr token_rule rule{};
  static constexpr const char* name = "dropless";
};

template <unsigned Percent, class... Options>
struct capacity : check_capacity_percent<Percent, 100000>,
                  check_capacity_options<sizeof...(Options),
                                         (detail::times<sub_sequence, Options...> + detail::times<full_sequence, Options...> > 0) +
                                             (detail::times<by_probability, Options...> + detail::times<by_position, Options...> > 0) +
                                             (detail::times<padded, Options...> > 0)> {
  static constexpr token_rule rule{Percent, detail::times<full_sequence, Options...> == 1, detail::times<by_position, Options...> == 1,
                                   detail::times<padded, Options...> == 1};
  static constexpr const char* name = "capacity";
};

template <class P>
concept token_policy = requires {
  { P::rule } -> std::convertible_to<token_rule>;
  { P::name } -> std::convertible_to<const char*>;
};

static_assert(token_policy<dropless> && token_policy<capacity<100, padded, full_sequence>>);

/// The choices that the rule keeps; the weights are those of `choice`. Local, but for a full sequence, where every rank of `sequence` (TP x CP, all
/// with the same n) calls it: gathers numbers and choices [n, 1 + k] int32 and, by probability, weights [n, k].
template <class A, class Exec, class Arena, class Comm>
routing<A> keep_pairs(Exec e, const token_rule& rule, const routing<A>& choice, extent_t experts, const batch_place& place, Comm* sequence,
                      Arena& keep) {
  if (!rule.drops()) return choice;
  const extent_t n = choice.expert.extent(0), k = choice.expert.extent(1);
  routing<A> kept{keep.template take<std::int32_t>(n, k), choice.weight};
  const extent_t ranks = rule.full_sequence ? require_group(sequence, "sequence", "tp x cp", "full-sequence dropping").size() : 1;
  const extent_t tokens = ranks * n, capacity = rule.capacity(tokens, k, experts);
  if (rule.padded) kept.padded_rows = std::min(capacity, n);
  scratch local(e);
  const view<std::int32_t> number = local.template take<std::int32_t>(tokens);
  if (ranks == 1) {
    count_up(e, number);  // local order is token order
    keep_within_capacity(e, choice.expert, view<const A>(choice.weight), number, experts, capacity, rule.by_position, kept.expert);
    return kept;
  }
  require(place.part.sequence * place.batch == tokens, "moefold: full-sequence dropping over ", ranks, " ranks of ", n,
          " tokens needs to know which tokens these are; pass routing_context::place with the sequence (given ", place.part.sequence,
          "), the batch (given ", place.batch, ") and this rank's part of it");
  const view<std::int32_t> mine = local.template take<std::int32_t>(n, 1 + k), all = local.template take<std::int32_t>(tokens, 1 + k);
  number_choices(e, place, choice.expert, mine);
  sequence->all_gather(e, std::span<const std::int32_t>(mine.span()), all.span()).wait(e);
  const view<A> weight = local.template take<A>(rule.by_position ? 0 : tokens, k);
  if (!rule.by_position) sequence->all_gather(e, std::span<const A>(choice.weight.span()), weight.span()).wait(e);
  const view<std::int32_t> index = local.template take<std::int32_t>(tokens, k), result = local.template take<std::int32_t>(tokens, k);
  split_numbers(e, all, number, index);
  keep_within_capacity(e, index, view<const A>(weight), number, experts, capacity, rule.by_position, result);
  copy(e, view<const std::int32_t>(result.rows(sequence->rank() * n, n)), kept.expert);
  return kept;
}

}  // namespace moefold
