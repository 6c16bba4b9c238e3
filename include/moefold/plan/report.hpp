#pragma once
// A search as people read it: what was asked in one line, the plans in a ranked table, why other mappings were refused, and what to do next. Times are of one
// step, memory is that of the fullest GPU, MFU is in percent of the bf16 peak with full attention, the paper's convention; `causal` counts half of attention.
//
//   #  tp  cp  dp  pp  etp  ep  edp  vpp  batch  recompute   memory    step   MFU  causal  TFLOP/s  tp %  ep %  bubble %
//   1   2   1   8   8    1   8    2    7      1       none  74.9 GB  9.71 s  49.3    47.6      488   3.0   4.1       3.1
#include <moefold/core/text_table.hpp>
#include <moefold/plan/cluster.hpp>
#include <moefold/plan/search.hpp>
#include <moefold/plan/words.hpp>

namespace moefold {

/// What was asked, with the names that it was asked by.
struct plan_question {
  std::string model;  // "mixtral-8x22b", or the file it was read from
  plan_job job{};
  cluster_spec cluster{};
  std::string precision = "bf16";
};

namespace detail {

/// "812 us", "9.7 ms", "9.71 s", "3m05s"
inline std::string seconds_text(double seconds) {
  if (!(std::abs(seconds) < 1e9)) return "-";
  if (seconds < 9.995e-4) return printed("%.0f us", seconds * 1e6);
  if (seconds < 0.9995) return printed(seconds < 0.09995 ? "%.1f ms" : "%.0f ms", seconds * 1e3);
  return seconds < 120 ? printed("%.2f s", seconds) : duration_text(seconds);
}
/// The same of what takes hours and days: "16.3 days"
inline std::string long_time_text(double seconds) {
  return seconds < 48 * 3600 ? seconds_text(seconds) : printed("%.1f days", seconds / 86400);
}
inline std::string percent_text(double share) { return printed("%.1f", 100 * share); }

/// The parts of a step that are waiting rather than computing.
inline constexpr std::array<std::pair<const char*, double time_split::*>, 8> exposed_parts = {{{"tp", &time_split::tp},
                                                                                               {"cp", &time_split::cp},
                                                                                               {"ep", &time_split::ep},
                                                                                               {"etp", &time_split::etp},
                                                                                               {"dp", &time_split::dp},
                                                                                               {"edp", &time_split::edp},
                                                                                               {"pp", &time_split::pp},
                                                                                               {"bubble", &time_split::bubble}}};

inline std::string without_prefix(std::string text) { return text.starts_with("moefold: ") ? text.substr(9) : text; }

}  // namespace detail

/// "mixtral-8x22b (141G parameters, 39.2G of them at work on a token) on 128 GPUs of dgx-h100 (H100 SXM 80GB)", and what of it is trained how.
inline std::string describe(const plan_question& q) {
  const plan_job& j = q.job;
  std::string text =
      sentence(q.model, " (", count_text(double(count_parameters(j.model))), " parameters, ",
               count_text(double(active_parameters(j.model))), " of them at work on a token) on ", j.gpus, j.gpus == 1 ? " GPU" : " GPUs",
               " of ", q.cluster.name, " (", q.cluster.gpu.name, ")\nsequence ", j.sequence, ", global batch ", j.global_batch, ", ",
               q.precision, ", ", describe(j.facts.tokens), ", strategy ", name_of(j.strategy));
  if (!j.facts.tokens.drops() && j.imbalance != 1) text += detail::printed(", imbalance %.2f", j.imbalance);
  return text;
}

/// The plans, best first. Columns of communication that no plan waits for are left out.
inline text_table table_of(const std::vector<prediction>& plans) {
  std::vector<std::pair<const char*, double time_split::*>> waits;
  for (const auto& part : detail::exposed_parts)
    if (std::any_of(plans.begin(), plans.end(), [&](const prediction& p) { return p.time.*part.second >= 5e-4 * p.step_seconds; }))
      waits.push_back(part);
  std::vector<std::string> head = {"#"};
  for (const auto& number : mapping_numbers) head.push_back(number.second == &plan_mapping::micro_batch ? "batch" : number.first);
  for (const char* name : {"recompute", "memory", "step", "MFU", "causal", "TFLOP/s"}) head.push_back(name);
  for (const auto& part : waits) head.push_back(sentence(part.first, " %"));
  text_table table(std::move(head));
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const prediction& p = plans[i];
    std::vector<std::string> cells = {std::to_string(i + 1)};
    for (const auto& number : mapping_numbers) cells.push_back(std::to_string(p.mapping.*number.second));
    cells.push_back(short_word(p.mapping.recompute));
    cells.push_back(gigabytes_text(double(p.memory.total())) + (p.fits ? "" : " !"));
    cells.push_back(detail::seconds_text(p.step_seconds));
    cells.push_back(detail::percent_text(p.mfu));
    cells.push_back(detail::percent_text(p.mfu_causal));
    cells.push_back(detail::printed("%.0f", p.tflops));
    for (const auto& part : waits) cells.push_back(detail::percent_text(p.time.*part.second / p.step_seconds));
    table.row(std::move(cells));
  }
  return table;
}

/// How many mappings were looked at, and why others were refused: the reasons that most share, and those that miss the memory by least.
inline std::string refused_text(const search_result& r, std::size_t most = 4) {
  std::vector<const refused_mapping*> forbidden, large;
  std::size_t broken = 0;
  for (const refused_mapping& m : r.refused) {
    const bool rule = m.reason.starts_with("moefold: ");
    (rule ? forbidden : large).push_back(&m);
    broken += rule ? m.mappings : 0;
  }
  std::string out = sentence(r.legal, r.legal == 1 ? " legal mapping, " : " legal mappings, ", r.fitting, r.fitting == 1 ? " fits" : " fit",
                             " into memory, ", "searched in ", detail::seconds_text(r.seconds), "\n");
  const auto list = [&](const std::string& title, const std::vector<const refused_mapping*>& all, bool counted) {
    if (all.empty()) return;
    out += title + "\n";
    for (std::size_t i = 0; i < std::min(most, all.size()); ++i)
      out += sentence("  ", counted ? sentence(all[i]->mappings, " x ") : std::string(), short_text(all[i]->mapping), ": ",
                      detail::without_prefix(all[i]->reason), "\n");
    if (all.size() > most)
      out += sentence("  and ", all.size() - most, counted ? all.size() == most + 1 ? " more reason\n" : " more reasons\n" : " more\n");
  };
  std::stable_sort(forbidden.begin(), forbidden.end(), [](const auto* a, const auto* b) { return a->mappings > b->mappings; });
  list(sentence(broken, " refused by a rule, each with an example:"), forbidden, true);
  list(sentence(r.legal - r.fitting, r.legal - r.fitting == 1 ? " does" : " do", " not fit, the nearest:"), large, false);
  return out;
}

/// The whole answer but for what to do next, which the program knows.
inline std::string report(const plan_question& q, const search_result& r) {
  std::string out = describe(q) + "\n\n";
  if (r.plans.empty())
    out += r.legal == 0 ? "no mapping is legal; the reasons:\n" : "no mapping fits; the reasons:\n";
  else
    out += table_of(r.plans).text() +
           sentence("batch: sequences of a micro-batch; memory: of ", gigabytes_text(double(q.cluster.gpu.memory)), "; MFU: of ",
                    detail::printed("%.1f", q.cluster.gpu.bf16_flops / 1e12),
                    " TFLOP/s, with full attention; causal: with half of it; ep % and so on: of the step, what is not hidden\n");
  return out + "\n" + refused_text(r);
}

}  // namespace moefold
