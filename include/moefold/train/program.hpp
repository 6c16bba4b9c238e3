#pragma once
// What the program `train` does for one run, wherever its ranks live (train/ranks.hpp): shows the folding and its memory before anything is allocated, checks the
// first losses against a single rank, trains, evaluates, saves and resumes, and writes metrics, an expert-load heatmap, the routing and the model. Programs of
// one's own may call it too.
#include <moefold/checkpoint/bytes.hpp>
#include <moefold/core/replace_file.hpp>
#include <moefold/mesh/describe.hpp>
#include <moefold/moe/routing_file.hpp>
#include <moefold/schedule/draw.hpp>
#include <moefold/train/first_losses.hpp>
#include <moefold/train/heatmap.hpp>
#include <moefold/train/log.hpp>
#include <moefold/train/memory_table.hpp>
#include <moefold/train/metrics.hpp>
#include <moefold/train/moe_record.hpp>
#include <moefold/train/program_options.hpp>
#include <moefold/train/progress.hpp>
#include <moefold/train/ranks.hpp>
#include <moefold/train/run_keeper.hpp>
#include <moefold/train/spike.hpp>
#include <moefold/train/step_sums.hpp>
#include <moefold/train/stop_signals.hpp>
#include <moefold/train/trainer.hpp>

#include <array>
#include <chrono>
#include <ctime>
#include <numeric>

namespace moefold {

/// The smallest world a fold accepts: its fixed ranks, or the least common multiple of what surrounds its dyn extents.
template <class Fold>
constexpr extent_t smallest_world() {
  if (Fold::attention::ranks != dyn) return Fold::attention::ranks;
  if (Fold::moe::ranks != dyn) return Fold::moe::ranks;
  return std::lcm(Fold::attention::fixed_ranks, Fold::moe::fixed_ranks);
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

/// The tokens of what is to be continued: bytes, or numbers between spaces.
inline std::vector<std::int32_t> tokens_of(const std::string& text, bool bytes) {
  std::vector<std::int32_t> tokens;
  if (bytes) {
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  for (std::size_t at = 0; (at = text.find_first_not_of(' ', at)) != std::string::npos;) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    std::int32_t token = 0;
    const auto [stop, failure] = std::from_chars(text.data() + at, text.data() + end, token);
    require<config_error>(failure == std::errc{} && stop == text.data() + end && token >= 0, "moefold: '", text.substr(at, end - at),
                          "' is no token; where the data are tokens, give what is to be continued as their numbers: \"17 4 256\"");
    tokens.push_back(token);
    at = end;
  }
  return tokens;
}
/// The other way: bytes that cannot be shown are written as \\x1b.
inline std::string text_of(std::span<const std::int32_t> tokens, bool bytes) {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (!bytes)
      text += sentence(text.empty() ? "" : " ", token);
    else if (token == '\n' || token == '\t' || (token >= ' ' && token != 0x7f && token < 256))
      text += char(token);
    else
      text += printed("\\x%02x", unsigned(token));
  }
  return text;
}

/// The likeliest continuation, token by token. Collective over the trainer's world.
template <class Trainer>
void generate(Trainer& trainer, const program_options& options, bool bytes, log_sink& log) {
  std::vector<std::int32_t> tokens = tokens_of(options.generate, bytes);
  const std::size_t given = tokens.size();
  for (std::int64_t i = 0; i < options.generate_tokens; ++i) {
    tokens.push_back(trainer.next_token(tokens));
    log.status(sentence("token ", i + 1, "/", options.generate_tokens));
  }
  log.line("continued, always by the likeliest token:");
  log.line(text_of(std::span(tokens).first(given), bytes) + (bytes ? "" : " |") + (bytes ? "" : " ") +
           text_of(std::span(tokens).subspan(given), bytes));
}

/// The save that is resumed, in words; the run's seed, which orders the data, becomes the save's.
inline void say_resumed(const found_save& save, const std::string& mapping, const std::string& precision, trainer_options& train,
                        log_sink& log) {
  const auto note = [&](const char* name) { return save.notes.contains(name) ? shown_text(save.notes.at(name)) : std::string("unknown"); };
  log.line(sentence("resumed: step ", save.position.step, " from ", save.folder, ", ", save.position.sample, " samples seen"));
  log.line(note("mapping") == mapping ? "  mapping: " + mapping + ", as before" : "  mapping: " + note("mapping") + "  ->  " + mapping);
  if (const std::string before = note("steps"), now = std::to_string(train.steps); before != now)
    log.line("  steps: planned for " + before + ", now " + now + "; the learning rate follows the new plan");
  if (const std::string before = note("global_batch"), now = std::to_string(train.global_batch); before != now)
    log.line("  global batch: " + before + "  ->  " + now);
  if (note("precision") != precision) log.line("  precision: " + note("precision") + "  ->  " + precision);
  std::uint64_t seed = train.seed;
  const std::string said = note("seed");
  std::from_chars(said.data(), said.data() + said.size(), seed);
  if (seed != train.seed) log.line(sentence("  seed: ", seed, ", the saved run's"));
  train.seed = seed;
}

}  // namespace detail

