#pragma once
// The dispatcher concept: how tokens travel to the ranks that own their experts and back. dispatch returns a ticket that remembers the way;
// combine and both backward passes reuse it. The ticket's memory is the caller's arena, so a pipeline may hold several.
//
//   dispatch           x [n, H], choices      -> t.batch [R, H] grouped by local expert, t.weight [R], t.offsets [local experts + 1]
//   combine            expert output [R, H]   -> y [n, H], summed over the k slots of a token in slot order
//   combine_backward   dy [n, H]              -> d expert output [R, H]
//   dispatch_backward  d batch [R, H], d weight [R] -> dx [n, H] and d weight of the choices [n, k]
// Every rank of ep x etp calls each of the four, in this order, also with n = 0 or R = 0.
#include <moefold/core/exec.hpp>
#include <moefold/moe/routing.hpp>
#include <moefold/moe/tokens.hpp>
#include <moefold/tensor/arena.hpp>

#include <concepts>

namespace moefold {

template <class D, class Exec>
concept dispatcher = token_policy<typename D::tokens> &&
    requires(const D& d, Exec e, view<const typename D::value_type> in, view<typename D::value_type> out,
             const routing<typename D::weight_type>& r, view<const typename D::weight_type> dweight, view<typename D::weight_type> dchoice,
             arena& keep, const typename D::ticket& t) {
  { d.dispatch(e, in, r, keep) } -> std::same_as<typename D::ticket>;
  d.combine(e, in, out, t);
  d.combine_backward(e, in, out, t);
  d.dispatch_backward(e, in, dweight, out, dchoice, t);
  { t.batch } -> std::convertible_to<view<const typename D::value_type>>;
  { t.weight } -> std::convertible_to<view<const typename D::weight_type>>;
  { t.offsets } -> std::convertible_to<view<const std::int64_t>>;
};

}  // namespace moefold
