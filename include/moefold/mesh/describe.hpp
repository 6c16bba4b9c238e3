#pragma once
// A folding as text: every axis with its groups of ranks, over which axes of attention each axis of MoE is folded,
// and over which ranks gradients are summed. Plain text, at most about 100 columns, at any world size.
#include <moefold/mesh/group.hpp>
#include <moefold/mesh/placement.hpp>

#include <algorithm>

namespace moefold {

/// The attention axes whose position changes inside some group of a MoE axis: ep over tp x cp means that EP is folded there.
constexpr axis_set folded_over(const folding_extents& f, axis_id moe_axis) {
  const extent_t n = f.moe.of(moe_axis), step = f.moe.stride(moe_axis), reach = n * step;
  axis_set over;
  for (const axis_extent& a : f.attention.list()) {
    const extent_t stride = f.attention.stride(a.axis), whole = stride * a.ranks;
    const bool steps_by_whole_turns = step % whole == 0, stays_below = stride % reach == 0;
    if (n > 1 && a.ranks > 1 && !steps_by_whole_turns && !stays_below) over = over | a.axis;
  }
  return over;
}

namespace detail {

inline std::string text_of(const group& g) {  // {0 1 2 3}, or {0 1 2 … 63}
  std::string out = "{";
  for (extent_t i = 0; i < g.size(); ++i) {
    if (g.size() > 8 && i == 3) {
      out += " …";
      i = g.size() - 1;
    }
    out += sentence(i ? " " : "", g[i]);
  }
  return out + "}";
}

inline std::string text_of(const group_list& all, std::size_t columns) {
  if (all.size() == all.ranks()) return all.ranks() == 1 ? "{0}" : "each rank alone";
  std::string out;
  for (extent_t i = 0; i < all.size(); ++i) {
    const std::string next = text_of(all[i]), rest = sentence(" …, ", all.size(), " groups");
    const bool last = i + 1 == all.size();
    if (i > 0 && out.size() + next.size() + (last ? 0 : rest.size()) > columns) return out + rest;
    out += (i ? " " : "") + next;
  }
  return out;
}

inline std::string left(std::string text, std::size_t columns) {
  text.resize(std::max(columns, text.size()), ' ');
  return text;
}
inline std::string right(extent_t number, std::size_t columns) {
  const std::string digits = std::to_string(number);
  return std::string(digits.size() < columns ? columns - digits.size() : 0, ' ') + digits;
}

inline std::string describe_mesh(const char* name, const extents& mesh) {
  std::string out;
  const char* heading = name;
  for (const axis_extent& a : mesh.list()) {
    out += left(heading, 16) + left(name_of(a.axis), 14) + right(a.ranks, 8) + "   " + text_of(groups(mesh, a.axis), 56) + "\n";
    heading = "";
  }
  return out;
}

inline std::string describe_sum(const char* name, const folding_extents& f, const placement_value& where) {
  const group_list all = groups(where.mesh_of(f), where.replicas());
  return left(name, 16) + left(where.replicas().name(), 14) + right(all[0].size(), 8) + "   " + text_of(all, 56) + "\n";
}

}  // namespace detail

/// The table the train program prints before it starts; ends with a newline.
inline std::string describe(const folding_extents& f) {
  using namespace detail;
  std::string out = left("", 16) + left("axis", 14) + "   ranks   groups\n";
  out += describe_mesh("attention", f.attention) + describe_mesh("MoE", f.moe);
  const axis_set all_but_pp = f.attention.axes() - axis_set(axis_id::pp);
  out += left("one stage", 16) + left("all but pp", 14) + right(f.attention.of(all_but_pp), 8) + "   " +
         text_of(groups(f.attention, all_but_pp), 56) + "\n";
  out += "gradients are summed over\n";
  out += describe_sum("  attention", f, {family::attention, {{axis_id::tp, 0}}});
  out += describe_sum("  norm, router", f, {family::attention, {}});
  out += describe_sum("  experts", f, {family::moe, {{axis_id::ep, 0}, {axis_id::etp, 1}}});
  for (axis_id axis : {axis_id::ep, axis_id::etp})
    if (const axis_set over = folded_over(f, axis); !over.empty()) out += sentence(name_of(axis), " is folded over ", over.name(), "\n");
  return out;
}

}  // namespace moefold
