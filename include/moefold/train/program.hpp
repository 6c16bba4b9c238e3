#pragma once
// What the program `train` does for one run, wherever its ranks live (train/ranks.hpp): shows the folding and its memory before anything is allocated, checks the
// first losses against a single rank, trains, evaluates, and writes metrics, an expert-load heatmap and the routing. Programs of one's own may call
// it too.
#include <moefold/core/replace_file.hpp>
#include <moefold/mesh/describe.hpp>
#include <moefold/moe/routing_file.hpp>
#include <moefold/schedule/draw.hpp>
#include <moefold/train/heatmap.hpp>
#include <moefold/train/log.hpp>
#include <moefold/train/metrics.hpp>
#include <moefold/train/moe_record.hpp>
#include <moefold/train/progress.hpp>
#include <moefold/train/ranks.hpp>
#include <moefold/train/spike.hpp>
#include <moefold/train/trainer.hpp>

#include <array>
#include <chrono>
#include <ctime>
#include <numeric>

namespace moefold {

struct program_options {
  std::string run;                // its name
  extent_t ranks = 0;             // 0: the smallest world of the run
  std::vector<std::string> data;  // files, read as bytes
  std::string metrics;            // file for JSON lines; empty: none
  std::string heatmap;            // file for the expert-load heatmap (SVG); empty: none
  std::string draw_schedule;      // file for a picture of the pipeline schedule (SVG); empty: none. Nothing is trained then
  std::string record_routing;     // file for every token's experts, to be replayed; empty: none
  std::string replay_routing;     // file whose choices are used instead of the router's, as far as it goes; empty: none
  bool even_routing = false;      // for benchmarks: every expert gets the same number of tokens, whatever its scores
  std::string commit = "unknown";
  std::int64_t evaluate_every = 50;  // steps; 0: only at the end. The last step is always evaluated
  bool dry_run = false;              // stop after the tables
  trainer_options train{};
};

/// The smallest world a fold accepts: its fixed ranks, or the least common multiple of what surrounds its dyn extents.
template <class Fold>
constexpr extent_t smallest_world() {
  if (Fold::attention::ranks != dyn) return Fold::attention::ranks;
  if (Fold::moe::ranks != dyn) return Fold::moe::ranks;
  return std::lcm(Fold::attention::fixed_ranks, Fold::moe::fixed_ranks);
}

/// Bytes of every kind on one rank of each stage, from the inventory. Parameters, gradients and optimizer state are exactly what the engine
/// allocates; activations follow the routing, and the engine sets aside what the worst routing needs; scratch is an upper bound.
template <class Precision, class Schedule>
text_table memory_table(const activation_shape& a, extent_t micro_batches, int state_tensors, extent_t bucket = default_bucket) {
  text_table table({"stage", "layers", "parameters", "gradients", "optimizer", "activations", "recomputed", "scratch", "total",
                    "activations, worst routing"});
  const extent_t scratch = scratch_bound<Precision>(a);
  const extent_t stages = a.fold.attention.of(axis_id::pp);
  for (extent_t stage = 0; stage < stages; ++stage) {
    const parameter_memory memory = memory_of_parameters<Precision>(a.model, a.fold, stage, state_tensors, bucket);
    const extent_t live = Schedule::live(int(stage), int(stages), int(micro_batches));
    const auto steps = Schedule::steps(int(stage), int(stages), int(micro_batches));
    const bool split = std::any_of(steps.begin(), steps.end(), [](const schedule_step& s) { return s.kind == step_kind::backward_weight; });
    const auto deferred = [&](extent_t rows) {
      extent_t most = 0;
      for (extent_t c = 0; split && c < a.fold.layers.chunks; ++c) most = std::max(most, deferred_by_chunk<Precision>(a, stage, c, rows));
      return live * most;
    };
    const extent_t balanced = deferred(a.balanced_rows()) + live * kept_by_micro_batch<Precision>(a, stage, a.balanced_rows());
    const extent_t worst = deferred(a.worst_rows()) + live * kept_by_micro_batch<Precision>(a, stage, a.worst_rows());
    const extent_t again = recomputed_by_block<Precision>(a, a.worst_rows());
    table.row({std::to_string(stage), std::to_string(layers_on_stage(a.model.layers, a.fold, stage)), exact_text(memory.parameters),
               exact_text(memory.gradients), exact_text(memory.optimizer), exact_text(balanced), exact_text(again), exact_text(scratch),
               bytes_text(memory.parameters + memory.gradients + memory.optimizer + balanced + again + scratch), exact_text(worst)});
  }
  return table;
}

/// What to say of the first losses of many ranks beside those of one; `same` becomes false where they differ by more than rounding, or are not numbers.
inline std::string compare_losses(std::span<const double> many, std::span<const double> one, bool& same, double rounding = 1e-4) {
  double worst = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    const double difference = std::abs(many[i] - one[i]) / std::abs(one[i]);
    if (!(difference <= worst)) worst = difference;  // NaN wins
  }
  same = worst <= rounding;
  const std::string numbers = detail::printed("largest relative difference %.1e", worst);
  if (same) return sentence("the first ", one.size(), " losses are those of a single rank: ", numbers);
  return sentence("WARNING: the first ", one.size(), " losses are NOT those of a single rank: ", numbers,
                  "; do not trust this build or mapping, and please report it");
}

