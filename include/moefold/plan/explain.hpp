#pragma once
// Why a plan is what it is: over which nodes its groups lie, what a layer sends over which link, where memory and time go, what the prediction assumes, and
// what would change it. All numbers come from the same calls as the plan's own.
//
//   axis  ranks  nodes  link     forward   backward   alone      of a layer and micro-batch; alone: with nothing to hide behind
//   ep        8      1  inside   88.1 MB    88.1 MB  0.6 ms
#include <moefold/plan/goodput.hpp>
#include <moefold/plan/report.hpp>

namespace moefold {

/// What one rank sends over one axis: for one layer and micro-batch, or between stages, or once a step.
struct axis_traffic {
  axis_set axes{};
  double forward = 0, backward = 0;  // bytes
  double seconds = 0;                // of all its calls one behind the other
  extent_t calls = 0;

  std::string axis() const { return axes.empty() ? "world" : axes.name(); }
};

/// In the order of first use.
class traffic_by_axis {
 public:
  explicit traffic_by_axis(const plan_question& q, const plan_mapping& m) : q_(q), m_(m) {}

  void add(const traffic_call& call, bool forward) {
    if (call.ranks <= 1 || call.count <= 0 || call.times <= 0) return;
    auto at = std::find_if(all_.begin(), all_.end(), [&](const axis_traffic& t) { return t.axes == call.axes; });
    if (at == all_.end()) at = all_.insert(at, axis_traffic{call.axes});
    (forward ? at->forward : at->backward) += double(call.bytes());
    at->seconds += seconds_of(call, q_.job, q_.cluster, m_);
    at->calls += call.times;
  }
  const std::vector<axis_traffic>& all() const { return all_; }

 private:
  const plan_question& q_;
  const plan_mapping& m_;
  std::vector<axis_traffic> all_;
};

/// Of one MoE layer (of a dense one in a model without) and one micro-batch.
template <class Precision>
std::vector<axis_traffic> layer_traffic(const plan_question& q, const plan_mapping& m) {
  traffic_by_axis traffic(q, m);
  const activation_shape a = shape_of(q.job, m);
  const bool dense = q.job.model.moe_layers() == 0;
  for (const traffic_pass pass : {traffic_pass::forward, traffic_pass::backward})
    for_each_block_call<Precision>(a, dense, pass, [&](const traffic_call& c) { traffic.add(c, pass == traffic_pass::forward); });
  return traffic.all();
}
/// Of one stage for one micro-batch, besides its layers.
template <class Precision>
std::vector<axis_traffic> stage_traffic(const plan_question& q, const plan_mapping& m, extent_t stage) {
  traffic_by_axis traffic(q, m);
  const activation_shape a = shape_of(q.job, m);
  for (const traffic_pass pass : {traffic_pass::forward, traffic_pass::backward})
    for_each_stage_call<Precision>(a, stage, pass, [&](const traffic_call& c) { traffic.add(c, pass == traffic_pass::forward); });
  return traffic.all();
}
/// Once a step: gradients (backward) and weights (forward), numbers.
template <class Precision>
std::vector<axis_traffic> step_traffic_by_axis(const plan_question& q, const plan_mapping& m, extent_t stage) {
  traffic_by_axis traffic(q, m);
  for_each_step_call<Precision>(shape_of(q.job, m), stage, q.job.bucket,
                                [&](const traffic_call& c) { traffic.add(c, c.op == operation::all_gather); });
  return traffic.all();
}

/// How a changed machine changes a step.
struct sensitivity {
  std::string what;
  double step_seconds = 0, mfu = 0;
};

namespace detail {

/// f(name, cluster) for the cluster with one of its constants 10 % better at a time.
template <class F>
void for_each_better(const cluster_spec& cluster, F&& f) {
  const auto with = [&](const char* name, auto&& change) {
    cluster_spec c = cluster;
    change(c);
    f(name, c);
  };
  with("GPU peak", [](cluster_spec& c) { c.gpu.bf16_flops *= 1.1, c.gpu.fp8_flops *= 1.1; });
  with("memory bandwidth", [](cluster_spec& c) { c.gpu.hbm_bytes *= 1.1; });
  with("links inside a node", [](cluster_spec& c) { c.inside = c.inside.faster(1.1); });
  with("links between nodes", [](cluster_spec& c) { c.between = c.between.faster(1.1); });
  with("latencies", [](cluster_spec& c) { c.inside.latency /= 1.1, c.between.latency /= 1.1, c.efficiency.launch /= 1.1; });
}

inline std::string ranks_text(const std::vector<extent_t>& ranks) {
  std::string out = "{";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks.size() > 8 && i == 3) {
      out += " ...";
      i = ranks.size() - 1;
    }
    out += sentence(i ? " " : "", ranks[i]);
  }
  return out + "}";
}

