#pragma once
// The dispatcher concept: how tokens travel to the ranks that own their experts and back. dispatch returns a ticket that remembers the way;
// combine and both backward passes reuse it. The ticket's memory is the caller's arena, so a pipeline may hold several.
//
//   dispatch           x [n, H], choices      -> t.batch [R, H] grouped by local expert, t.weight [R], t.offsets [local experts + 1]
//   combine            expert output [R, H]   -> y [n, H], summed over the k slots of a token in slot order
//   combine_backward   dy [n, H]              -> d expert output [R, H]
//   dispatch_backward  d batch [R, H], d weight [R] -> dx [n, H] and d weight of the choices [n, k], 0 where a pair was dropped
// Every rank of ep x etp calls each of the four, in this order, also with n = 0 or R = 0. Rows of the batch stand by (local expert, ep source,
// etp source, token); with routing::padded_rows every expert has as many of every source, fillers with x = 0, weight = 0 and gradient 0.
// `meanwhile` is work that needs nothing of the travelling rows: the dispatcher calls it once, after it has started an exchange and before it waits.
// (Thread ranks finish an exchange where it starts: on the host the order shows what overlaps on streams.)
// The choices (routing::expert) must live as long as the ticket. Its tensors are memory of the exec; the host keeps only what collectives must be told.
#include <moefold/comm/communicator.hpp>
#include <moefold/core/exec.hpp>
#include <moefold/core/moe_facts.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/tensor/arena.hpp>

#include <concepts>
#include <numeric>

namespace moefold {

/// Nothing to do while rows travel.
struct idle {
  constexpr void operator()() const {}
};

/// Rows of all groups together; and rows of `width` elements each, counted in elements, as v-operations want them. Counts are host memory.
inline extent_t total_rows(view<const std::size_t> rows) { return extent_t(std::accumulate(rows.begin(), rows.end(), std::size_t{0})); }
template <class Exec>
std::span<const std::size_t> elements_of_rows(view<const std::size_t> rows, extent_t width, scratch<Exec>& local) {
  const view<std::size_t> counts = local.template take_host<std::size_t>(rows.extent(0));
  for (extent_t i = 0; i < rows.extent(0); ++i) counts(i) = rows(i) * std::size_t(width);
  return counts.span();
}

template <class D, class Exec>
concept dispatcher = requires(const D& d, Exec e, view<const typename D::value_type> in, view<typename D::value_type> out,
                              const routing<typename D::weight_type>& r, view<const typename D::weight_type> dweight,
                              view<typename D::weight_type> dchoice, basic_arena<typename Exec::memory>& keep, const typename D::ticket& t,
                              idle meanwhile) {
  { D::kind } -> std::convertible_to<dispatch_kind>;
  { d.dispatch(e, in, r, keep, meanwhile) } -> std::same_as<typename D::ticket>;
  d.combine(e, in, out, t);
  d.combine_backward(e, in, out, t, meanwhile);
  d.dispatch_backward(e, in, dweight, out, dchoice, t);
  { t.batch } -> std::convertible_to<view<const typename D::value_type>>;
  { t.weight } -> std::convertible_to<view<const typename D::weight_type>>;
  { t.offsets } -> std::convertible_to<view<const std::int64_t>>;
};

}  // namespace moefold