namespace detail {

inline double thread_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

inline named_numbers named(const extents& mesh) {
  named_numbers out;
  for (const axis_extent& a : mesh.list()) out.emplace_back(name_of(a.axis), a.ranks);
  return out;
}

/// What the ranks tell each other of a step for the step line and the metrics: CPU seconds, and bytes sent by axis. Every rank knows the same labels, in
/// the same order, whatever it has sent.
class step_sums {
 public:
  step_sums() {
    labels_.emplace_back("world");
    const auto add = [&](std::string_view name) {
      if (std::find(labels_.begin(), labels_.end(), comm_label(name)) == labels_.end()) labels_.emplace_back(name);
    };
    for (const axis_set axes : group_set<thread_comm>::sets) add(axes.name());
    add(group_set<thread_comm>::ends.name());
    sums_.resize(2 + labels_.size());
  }
  /// Collective over the world.
  template <class Comm>
  void add(host_exec e, Comm& world, double cpu, double collectives, const traffic_log& sent) {
    sums_[0] = cpu, sums_[1] = collectives;
    for (std::size_t i = 0; i < labels_.size(); ++i) sums_[2 + i] = double(sent.total(labels_[i]).bytes);
    world.all_reduce(e, std::span<const double>(sums_), std::span(sums_), sum{}).wait(e);
  }
  double share_of_collectives() const { return sums_[0] > 0 ? sums_[1] / sums_[0] : 0; }
  named_numbers bytes() const {
    named_numbers by_axis;
    for (std::size_t i = 0; i < labels_.size(); ++i)
      if (sums_[2 + i] > 0) by_axis.emplace_back(std::string(labels_[i].view()), std::int64_t(sums_[2 + i]));
    return by_axis;
  }

