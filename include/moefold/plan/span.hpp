#pragma once
// Where the groups of a mapping lie on the nodes, and how long an operation over such a group takes: the slower of what travels inside the nodes and of
// what leaves them, both at the same time.
//
//   group of n ranks, `stride` apart; nodes of 8       stride 1, n 8:  one node         stride 2, n 8:  4 ranks on each of 2 nodes
//   all_gather, reduce_scatter, all_reduce             a ring through all ranks: a node's traffic leaves through the cards of all its ranks in the group
//   all_to_all                                         every rank sends to each peer by itself: (n - per_node) / (n - 1) of its bytes leave the node
#include <moefold/inventory/traffic_calls.hpp>
#include <moefold/plan/cluster.hpp>
#include <moefold/plan/mapping.hpp>

#include <array>

namespace moefold {

/// A group of ranks on nodes: the one that lies worst, as evenly over its nodes as whole ranks allow.
struct group_span {
  extent_t ranks = 1, per_node = 1;

  constexpr extent_t nodes() const { return (ranks + per_node - 1) / per_node; }
  constexpr bool operator==(const group_span&) const = default;
};

namespace detail {

struct group_digit {
  extent_t count = 1, stride = 1;
};

/// Nodes that the ranks 0, stride, .. of a group touch where it lies worst; groups of all ranks begin wherever the mesh puts them.
constexpr extent_t nodes_of(const group_digit& d, extent_t gpus_per_node) {
  const extent_t block = d.count * d.stride;
  if (gpus_per_node % block == 0) return 1;
  if (block % gpus_per_node == 0 && gpus_per_node % d.stride == 0) return block / gpus_per_node;
  return std::min(d.count, ((d.count - 1) * d.stride - 1) / gpus_per_node + 2);
}

/// The span of the ranks at sum of i * stride, for 0 <= i < count of each digit, strides ascending.
constexpr group_span span_of(std::span<const group_digit> digits, extent_t gpus_per_node) {
  group_span span;
  group_digit run;  // digits that continue each other, as one
  const auto take = [&](const group_digit& d) {
    span.ranks *= d.count;
    span.per_node *= d.count > 1 ? d.count / nodes_of(d, gpus_per_node) : 1;
  };
  for (const group_digit& d : digits) {
    if (d.count == 1) continue;
    if (run.count > 1 && run.count * run.stride == d.stride) {
      run.count *= d.count;
      continue;
    }
    take(run);
    run = d;
  }
  take(run);
  return span;
}

}  // namespace detail

/// The span of the group over some axes of a mapping: of one mesh; the empty set is the world. A strategy that ties the experts to DP has its expert groups
/// TP * CP apart.
constexpr group_span span_of(const plan_job& job, const cluster_spec& cluster, const plan_mapping& m, axis_set axes) {
  using enum axis_id;
  using digit = detail::group_digit;
  const auto of = [&](axis_id axis, extent_t count, extent_t stride) { return digit{axes.contains(axis) ? count : 1, stride}; };
  if (axes.empty()) axes = set_of<tag::tp, tag::cp, tag::dp, tag::pp>;
  const extent_t inside = m.tp * m.cp * m.dp;  // ranks of a stage
  if ((axes & set_of<tag::etp, tag::ep, tag::edp>).empty()) {
    const std::array<digit, 4> digits = {of(tp, m.tp, 1), of(cp, m.cp, m.tp), of(dp, m.dp, m.tp * m.cp), of(pp, m.pp, inside)};
    return detail::span_of(digits, cluster.gpus_per_node);
  }
  if (!ties_experts(job.strategy)) {
    const std::array<digit, 4> digits = {of(etp, m.etp, 1), of(ep, m.ep, m.etp), of(edp, m.edp, m.etp * m.ep), of(pp, m.pp, inside)};
    return detail::span_of(digits, cluster.gpus_per_node);
  }
  const std::array<digit, 5> digits = {of(etp, m.etp, 1), of(edp, m.cp, m.tp), of(ep, m.ep, m.tp * m.cp),
                                       of(edp, m.edp / m.cp, m.tp * m.cp * m.ep), of(pp, m.pp, inside)};
  return detail::span_of(digits, cluster.gpus_per_node);
}

/// Seconds of one call in which every rank of the group sends `bytes` (as core/traffic_rule.hpp counts them).
constexpr double seconds_of(operation op, double bytes, const group_span& span, const cluster_spec& cluster) {
  if (span.ranks <= 1 || bytes <= 0) return 0;
  const bool leaves = span.nodes() > 1, pairwise = op == operation::all_to_all || op == operation::all_to_all_v;
  const link_spec &in = cluster.inside, &out = cluster.between;
  if (op == operation::send) {
    const link_spec& link = leaves ? out : in;
    return link.latency + link.transfer(bytes);
  }
  double within = bytes, beyond = 0;  // of one rank
  if (pairwise) {
    beyond = bytes * double(span.ranks - span.per_node) / double(span.ranks - 1);
    within = bytes - beyond;
  } else if (leaves) {  // the node receives what all ranks of other nodes hold, over the cards of its own ranks
    const double whole = bytes * double(span.ranks) / double(span.ranks - 1), nodes = double(span.nodes());
    beyond = whole * (nodes - 1) / nodes / double(span.per_node);
    if (span.per_node == 1) within = 0;
  }
  const double inner = within > 0 ? in.transfer(within) : 0;
  const double outer = leaves ? out.transfer(beyond) : 0;
  return (leaves ? out.latency : in.latency) + std::max(inner, outer);
}
/// Seconds of all `times` of a call of the inventory, one behind the other.
constexpr double seconds_of(const traffic_call& call, const plan_job& job, const cluster_spec& cluster, const plan_mapping& m) {
  const double bytes = double(bytes_sent(call.op, std::uint64_t(call.ranks), std::uint64_t(call.count), std::uint64_t(call.size)));
  return double(call.times) * seconds_of(call.op, bytes, span_of(job, cluster, m, call.axes), cluster);
}
/// Seconds until the next stage has what one sends it.
template <class Precision>
constexpr double message_seconds(const plan_job& job, const cluster_spec& cluster, const plan_mapping& m, const activation_shape& a) {
  const double bytes = double(a.rows() * job.model.hidden * extent_t(sizeof(typename Precision::storage)));
  return m.pp > 1 ? seconds_of(operation::send, bytes, span_of(job, cluster, m, axis_id::pp), cluster) : 0;
}

}  // namespace moefold