/// How the members of a group over one axis are numbered, as span_of counts them: expert groups of tied strategies lie TP * CP apart.
inline std::vector<group_digit> digits_of(const plan_job& job, const plan_mapping& m, axis_id axis) {
  const extent_t apart = m.tp * m.cp;
  if (ties_experts(job.strategy) && axis == axis_id::ep) return {{m.ep, apart}};
  if (ties_experts(job.strategy) && axis == axis_id::edp) return {{m.cp, m.tp}, {m.edp / m.cp, apart * m.ep}};
  const folding_extents fold = folding_of(job, m);
  const extents& mesh = axis == axis_id::etp || axis == axis_id::ep || axis == axis_id::edp ? fold.moe : fold.attention;
  return {{mesh.of(axis), mesh.stride(axis)}};
}

/// Where a rank is in its group over one axis.
struct place_in_group {
  extent_t first = 0, index = 0;  // the group's first rank, and the rank's number in it
};
inline place_in_group place_of(const plan_job& job, const plan_mapping& m, axis_id axis, extent_t rank) {
  place_in_group place{rank, 0};
  extent_t weight = 1;
  for (const group_digit& d : digits_of(job, m, axis)) {
    const extent_t digit = rank / d.stride % d.count;
    place.first -= digit * d.stride, place.index += digit * weight, weight *= d.count;
  }
  return place;
}
/// The group of rank 0, ascending.
inline std::vector<extent_t> first_group(const plan_job& job, const plan_mapping& m, axis_id axis) {
  std::vector<extent_t> ranks;
  for (extent_t rank = 0; rank < m.gpus(); ++rank)
    if (place_of(job, m, axis, rank).first == 0) ranks.push_back(rank);
  return ranks;
}

inline const char* link_name(const group_span& span) { return span.ranks <= 1 ? "-" : span.nodes() > 1 ? "between" : "inside"; }

inline std::string groups_text(const plan_question& q, const plan_mapping& m) {
  text_table table({"axis", "ranks", "nodes of a group", "link", "first group"});
  for (int i = 0; i < axis_count; ++i) {
    const axis_id axis = axis_id(i);
    const group_span span = span_of(q.job, q.cluster, m, axis);
    if (span.ranks > 1)
      table.row({name_of(axis), std::to_string(span.ranks), std::to_string(span.nodes()), link_name(span),
                 ranks_text(first_group(q.job, m, axis))});
  }
  return table.text();
}

inline void add_rows(text_table& table, const plan_question& q, const plan_mapping& m, const std::vector<axis_traffic>& all,
                     const char* when) {
  for (const axis_traffic& t : all) {
    const group_span span = span_of(q.job, q.cluster, m, t.axes);
    table.row({t.axis(), when, std::to_string(span.ranks), std::to_string(span.nodes()), link_name(span), std::to_string(t.calls),
               gigabytes_text(t.forward), gigabytes_text(t.backward), seconds_text(t.seconds)});
  }
}

inline std::string memory_text(const plan_question& q, const plan_memory& m) {
  text_table table({"memory of a GPU of stage " + std::to_string(m.stage), "", "share"});
  const auto row = [&](const char* name, extent_t bytes) {
    table.row({name, gigabytes_text(double(bytes)), percent_text(double(bytes) / double(q.cluster.gpu.memory)) + " %"});
  };
  row("parameters", m.parameters), row("gradients", m.gradients), row("optimizer", m.optimizer), row("activations", m.activations);
  row("transient", m.transient), row("reserved", m.reserved);
  table.rule();
  row("total", m.total()), row("left", q.cluster.gpu.memory - m.total());
  return table.text();
}

inline std::string time_text(const prediction& p) {
  std::vector<std::pair<double, std::size_t>> parts;
  const auto all = p.time.all();
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i] > 0) parts.push_back({all[i], i});
  std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  text_table table({"time of a step", "", "share"});
  for (const auto& [seconds, i] : parts)
    table.row({time_split::names[i], seconds_text(seconds), percent_text(seconds / p.step_seconds) + " %"});
  table.rule();
  table.row({"total", seconds_text(p.step_seconds), percent_text(p.time.total() / p.step_seconds) + " %"});
  return table.text();
}

}  // namespace detail

namespace detail {

/// What failures leave of it, in two sentences; nothing where the cluster does not say how often they come.
template <class Precision>
std::string goodput_text(const plan_question& q, const prediction& p) {
  const goodput g = goodput_of<Precision>(q.job, q.cluster, p);
  if (!g.known) return {};
  return sentence("a failure every ", long_time_text(g.mtti_seconds), " somewhere: save every ", g.interval_steps, " steps (",
                  long_time_text(g.interval_seconds), "), ", gigabytes_text(g.save_bytes_per_gpu), " from the GPU that writes most, ",
                  gigabytes_text(g.save_bytes), " in all\n") +
         printed("%.2f %% of the time ends in steps that count (saving %.2f %%, work done twice %.2f %%, restarts %.2f %%): MFU %.1f %%\n",
                 100 * g.ettr, 100 * g.saving, 100 * g.lost, 100 * g.restarting, 100 * g.mfu);
}

}  // namespace detail

