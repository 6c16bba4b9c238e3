#pragma once
// A search as one JSON object, for programs that compare plans. Names and meanings stay; new ones may come beside them.
//
//   {"model": "mixtral-8x22b", "gpus": 128, "cluster": "dgx-h100", "sequence": 4096, "global_batch": 256, "strategy": "folding", "precision": "bf16",
//    "plans": [{"tp": 2, "cp": 1, "dp": 8, "pp": 8, "etp": 1, "ep": 8, "edp": 2, "vpp": 7, "micro_batch": 1, "recompute": "none",   best first
//               "step_seconds": 9.71, "mfu": 49.3, "mfu_causal": 47.6, "tflops": 488, "memory_bytes": 74900000000, "fits": true,
//               "exposed": {"tp": 0.03, "ep": 0.041, ...}, "time_seconds": {"gemm": 7.2, ...}, "memory": {"parameters": ..., ...},
//               "goodput": {"ettr": 0.98, ...}}, ...],
//    "refused": [{"mapping": {"tp": 16, ...}, "reason": "...", "mappings": 3}, ...], "units": {...}, "assumptions": ["...", ...], ...}
//   mfu, mfu_causal   percent of the bf16 peak: 49.3         exposed        share of the step that waits, 0 to 1
//   tflops            per GPU, full attention                memory_bytes   of the fullest GPU, all kinds together
// A refused mapping names the numbers that play a part in the reason; goodput is there where the cluster says how
// often GPUs fail; `recompute` is none, full, or parts joined by +.
#include <moefold/checkpoint/json.hpp>
#include <moefold/plan/explain.hpp>

namespace moefold {

namespace detail {

inline void write_mapping(json_writer& out, const plan_mapping& m) {
  for (const auto& [name, number] : mapping_numbers)
    if (m.*number > 0) out.key(name).value(m.*number);
}

template <class Precision>
void write_goodput(json_writer& out, const plan_question& q, const prediction& p) {
  const goodput g = goodput_of<Precision>(q.job, q.cluster, p);
  if (!g.known) return;
  out.key("goodput").begin('{').key("ettr").value(g.ettr).key("mfu").value(100 * g.mfu).key("save_interval_steps").value(g.interval_steps);
  out.key("mtti_seconds").value(g.mtti_seconds).key("save_bytes").value(g.save_bytes).key("save_seconds").value(g.save_seconds).end();
}

template <class Precision>
void write_plan(json_writer& out, const plan_question& q, const prediction& p) {
  out.begin('{');
  write_mapping(out, p.mapping);
  out.key("recompute").value(recompute_word(p.mapping.recompute));
  out.key("step_seconds").value(p.step_seconds).key("mfu").value(100 * p.mfu).key("mfu_causal").value(100 * p.mfu_causal);
  out.key("tflops").value(p.tflops).key("memory_bytes").value(p.memory.total()).key("fits").value(p.fits);
  out.key("exposed").begin('{');
  for (const auto& [name, part] : exposed_parts) out.key(name).value(p.step_seconds > 0 ? p.time.*part / p.step_seconds : 0.0);
  out.end().key("time_seconds").begin('{');
  for (std::size_t i = 0; i < time_split::parts; ++i) out.key(time_split::names[i]).value(p.time.all()[i]);
  out.end().key("memory").begin('{');
  const plan_memory& m = p.memory;
  out.key("stage").value(m.stage).key("parameters").value(m.parameters).key("gradients").value(m.gradients);
  out.key("optimizer").value(m.optimizer).key("activations").value(m.activations).key("transient").value(m.transient);
  out.key("reserved").value(m.reserved).end();
  write_goodput<Precision>(out, q, p);
  out.end();
}

}  // namespace detail

/// The text, with a line break behind it. command: what was typed; empty: left out.
template <class Precision>
std::string to_json(const plan_question& q, const search_result& r, std::string_view command = {}) {
  json_writer out(1);
  const plan_job& j = q.job;
  out.begin('{');
  if (!command.empty()) out.key("command").value(command);
  out.key("version").value(MOEFOLD_VERSION).key("model").value(q.model).key("parameters").value(count_parameters(j.model));
  out.key("gpus").value(j.gpus).key("cluster").value(q.cluster.name).key("gpu").value(q.cluster.gpu.name);
  out.key("gpu_memory_bytes").value(q.cluster.gpu.memory).key("peak_flops").value(q.cluster.gpu.bf16_flops);
  out.key("sequence").value(j.sequence).key("global_batch").value(j.global_batch).key("strategy").value(name_of(j.strategy));
  out.key("precision").value(q.precision).key("capacity_percent").value(j.facts.tokens.percent).key("imbalance").value(j.imbalance);
  out.key("plans").begin('[');
  for (const prediction& p : r.plans) detail::write_plan<Precision>(out, q, p);
  out.end().key("refused").begin('[');
  for (const refused_mapping& m : r.refused) {
    out.begin('{').key("mapping").begin('{');
    detail::write_mapping(out, m.mapping);
    out.end().key("reason").value(detail::without_prefix(m.reason)).key("mappings").value(m.mappings).end();
  }
  out.end().key("legal").value(r.legal).key("fitting").value(r.fitting).key("search_seconds").value(r.seconds);
  out.key("units").begin('{').key("mfu").value("percent of the bf16 peak, full attention");
  out.key("mfu_causal")
      .value("percent of the bf16 peak, causal attention")
      .key("tflops")
      .value("1e12 model flops per GPU and second, full attention");
  out.key("exposed").value("share of step_seconds, 0 to 1").key("memory_bytes").value("bytes of the fullest GPU").end();
  out.key("assumptions").begin('[');
  for (const std::string& a : assumptions_of(q)) out.value(a);
  return out.end().end().text() + "\n";
}

}  // namespace moefold