 private:
  std::vector<comm_label> labels_;
  std::vector<double> sums_;
};

/// The first losses of one rank with the same seed, data and batch.
template <class Run, class Ranks>
std::vector<double> single_rank_losses(const Ranks& ranks, const trainer_options& options, const dataset& data, int steps) {
  std::vector<double> losses;
  trainer_options alone = options;
  alone.schedule = &value_of_schedule<one_f_one_b>;  // the run's own, and its layer counts, are made for its stages
  alone.observe = {};
  routing_tap tap;
  if (options.tap) tap.replay = options.tap->replay, tap.even = options.tap->even;
  alone.tap = &tap;
  ranks.alone([&](typename Ranks::comm_type& world) {
    alone.device = ranks.device_of(0);
    basic_trainer<policies_of<Run, typename Ranks::exec_type>, typename Ranks::comm_type, typename Ranks::exec_type> trainer(
        std::move(world), Run::model, Run::sequence, folding_extents{}, alone, data);
    for (bool stop = false; !stop && int(losses.size()) < steps;) {
      const step_result step = trainer.step();
      losses.push_back(step.loss);
      stop = step.stop;
    }
  });
  return losses;
}

/// A stored routing, once it fits the run.
inline stored_routing routing_for(const std::string& path, const model_shape& model, extent_t sequence, extent_t global_batch) {
  stored_routing stored = read_routing(path);
  const routing_trace& t = stored.trace;
  const auto fits = [&](const char* what, extent_t given, extent_t needed) {
    require<config_error>(given == needed, "moefold: the routing in '", path, "' has ", what, " ", given, ", this run ", needed,
                          "; replay it in a run with the numbers it was recorded with");
  };
  fits("layers", t.layers(), model.layers);
  fits("experts", stored.experts, model.experts);
  fits("top_k", t.top_k(), model.top_k);
  fits("sequence", t.sequence(), sequence);
  fits("global batch", t.samples(), global_batch);
  return stored;
}

/// Writes the picture of a run's schedule and says where. Refuses a schedule given as a value, of which the run's type knows nothing, and pictures too
/// large to look at.
template <class Schedule>
void draw_schedule(const program_options& options, extent_t stages, extent_t micro_batches, log_sink& log) {
  constexpr extent_t most = 100'000;  // steps in a picture
  require<config_error>(options.train.schedule == nullptr, "moefold: the picture is of the run's own schedule, ", Schedule::name,
                        ", and the options give another; leave out trainer_options::schedule");
  require<config_error>(stages <= most && micro_batches <= most / (stages * Schedule::chunks), "moefold: a picture of ", stages,
                        " stages, ", Schedule::chunks, " chunks and ", micro_batches, " micro-batches has more than ", most,
                        " steps; draw it with a smaller global batch");
  replace_file(options.draw_schedule, "picture of the schedule", {draw_svg<Schedule>(int(stages), int(micro_batches))});
  log.line(sentence("schedule ", Schedule::name, ", ", stages, stages == 1 ? " stage, " : " stages, ", micro_batches,
                    micro_batches == 1 ? " micro-batch: " : " micro-batches: ", options.draw_schedule));
}

/// An empty trace of a whole run. Throws config_error where it would not fit into 16 GiB.
inline routing_trace trace_of(std::int64_t steps, const model_shape& model, extent_t sequence, extent_t global_batch) {
  const double bytes = 4.0 * double(steps) * double(model.layers) * double(global_batch) * double(sequence) * double(model.top_k);
  require<config_error>(bytes <= 0x1p34, "moefold: the routing of ", steps, " steps takes ",
                        bytes_text(std::int64_t(std::min(bytes, 9e18))), ", and at most 16 GiB are recorded; record fewer steps");
  return routing_trace(steps, model.layers, global_batch, sequence, model.top_k);
}

}  // namespace detail