/// Trains Run as the options say, or only draws its schedule, and reports to `log`. Returns the exit code: 0; 1 if the first losses are not those of a single
/// rank; 128 + signal when it was stopped by one (train/stop_signals.hpp). Throws config_error for what cannot work.
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
  check_files(options);
  trainer_options train = options.train;
  if (!options.trains()) train.steps = 1;  // of which none is made
  check(train, fold);
  require<config_error>(options.evaluate_every >= 0, "moefold: evaluate_every is 0 or more steps (given ", options.evaluate_every, ")");
  const extent_t dp = fold.attention.of(axis_id::dp);
  const extent_t micro_batches = options.train.global_batch / (dp * options.train.micro_batch);
  if (!options.draw_schedule.empty()) {
    if (ranks.speaks()) detail::draw_schedule<typename Run::schedule>(options, fold.attention.of(axis_id::pp), micro_batches, log);
    return 0;
  }
  require<config_error>(options.train.schedule == nullptr, "moefold: a run says its schedule by its type, ", Run::schedule::name,
                        ", and the options give another; leave out trainer_options::schedule");
  if (Run::recompute.any()) train.recompute = Run::recompute;
  constexpr moe_facts facts = facts_of<typename Run::moe>();
  const activation_shape shape{model, fold, Run::sequence, options.train.micro_batch, facts, train.recompute, Run::context::facts};

  const std::string& published = options.upcycle.empty() ? options.load : options.upcycle;
  if (options.files != nullptr) options.files->require_outputs(model, options.export_to, options.dump_gradients);
  if (!options.save.empty() && ranks.speaks() && !options.dry_run) options.files->require_saves(options.save);
  const std::string source = published.empty() ? "" : options.files->require_model(published, model, !options.upcycle.empty());
  std::optional<found_save> resumed;
  if (!options.resume.empty()) resumed = options.files->find_save(options.resume);
  require<config_error>(!resumed || !options.trains() || resumed->position.step < train.steps, "moefold: the save in '",
                        resumed ? resumed->folder : "", "' stands at step ", resumed ? resumed->position.step : 0,
                        " and the run ends with step ", train.steps, "; give more --steps, or 0 to export it as it is");

  log.line(sentence("run ", options.run, ": ", count_text(double(count_parameters(model))), " parameters, ", model.layers, " layers, ",
                    model.experts, " experts (top-", model.top_k, "), sequence ", Run::sequence, ", ", precision::name, "; ",
                    ranks.text(world_size)));
  log.line(sentence("moe: ", name_of(facts.dispatch), ", ", describe(facts.tokens), "; balance losses: ", describe(facts.balance),
                    facts.jitter > 0 ? sentence("; jitter ", facts.jitter) : ""));
  log.line(sentence("context: ", Run::context::name, "; pipeline: ", Run::schedule::name, ", layers ", describe(fold.layers),
                    "; recomputed: ", describe(train.recompute)));
  if (options.trains())
    log.line("rate: " + describe(rate_of(train)) + (train.expert_rate != 1 ? sentence("; experts ", train.expert_rate, " of it") : ""));
  log.line("");
  log.line(describe(fold));
  log.line("memory in bytes per rank of each stage; activations of all micro-batches in flight, routing even; nothing is allocated yet");
  log.line(memory_table<precision, typename Run::schedule>(shape, micro_batches, int(Run::optimizer::state_tensors), train.bucket).text());
  if (options.dry_run) {
    log.line("dry run: nothing was trained");
    return 0;
  }

  if (!source.empty()) log.line(source);
  if (resumed) detail::say_resumed(*resumed, mapping_text(fold), precision::name, train, log);
  const bool reads_data = options.trains() || options.evaluate;
  data_options said = options.data;
  said.vocabulary = model.vocabulary;
  if (options.evaluate) said.held_out_share = 1;
  const dataset data = reads_data ? make_dataset(said, Run::sequence, train.seed)
                                  : dataset(token_stream::from_bytes(std::string(std::size_t(train.global_batch * Run::sequence + 1), 0)),
                                            Run::sequence, train.seed, 0);
  data.require_batch(train.global_batch);
  data.require_vocabulary(model.vocabulary);
  if (reads_data)
    log.line(sentence("data: ", count_text(double(data.tokens())), " tokens from ", said.files.size(),
                      said.files.size() == 1 ? " file (" : " files (", name_of(said.format), "), ",
                      options.evaluate
                          ? sentence(data.held_out_sequences(), " sequences to evaluate")
                          : sentence(data.training_sequences(), " sequences to train on, ", data.held_out_sequences(), " held out")));
  if (resumed && resumed->notes.contains("data") && resumed->notes.at("data") != data.identity())
    log.line("  data: " + resumed->notes.at("data") + "  ->  " + data.identity() +
             "; the samples are not those the saved run would go on with");
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
  if (ranks.speaks() && options.trains() && !options.metrics.empty())
    metrics.emplace(options.metrics,
                    run_record{options.run, world_size, detail::named(fold.attention), detail::named(fold.moe), precision::name,
                               MOEFOLD_VERSION, options.commit, compiler_name()},
                    resumed ? resumed->position.step : -1);

  const int compared = int(std::min<std::int64_t>(3, options.train.steps));
  constexpr double comparable = 2e10;  // parameters x tokens of a step that one rank trains in a moment
  const std::string incomparable = resumed           ? "the run was, when it began"
                                 : !options.trains() ? "nothing is trained"
                                 : depends_on_mapping(facts, fold.attention.of(axis_id::tp) * fold.attention.of(axis_id::cp), dp)
                                     ? "its capacity or balance loss looks at the tokens of single ranks, and so depends on the mapping"
                                 : double(count_parameters(model)) * double(options.train.global_batch * Run::sequence) > comparable
                                     ? "the model or the batch is too large for one rank to train in a moment"
                                     : "";
  const bool compare = fold.world() > 1 && incomparable.empty();
  std::vector<double> alone, together;
  if (compare) {
    log.line(sentence("first ", compared, compared == 1 ? " step" : " steps", " on one rank alone, to compare with"));
    alone = single_rank_losses<Run>(ranks, train, data, compared, [&](auto& trainer) {
      program_options same = options;  // but for what is saved
      same.save.clear();
      group_over group(trainer.world().inner());
      host_context context;
      run_keeper(same, std::nullopt, trainer, group, host_exec(context), {}, silent).begin(model);
    });
  } else if (fold.world() > 1 && options.trains()) {
    log.line("not compared with a single rank: " + incomparable);
  }
  bool trusted = true;
  std::atomic<int> stopped{0};
  const run_notes notes{{"run", options.run},
                        {"mapping", mapping_text(fold)},
                        {"seed", std::to_string(train.seed)},
                        {"steps", std::to_string(train.steps)},
                        {"data", data.identity()},
                        {"sequence", std::to_string(Run::sequence)},
                        {"global_batch", std::to_string(train.global_batch)},
                        {"precision", precision::name},
                        {"version", MOEFOLD_VERSION},
                        {"commit", options.commit}};

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
    group_over group(trainer.world().inner());
    run_keeper keeper(options, resumed, trainer, group, host, notes, rank == 0 ? log : silent);
    keeper.begin(model);
    if (options.evaluate) {
      const evaluation e = trainer.evaluate_all();
      if (rank == 0)
        log.line(sentence("loss ", detail::printed("%.6f", e.loss), ", perplexity ", detail::printed("%.4f", std::exp(e.loss)), ", over ",
                          e.tokens, " tokens"));
    } else if (!options.generate.empty()) {
      detail::generate(trainer, options, options.data.format == data_format::bytes, rank == 0 ? log : silent);
    }
    if (!options.trains()) return keeper.export_model(model);
    step_sums sums;
    const auto in_collectives = [&] {  // CPU seconds, where the communicator counts them
      if constexpr (requires { trainer.world().cpu_seconds(); })
        return trainer.world().cpu_seconds();
      else
        return 0.0;
    };
    const double cpu_before = detail::thread_cpu_seconds(), comm_before = in_collectives();
    step_result last;
    progress live(train.steps);
    spike_watch spikes({}, resumed && resumed->notes.contains("spikes") ? spike_memory_of(resumed->notes.at("spikes")) : spike_memory{});
    std::optional<double> held_out;
    std::optional<straggler_watch<comm_type>> late;  // after the first step: ranks begin unevenly
    std::int64_t done = trainer.position().step;
    for (const std::int64_t begin_at = done; done < train.steps && !last.stop;) {
      const auto from = clock::now();
      const traffic_log sent = trainer.traffic();
      last = trainer.compute();
      if (done == begin_at && !options.dump_gradients.empty()) keeper.dump_gradients(model, last);
      trainer.apply(last);
      ++done;
      if (!late) late.emplace(trainer.world().inner());
      const double seconds = std::chrono::duration<double>(clock::now() - from).count();
      sums.add(host, trainer.world().inner(), detail::thread_cpu_seconds() - cpu_before,  // not recorded
               in_collectives() - comm_before, trainer.traffic() - sent, keeper.ready());
      const std::optional<loss_spike> spike = spikes.add(last.step, last.loss);
      if (last.stop) keeper.end(spikes.memory());  // before anything else that takes time: who asked may not wait
      std::optional<double> now;
      const bool due = options.evaluate_every > 0 && done % options.evaluate_every == 0;
      if (due || done == train.steps || last.stop) now = trainer.evaluate();
      if (now) held_out = now;
      keeper.after_step(sums.all_ready(), spikes.memory());
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
      // A file that cannot be written does not end a run: it is left alone from here on.
      const auto unless_it_fails = [&](auto& file, auto&& write) {
        try {
          if (file) write();
        } catch (const error& wrong) {
          log.line(sentence("WARNING: ", wrong.what(), "; the run goes on without it"));
          file.reset();
        }
      };
      unless_it_fails(heatmap, [&] {
        if (now) heatmap->write(options.heatmap);
      });
      record.comm_bytes = sums.bytes();
      unless_it_fails(metrics, [&] { metrics->write(record); });
      log.status(live.line(record));
      if (last.bad)
        log.line(sentence("step ", done, last.skip ? " skipped: " : ": ", describe(*last.bad)));
      else if (last.skip)
        log.line(sentence("step ", done, " skipped: loss ", last.loss, ", gradient norm ", last.grad_norm));
      if (spike) {
        log.line(describe(*spike));
        unless_it_fails(metrics, [&] { metrics->event(*spike); });
      }
      if (together.size() < alone.size()) {
        together.push_back(last.loss);
        if (together.size() == alone.size())
          log.line(compare_losses(together, alone, trusted, sizeof(typename precision::storage) < 4 ? 1e-2 : 1e-4));
      }
    }
    keeper.end(spikes.memory());
    keeper.export_model(model);
    keeper.require_saved();
    stopped = last.stop;
    if constexpr (!Ranks::one_process) {  // rank 0 alone has compared
      std::int32_t doubtful = trusted ? 0 : 1;
      trainer.world().inner().all_reduce(host, std::span<const std::int32_t>(&doubtful, 1), std::span(&doubtful, 1), max{}).wait(host);
      trusted = doubtful == 0;
    }
    const std::string who_was_late = late ? late->report(trainer.world().inner(), host) : "";
    if (rank != 0) return;
    if (!who_was_late.empty()) log.line(who_was_late);
    log.line("memory of rank 0 as measured, by what it was for");
    log.line(table_of(trainer.memory().report()).text());
    if (last.stop)
      log.line(sentence("stopped by ", stop_signals::name_of(last.stop), " after step ", done, " of ", train.steps,
                        options.save.empty() ? "; nothing was saved, since there is no --save" : "; go on with --resume " + options.save));
    log.line(sentence(
        done, " steps in ", duration_text(std::chrono::duration<double>(clock::now() - begin).count()), "; held-out loss ",
        held_out ? detail::printed("%.4f", *held_out) : std::string("not measured: fewer held-out sequences than a global batch")));
    log.line(closing_sentence(last.loss, data.training_entropy()));
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
  return !trusted ? 1 : stopped != 0 ? stop_signals::exit_code(stopped) : 0;
}

}  // namespace moefold