/// What the numbers rest on, a sentence each.
inline std::vector<std::string> assumptions_of(const plan_question& q) {
  using detail::printed;
  const plan_job& j = q.job;
  const efficiency_spec& e = q.cluster.efficiency;
  std::vector<std::string> list;
  list.push_back(j.facts.tokens.drops() ? "experts have a capacity: " + describe(j.facts.tokens) + "; they are taken to be full"
                 : j.imbalance == 1     ? "routing is even: every rank's experts get the same number of rows"
                                        : printed("the busiest rank's experts get %.2f times the mean of rows", j.imbalance));
  list.push_back(sentence("schedule: ",
                          j.schedule == plan_schedule::one_f_one_b   ? "1F1B, interleaved where vpp is above 1"
                          : j.schedule == plan_schedule::zero_bubble ? "zero bubble"
                                                                     : "zero bubble H1",
                          "; layers over stages: ", describe(j.layers)));
  list.push_back(shards_weights(j.strategy)
                     ? "weights, gradients and optimizer state in shards over all replicas; weights gathered forward and backward"
                     : "weights and gradients whole on every replica, optimizer state in shards (ZeRO-1)");
  list.push_back(printed("a large matrix product reaches %.0f %% of the peak, a streaming kernel %.0f %% of the memory bandwidth",
                         100 * e.gemm, 100 * e.hbm));
  if (q.cluster.efficiency.grouped < 1)
    list.push_back(
        printed("the products of experts, made by one kernel, reach %.0f %% of what single ones do", 100 * q.cluster.efficiency.grouped));
  list.push_back(printed("links reach %.0f %% (inside) and %.0f %% (between) of their bandwidth", 100 * q.cluster.inside.share,
                         100 * q.cluster.between.share));
  list.push_back(printed("hidden behind computation: tp %.0f %%, cp %.0f %%, ep %.0f %%, dp and edp %.0f %% of it", 100 * e.hide_tp,
                         100 * e.hide_cp, 100 * e.hide_ep, 100 * e.hide_dp));
  list.push_back("ranks are placed in order on the nodes: tp, cp, dp, pp and etp, ep, edp, pp, the first innermost");
  list.push_back(sentence("of each GPU's memory ", gigabytes_text(double(q.cluster.reserved)),
                          " are set aside for its context, communicators and fragmentation"));
  return list;
}

/// One plan in full.
template <class Precision>
std::string explain(const plan_question& q, const prediction& p) {
  using namespace detail;
  const plan_mapping& m = p.mapping;
  std::string out =
      describe(m) + "\n" +
      sentence(micro_batches_of(q.job, m), " micro-batches of ", m.micro_batch, " a step; ", seconds_text(p.step_seconds), ", MFU ",
               percent_text(p.mfu), " % (causal ", percent_text(p.mfu_causal), " %), ", printed("%.0f", p.tflops), " TFLOP/s per GPU\n\n");
  out += groups_text(q, m);
  text_table traffic({"sent by a rank over", "for each", "ranks", "nodes", "link", "calls", "forward", "backward", "alone"});
  add_rows(traffic, q, m, layer_traffic<Precision>(q, m), "layer, micro-batch");
  add_rows(traffic, q, m, stage_traffic<Precision>(q, m, m.pp - 1), "last stage, micro-batch");
  if (!shards_weights(q.job.strategy)) add_rows(traffic, q, m, step_traffic_by_axis<Precision>(q, m, p.memory.stage), "step");
  out += "\n" + traffic.text() + "alone: with nothing to hide behind; a step's forward is weights, its backward gradients\n";
  out += "\n" + memory_text(q, p.memory) + "\n" + time_text(p);

  text_table better({"10 % better", "step", "MFU"});
  for_each_better(q.cluster, [&](const char* what, const cluster_spec& c) {
    const prediction other = predict<Precision>(q.job, c, m);
    const double paper = other.tflops * 1e12 / q.cluster.gpu.bf16_flops;  // of today's peak
    better.row({what, printed("%+.2f %%", 100 * (other.step_seconds / p.step_seconds - 1)), printed("%+.2f", 100 * (paper - p.mfu))});
  });
  out += "\n" + better.text();
  if (!q.job.facts.tokens.drops()) {
    const double most = largest_imbalance<Precision>(q.job, m, q.cluster.gpu.memory - q.cluster.reserved);
    const double worst = double(shape_of(q.job, m).worst_rows()) / double(shape_of(q.job, m).balanced_rows());
    out += most >= worst ? std::string("any routing fits, also the worst\n")
         : most > 0 ? printed("fits while the busiest rank's experts get at most %.2f times the mean of rows (the worst routing: %.2f)\n",
                              most, worst)
                    : std::string("does not fit with any routing\n");
  }
  out += goodput_text<Precision>(q, p);
  out += "\nassumed\n";
  for (const std::string& a : assumptions_of(q)) out += "  " + a + "\n";
  return out;
}

}  // namespace moefold