/// Trains Run as the options say, or only draws its schedule, and reports to `log`. Returns the exit code: 0, also when stopped early; 1 if the first losses are
/// not those of a single rank. Throws config_error for what cannot work.
template <class Run, class Ranks = host_ranks>
int run_program(const program_options& options, log_sink& given_log, const Ranks& ranks = {}) {
  using clock = std::chrono::steady_clock;
  using comm_type = typename Ranks::comm_type;
  using exec_type = typename Ranks::exec_type;
  using precision = precision_on<Run, exec_type>;
  static_assert(check_run<Run>::ok);
  silent_sink silent;  // for processes in which rank 0 does not live
  log_sink& log = ranks.speaks() ? given_log : silent;
  const model_shape& model = Run::model;
  const extent_t world_size = ranks.world(options.ranks, smallest_world<typename Run::fold>());
  const folding_extents fold = folding_of<Run>(world_size);
  check(model, Run::sequence, fold);
  check(options.train, fold);
  require<config_error>(options.evaluate_every >= 0, "moefold: evaluate_every is 0 or more steps (given ", options.evaluate_every, ")");
  const extent_t dp = fold.attention.of(axis_id::dp);
  const extent_t micro_batches = options.train.global_batch / (dp * options.train.micro_batch);
  if (!options.draw_schedule.empty()) {
    if (ranks.speaks()) detail::draw_schedule<typename Run::schedule>(options, fold.attention.of(axis_id::pp), micro_batches, log);
    return 0;
  }
  require<config_error>(options.train.schedule == nullptr, "moefold: a run says its schedule by its type, ", Run::schedule::name,
                        ", and the options give another; leave out trainer_options::schedule");
  trainer_options train = options.train;
  if (Run::recompute.any()) train.recompute = Run::recompute;
  constexpr moe_facts facts = facts_of<typename Run::moe>();
  const activation_shape shape{model, fold, Run::sequence, options.train.micro_batch, facts, train.recompute, Run::context::facts};

  log.line(sentence("run ", options.run, ": ", count_text(double(count_parameters(model))), " parameters, ", model.layers, " layers, ",
                    model.experts, " experts (top-", model.top_k, "), sequence ", Run::sequence, ", ", precision::name, "; ",
                    ranks.text(world_size)));
  log.line(sentence("moe: ", name_of(facts.dispatch), ", ", describe(facts.tokens), "; balance losses: ", describe(facts.balance),
                    facts.jitter > 0 ? sentence("; jitter ", facts.jitter) : ""));
  log.line(sentence("context: ", Run::context::name, "; pipeline: ", Run::schedule::name, ", layers ", describe(fold.layers),
                    "; recomputed: ", describe(train.recompute)));
  log.line("rate: " + describe(rate_of(options.train)) +
           (options.train.expert_rate != 1 ? sentence("; experts ", options.train.expert_rate, " of it") : ""));
  log.line("");
  log.line(describe(fold));
  log.line("memory in bytes per rank of each stage; activations of all micro-batches in flight, routing even; nothing is allocated yet");
  log.line(memory_table<precision, typename Run::schedule>(shape, micro_batches, int(Run::optimizer::state_tensors), train.bucket).text());
  if (options.dry_run) {
    log.line("dry run: nothing was trained");
    return 0;
  }

  const dataset data(token_stream::from_files(options.data), Run::sequence, options.train.seed);
  data.require_batch(options.train.global_batch);
  data.require_vocabulary(model.vocabulary);
  log.line(sentence("data: ", count_text(double(data.tokens())), " tokens from ", options.data.size(),
                    options.data.size() == 1 ? " file, " : " files, ", data.training_sequences(), " sequences to train on, ",
                    data.held_out_sequences(), " held out"));
  const double entropy = data.training_entropy();
  std::optional<stored_routing> stored;
  if (!options.replay_routing.empty()) {
    stored.emplace(detail::routing_for(options.replay_routing, model, Run::sequence, options.train.global_batch));
    log.line(sentence("routing: ", stored->trace.steps(), " steps replayed from ", options.replay_routing, ", then the router's own"));
  }
  std::optional<routing_trace> recorded;
  require<config_error>(Ranks::one_process || (options.record_routing.empty() && options.replay_routing.empty()),
                        "moefold: routing is recorded and replayed where all ranks see the same memory; run with ranks as threads");
  if (!options.record_routing.empty()) {
    recorded.emplace(detail::trace_of(options.train.steps, model, Run::sequence, options.train.global_batch));
    write_routing(options.record_routing, detail::trace_of(1, model, 1, 1),
                  model.experts);  // a path that cannot be written is known before the run
  }
  std::optional<load_heatmap> heatmap;
  if (ranks.speaks() && !options.heatmap.empty()) heatmap.emplace(options.run).write(options.heatmap);
  routing_tap tap;
  tap.record = recorded ? &*recorded : nullptr, tap.replay = stored ? &stored->trace : nullptr, tap.even = options.even_routing;
  train.tap = &tap;

  std::optional<metrics_writer> metrics;
  if (ranks.speaks() && !options.metrics.empty())
    metrics.emplace(options.metrics, run_record{options.run, world_size, detail::named(fold.attention), detail::named(fold.moe),
                                                precision::name, MOEFOLD_VERSION, options.commit, compiler_name()});

  const int compared = int(std::min<std::int64_t>(3, options.train.steps));
  constexpr double comparable = 2e10;  // parameters x tokens of a step that one rank trains in a moment
  const std::string incomparable = depends_on_mapping(facts, fold.attention.of(axis_id::tp) * fold.attention.of(axis_id::cp), dp)
                                     ? "its capacity or balance loss looks at the tokens of single ranks, and so depends on the mapping"
                                 : double(count_parameters(model)) * double(options.train.global_batch * Run::sequence) > comparable
                                     ? "the model or the batch is too large for one rank to train in a moment"
                                     : "";
  const bool compare = fold.world() > 1 && incomparable.empty();
  std::vector<double> alone, together;
  if (compare) {
    log.line(sentence("first ", compared, compared == 1 ? " step" : " steps", " on one rank alone, to compare with"));
    alone = detail::single_rank_losses<Run>(ranks, train, data, compared);
  } else if (fold.world() > 1) {
    log.line("not compared with a single rank: " + incomparable);
  }
  bool trusted = true;

  const auto begin = clock::now();
  const auto train_rank = [&](comm_type& world) {
    const int rank = world.rank();
    routing_tap own = tap;  // margins are noted by each rank for itself
    trainer_options mine = train;
    mine.tap = recorded || stored || options.even_routing ? &own : nullptr;
    mine.device = ranks.device_of(rank);
    basic_trainer<policies_of<Run, exec_type>, comm_type, exec_type> trainer(std::move(world), model, Run::sequence, fold, mine, data);
    host_context context;
    const host_exec host(context);
    detail::step_sums sums;
    const auto in_collectives = [&] {  // CPU seconds, where the communicator counts them
      if constexpr (requires { trainer.world().cpu_seconds(); })
        return trainer.world().cpu_seconds();
      else
        return 0.0;
    };
    const double cpu_before = detail::thread_cpu_seconds(), comm_before = in_collectives();
    step_result last;
    progress live(options.train.steps);
    spike_watch spikes;
    std::optional<double> held_out;
    std::int64_t done = 0;
    for (; done < options.train.steps && !last.stop;) {
      const auto from = clock::now();
      const traffic_log sent = trainer.traffic();
      last = trainer.step();
      ++done;
      const double seconds = std::chrono::duration<double>(clock::now() - from).count();
      sums.add(host, trainer.world().inner(), detail::thread_cpu_seconds() - cpu_before,  // not recorded
               in_collectives() - comm_before, trainer.traffic() - sent);
      std::optional<double> now;
      const bool due = options.evaluate_every > 0 && done % options.evaluate_every == 0;
      if (due || done == options.train.steps || last.stop) now = trainer.evaluate();
      if (now) held_out = now;
      if (rank != 0) continue;

      step_record record;
      record.step = done;
      record.loss = last.loss;
      record.grad_norm = last.grad_norm;
      record.learning_rate = last.learning_rate;
      record.tokens = last.tokens;
      record.tokens_per_second = double(last.tokens) / seconds;
      record.seconds = seconds;
      add_moe(record, trainer, last, metrics.has_value());
      record.comm_cpu_share = sums.share_of_collectives();
      record.eval_loss = now;
      if (heatmap) heatmap->add(done, trainer.load());
      if (heatmap && now) heatmap->write(options.heatmap);
      if (metrics) {
        record.comm_bytes = sums.bytes();
        metrics->write(record);
      }
      log.status(live.line(record));
      if (last.bad)
        log.line(sentence("step ", done, last.skip ? " skipped: " : ": ", describe(*last.bad)));
      else if (last.skip)
        log.line(sentence("step ", done, " skipped: loss ", last.loss, ", gradient norm ", last.grad_norm));
      if (const auto spike = spikes.add(last.step, last.loss)) {
        log.line(describe(*spike));
        if (metrics) metrics->event(*spike);
      }
      if (together.size() < alone.size()) {
        together.push_back(last.loss);
        if (together.size() == alone.size())
          log.line(compare_losses(together, alone, trusted, sizeof(typename precision::storage) < 4 ? 1e-2 : 1e-4));
      }
    }
    if (rank != 0) return;
    log.line("memory of rank 0 as measured, by what it was for");
    log.line(table_of(trainer.memory().report()).text());
    if (last.stop) log.line(sentence("stopped after step ", done, " of ", options.train.steps, ", as asked"));
    log.line(sentence(
        done, " steps in ", duration_text(std::chrono::duration<double>(clock::now() - begin).count()), "; held-out loss ",
        held_out ? detail::printed("%.4f", *held_out) : std::string("not measured: fewer held-out sequences than a global batch")));
    log.line(closing_sentence(last.loss, entropy));
  };
  try {
    ranks.run(world_size, train_rank);
  } catch (...) {
    try {  // what was seen until then may tell why
      if (heatmap) heatmap->write(options.heatmap);
      if (recorded) write_routing(options.record_routing, *recorded, model.experts);
    } catch (const error&) {  // the first failure is the one to hear of
    }
    throw;
  }
  if (heatmap) log.line(sentence("expert-load heatmap: ", options.heatmap));
  if (recorded) {
    write_routing(options.record_routing, *recorded, model.experts);
    log.line(sentence("routing: ", options.record_routing, "; use it again with --replay-routing"));
  }
  return trusted ? 0 : 1;
}

}  // namespace moefold
