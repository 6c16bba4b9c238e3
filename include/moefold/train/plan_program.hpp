#pragma once
// The program `plan` but for its command line: reads what was asked in words, searches, and answers with a table, the reasons, and the files that were asked for.
//
//   options --> question_of --> search --> report, explain | JSON | a run's header | pictures
#include <moefold/checkpoint/folder.hpp>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/core/fp8_precision.hpp>
#include <moefold/core/replace_file.hpp>
#include <moefold/model/config_file.hpp>
#include <moefold/plan/pictures.hpp>
#include <moefold/train/cluster_file.hpp>
#include <moefold/train/emit_run.hpp>
#include <moefold/train/load_trace.hpp>
#include <moefold/train/plan_json.hpp>

#include <filesystem>
#include <optional>

namespace moefold {

/// What the program may be told, in its words.
struct plan_options {
  std::string model{};               // a name of the zoo, a config.json, or its folder
  std::string cluster = "dgx-h100";  // a name, or a file
  extent_t gpus = 0, sequence = 4096, global_batch = 256;
  std::string strategy = "folding", precision = "bf16", schedule = "1f1b";
  extent_t capacity = 0;  // percent; 0: dropless
  std::string fix{};
  std::size_t top = 10, explain = 0;                            // explain: which plan, the best is 1; 0: none
  std::string json{};                                           // file; "-": standard output, and nothing else there
  std::string emit_run{}, routing{}, svg_groups{}, svg_time{};  // files
  std::string command = "plan";                                 // as typed, for the files that are written
};

namespace detail {

inline model_shape model_of(const std::string& word) {
  if (const known_model* known = find_model(word)) return *known->shape;
  std::error_code none;
  const std::filesystem::path path(word);
  if (std::filesystem::exists(path, none)) {
    const std::string file = std::filesystem::is_directory(path, none) ? (path / "config.json").string() : word;
    return read_config(read_text(disk(), file, 1 << 20), file);
  }
  std::vector<std::string_view> names;
  for (const known_model& m : known_models) names.push_back(m.name);
  index_of_name(word, "model, config.json or folder with one,", names);
  return {};
}

/// file: keeps the names of a cluster that was read from one.
inline cluster_spec cluster_of(const std::string& word, std::optional<stored_cluster>& file) {
  if (const cluster_spec* known = find_cluster(word)) return *known;
  std::error_code none;
  if (word.find('/') != std::string::npos || word.ends_with(".json") || std::filesystem::exists(word, none))
    return file.emplace(load_cluster(disk(), word)).spec();
  std::vector<std::string_view> names;
  for (const cluster_spec* c : known_clusters) names.push_back(c->name);
  index_of_name(word, "cluster, or file of one,", names);
  return {};
}

inline plan_schedule schedule_of(std::string_view word) {
  constexpr std::array<std::string_view, 3> names = {"1f1b", "zero-bubble", "zero-bubble-h1"};
  return plan_schedule(index_of_name(word, "schedule", names));
}

}  // namespace detail

/// What was asked, once it fits together; it is valid as long as `file` is. Throws config_error, or format_error of a file.
inline plan_question question_of(const plan_options& o, std::optional<stored_cluster>& file) {
  plan_question q;
  q.model = o.model;
  q.job.model = detail::model_of(o.model);
  q.cluster = detail::cluster_of(o.cluster, file);
  constexpr std::array<std::string_view, 2> precisions = {"bf16", "fp8"};
  q.precision = precisions[index_of_name(o.precision, "precision", precisions)];
  require<config_error>(q.precision != "fp8" || q.cluster.gpu.fp8_flops > 0, "moefold: ", q.cluster.gpu.name,
                        " does not compute in fp8; take --precision bf16");
  q.job.gpus = o.gpus, q.job.sequence = o.sequence, q.job.global_batch = o.global_batch;
  q.job.strategy = strategy_of(o.strategy), q.job.schedule = detail::schedule_of(o.schedule);
  q.job.facts.tokens.percent = o.capacity;
  q.job.facts.balance.micro_batch = 1e-2;  // as runs have it by default
  return q;
}

/// A search, and where routing was read from a file, what was taken from it.
struct plan_answer {
  search_result found;
  std::vector<double> imbalance{};  // of each plan
  std::string routing{};            // a paragraph
};

namespace detail {

inline std::string routing_text(const load_trace& trace) {
  text_table table({"ep", "mean", "p99, worst layer"});
  for (const extent_t ep : trace.sizes())
    if (ep > 1) table.row({std::to_string(ep), printed("%.2f", trace.of(ep).mean), printed("%.2f", trace.of(ep).p99)});
  return sentence(
      "\nrouting of ", trace.name(), ": ", trace.steps(), " steps, ", trace.layers(), " layers; rows of the busiest rank over the mean\n",
      table.text(),
      "Times are of the mean, memory of the 99th percentile. Loads are of whole steps: single micro-batches are more uneven.\n");
}

/// The same with the imbalance that a run had: each size of EP has its own. A plan fits at the 99th percentile, and its time is that of the mean.
template <class Precision>
plan_answer search_with_loads(const plan_question& q, const load_trace& trace, search_options options) {
  require<config_error>(!q.job.facts.tokens.drops(),
                        "moefold: where experts have a capacity no rank gets more rows than it; give one of --routing and --capacity");
  trace.require_experts(q.job.model.experts);
  plan_answer answer;
  search_result& found = answer.found;
  const extent_t fixed = options.fixed.ep;
  for (const extent_t ep : fixed > 0 ? std::vector<extent_t>{fixed} : trace.sizes()) {
    if (ep > q.job.gpus && fixed == 0) continue;
    plan_job uneven = q.job;
    options.fixed.ep = ep;
    uneven.imbalance = trace.of(ep).mean, uneven.memory_imbalance = trace.of(ep).p99;
    search_result part = search<Precision>(uneven, q.cluster, options);
    found.plans.insert(found.plans.end(), part.plans.begin(), part.plans.end());
    for (refused_mapping& refused : part.refused) {  // what is wrong with the attention half is wrong for every EP
      const bool known = std::any_of(found.refused.begin(), found.refused.end(),
                                     [&](const refused_mapping& r) { return r.need == 0 && r.reason == refused.reason; });
      if (!known) found.refused.push_back(std::move(refused));
    }
    found.legal += part.legal, found.fitting += part.fitting, found.costed += part.costed, found.seconds += part.seconds;
  }
  std::stable_sort(found.refused.begin(), found.refused.end(),
                   [](const refused_mapping& a, const refused_mapping& b) { return a.need < b.need; });
  const auto large = std::find_if(found.refused.begin(), found.refused.end(), [](const refused_mapping& r) { return r.need > 0; });
  if (std::size_t(found.refused.end() - large) > options.near)
    found.refused.erase(large + std::ptrdiff_t(options.near), found.refused.end());
  std::stable_sort(found.plans.begin(), found.plans.end(),
                   [](const prediction& a, const prediction& b) { return a.step_seconds < b.step_seconds; });
  if (found.plans.size() > options.top) found.plans.resize(options.top);
  for (const prediction& plan : found.plans) answer.imbalance.push_back(trace.of(plan.mapping.ep).mean);
  answer.routing = routing_text(trace);
  if (!found.plans.empty()) {
    const prediction &best = found.plans[0], even = predict<Precision>(q.job, q.cluster, best.mapping);
    answer.routing += sentence("plan 1 waits ", seconds_text(best.step_seconds - even.step_seconds), " of its ",
                               seconds_text(best.step_seconds), " for the busiest ranks, and holds ",
                               gigabytes_text(double(best.memory.total() - even.memory.total())), " more than with even routing\n");
  }
  return answer;
}

}  // namespace detail

template <class Precision>
plan_answer answer(const plan_question& q, const plan_options& o) {
  const fixed_numbers fixed = o.fix.empty() ? fixed_numbers{} : parse_fixed(o.fix);
  const search_options options{.fixed = fixed.mapping, .fix_recompute = fixed.recompute, .top = o.top};
  if (!o.routing.empty()) return detail::search_with_loads<Precision>(q, read_load_trace(o.routing), options);
  plan_answer even{search<Precision>(q.job, q.cluster, options)};
  even.imbalance.assign(even.found.plans.size(), q.job.imbalance);
  return even;
}

template <class Precision>
int answer_in_full(plan_question q, const plan_options& o, std::FILE* out) {
  const plan_answer answered = answer<Precision>(q, o);
  const search_result& found = answered.found;
  const bool spoken = o.json != "-";
  const auto say = [&](const std::string& text) {
    if (spoken) std::fputs(text.c_str(), out);
  };
  say(report(q, found) + answered.routing);
  if (!found.plans.empty() && o.explain > 0) {
    require<config_error>(o.explain <= found.plans.size(), "moefold: there are ", found.plans.size(), " plans; --explain takes 1 to ",
                          found.plans.size(), " (given ", o.explain, "), and --top asks for more");
    q.job.imbalance = answered.imbalance[o.explain - 1];
    say(sentence("\nplan ", o.explain, ": ") + explain<Precision>(q, found.plans[o.explain - 1]));
  }
  if (!found.plans.empty()) q.job.imbalance = answered.imbalance[0];
  if (!o.json.empty()) {
    const std::string text = to_json<Precision>(q, found, o.command);
    if (spoken)
      replace_file(o.json, "plan", {text});
    else
      std::fputs(text.c_str(), out);
  }
  if (found.plans.empty()) {
    if (found.legal == 0)
      say("\nno mapping is legal: fix less, or change what the reasons above name\n");
    else
      say(sentence("\nnothing fits: take more GPUs, fix less, or allow recompute",
                   q.job.strategy == plan_strategy::folding ? "\n" : "; --strategy folding has most to choose from\n"));
    return 1;
  }
  if (!o.svg_groups.empty()) replace_file(o.svg_groups, "picture", {draw_groups(q, found.plans[0].mapping)});
  if (!o.svg_time.empty()) replace_file(o.svg_time, "picture", {draw_times(q, found.plans)});
  if (!o.emit_run.empty()) replace_file(o.emit_run, "run", {run_header(q, found.plans[0], run_name_of(o.emit_run), o.command)});
  std::string wrote;
  for (const std::string* file : {&o.json, &o.svg_groups, &o.svg_time, &o.emit_run})
    if (!file->empty() && *file != "-") wrote += (wrote.empty() ? "\nwrote " : ", ") + *file;
  if (!wrote.empty()) say(wrote + "\n");
  if (o.explain == 0 && wrote.empty())
    say("\nnext: --explain says why plan 1 is the best, --fix tp=2,pp=8 holds numbers, --emit-run my_run.hpp writes it as a run\n");
  return 0;
}

/// The exit code: 0 with a plan, 1 where no mapping fits. Throws config_error and format_error.
inline int run_plan(const plan_options& o, std::FILE* out) {
  std::optional<stored_cluster> file;
  const plan_question q = question_of(o, file);
  if (!o.emit_run.empty()) run_name_of(o.emit_run), require_runnable(q);
  return q.precision == "fp8" ? answer_in_full<fp8<>>(q, o, out) : answer_in_full<mixed_bf16>(q, o, out);
}

/// What there is to choose from.
inline std::string plan_choices() {
  text_table models({"model", "parameters", "layers", "hidden", "experts", "of width"});
  for (const known_model& m : known_models)
    models.row({std::string(m.name), count_text(double(count_parameters(*m.shape))), std::to_string(m.shape->layers),
                std::to_string(m.shape->hidden), sentence(m.shape->top_k, " of ", m.shape->experts), std::to_string(m.shape->ffn)});
  text_table clusters({"cluster", "GPU", "memory", "bf16 TFLOP/s", "a node", "inside", "between"});
  for (const cluster_spec* c : known_clusters)
    clusters.row({c->name, c->gpu.name, gigabytes_text(double(c->gpu.memory)), detail::printed("%.4g", c->gpu.bf16_flops / 1e12),
                  std::to_string(c->gpus_per_node), gigabytes_text(c->inside.bandwidth) + "/s",
                  gigabytes_text(c->between.bandwidth) + "/s"});
  std::string strategies;
  for (int i = 0; i < plan_strategies; ++i) strategies += sentence(i > 0 ? ", " : "", name_of(plan_strategy(i)));
  return models.text() + "or a config.json\n\n" + clusters.text() + "\nstrategies: " + strategies + "\n";
}

}  // namespace moefold
