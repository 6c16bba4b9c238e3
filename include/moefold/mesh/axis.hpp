#pragma once
// The seven axes of parallelism: their names, as types and as values, and sets of them.
// Attention layers lie on tp x cp x dp x pp, MoE layers on etp x ep x edp x pp, over the same ranks.
//
//            type      tag        value          splits
//   tp<2>    axis      tag::tp    axis_id::tp    heads and hidden widths of attention (tensor)
//   cp<2>              tag::cp    axis_id::cp    the sequence (context)
//   dp<dyn>            tag::dp    axis_id::dp    the batch (data)
//   pp<2>              tag::pp    axis_id::pp    the layers (pipeline); the one axis both meshes share
//   etp<1>             tag::etp   axis_id::etp   the width of one expert
//   ep<8>              tag::ep    axis_id::ep    the experts
//   edp<dyn>           tag::edp   axis_id::edp   nothing: replicas of the experts
#include <moefold/core/error.hpp>

#include <bit>
#include <concepts>
#include <cstdint>
#include <string>

namespace moefold {

inline constexpr extent_t dyn = -1;  // this extent is filled in from the world size, at start-up

enum class axis_id : std::uint8_t { tp, cp, dp, pp, etp, ep, edp };
inline constexpr int axis_count = 7;

constexpr const char* name_of(axis_id axis) {
  switch (axis) {
    case axis_id::tp: return "tp";
    case axis_id::cp: return "cp";
    case axis_id::dp: return "dp";
    case axis_id::pp: return "pp";
    case axis_id::etp: return "etp";
    case axis_id::ep: return "ep";
    case axis_id::edp: return "edp";
  }
  return "?";
}

// clang-format off
namespace tag {
struct tp { static constexpr axis_id id = axis_id::tp; };
struct cp { static constexpr axis_id id = axis_id::cp; };
struct dp { static constexpr axis_id id = axis_id::dp; };
struct pp { static constexpr axis_id id = axis_id::pp; };
struct etp { static constexpr axis_id id = axis_id::etp; };
struct ep { static constexpr axis_id id = axis_id::ep; };
struct edp { static constexpr axis_id id = axis_id::edp; };
}  // namespace tag
// clang-format on

MOEFOLD_RULE(axis_ranks, ranks, least, ranks >= least, "moefold: an axis has at least 1 rank; leave the axis out or write 1")

template <class Tag, extent_t N>
struct axis : check_axis_ranks<N == dyn ? 1 : N, 1> {
  using tag = Tag;
  static constexpr extent_t extent = N;  // or dyn
};

// clang-format off
template <extent_t N> using tp = axis<tag::tp, N>;
template <extent_t N> using cp = axis<tag::cp, N>;
template <extent_t N> using dp = axis<tag::dp, N>;
template <extent_t N> using pp = axis<tag::pp, N>;
template <extent_t N> using etp = axis<tag::etp, N>;
template <extent_t N> using ep = axis<tag::ep, N>;
template <extent_t N> using edp = axis<tag::edp, N>;
// clang-format on

/// A set of axes: a small value, usable as a template argument.
struct axis_set {
  std::uint8_t bits = 0;  // bit i: the axis with id i; public so that the type is structural

  constexpr axis_set() = default;
  template <std::same_as<axis_id>... Ids>
  constexpr axis_set(Ids... ids) : bits(std::uint8_t((0u | ... | (1u << unsigned(ids))))) {}

  constexpr bool contains(axis_id axis) const { return (bits >> unsigned(axis)) & 1u; }
  constexpr bool contains(axis_set other) const { return (other.bits & ~bits) == 0; }
  constexpr bool empty() const { return bits == 0; }
  constexpr int count() const { return std::popcount(bits); }
  constexpr axis_set without(axis_set other) const { return from_bits(bits & ~other.bits); }

  friend constexpr axis_set operator|(axis_set a, axis_set b) { return from_bits(a.bits | b.bits); }
  friend constexpr axis_set operator&(axis_set a, axis_set b) { return from_bits(a.bits & b.bits); }
  friend constexpr axis_set operator-(axis_set a, axis_set b) { return a.without(b); }
  friend constexpr bool operator==(const axis_set&, const axis_set&) = default;

  /// "cp x dp", in the order of axis_id; "none" for the empty set.
  std::string name() const {
    std::string out;
    for (int i = 0; i < axis_count; ++i)
      if (contains(axis_id(i))) out += (out.empty() ? "" : " x ") + std::string(name_of(axis_id(i)));
    return out.empty() ? "none" : out;
  }

 private:
  static constexpr axis_set from_bits(int bits) {
    axis_set set;
    set.bits = std::uint8_t(bits);
    return set;
  }
};

template <class... Tags>
inline constexpr axis_set set_of = axis_set(Tags::id...);

// The two families. A parameter is placed on one of them; a folding has one mesh of each.
struct attention_axes {
  static constexpr axis_set axes = set_of<tag::tp, tag::cp, tag::dp, tag::pp>;
};
struct moe_axes {
  static constexpr axis_set axes = set_of<tag::etp, tag::ep, tag::edp, tag::pp>;
};

}  // namespace moefold
