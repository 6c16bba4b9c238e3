// train: trains one of the built-in runs on text or tokens, ranks as threads on the host or on CUDA devices, or as processes of a
// launcher. All it does is in moefold/train/program.hpp.
#include "runs.hpp"

#include <moefold/comm/flight_signal.hpp>
#include <moefold/train/model_files.hpp>
#include <moefold/train/process_ranks.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace {

/// The library's own sources: real text that every checkout has.
std::vector<std::string> own_sources() {
  std::vector<std::string> files;
  std::error_code none;
  for (const auto& file : std::filesystem::recursive_directory_iterator(MOEFOLD_SOURCES, none))
    if (file.is_regular_file()) files.push_back(file.path().string());
  std::sort(files.begin(), files.end());
  moefold::require<moefold::config_error>(!files.empty(), "moefold: the library's sources are no longer in ", MOEFOLD_SOURCES,
                                          "; name text files with --data FILE...");
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Trains a Mixture-of-Experts transformer with MoE Parallel Folding, ranks as threads on the host or on CUDA devices, or, "
      "under torchrun, mpirun or srun, as processes."};
  moefold::program_options options;
  options.run = runs().contains("folded_8") ? "folded_8" : runs().begin()->first;
  options.commit = MOEFOLD_COMMIT;
  bool list = false;
  std::string device = "host", save_beside = "on";
  const CLI::Range at_least_one(moefold::extent_t{1}, moefold::extent_t{1} << 62);
  app.add_option("--run", options.run, "which run (see --list)")->capture_default_str();
  app.add_flag("--list", list, "list the runs that were built in, and stop");
  app.add_option("--device", device, "what ranks compute on: host, or cuda (in bf16, unless the run says otherwise)")
      ->check(CLI::IsMember({"host", "cuda"}))
      ->capture_default_str();
  app.add_option("--ranks", options.ranks, "ranks, for runs with a dyn extent")->check(at_least_one);
  app.add_option("--steps", options.train.steps, "training steps; 0: only load and export")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--load", options.load, "start from the published (Hugging Face) model in this folder; the run must have its shape");
  app.add_option("--upcycle", options.upcycle, "start from the published dense model in this folder: its MLPs become the experts");
  app.add_option("--resume", options.resume, "go on from the newest save in this folder, or from this save; any mapping will do");
  app.add_option("--save", options.save, "save into this folder, at the end and when stopped by Ctrl-C or SIGTERM");
  app.add_option("--save-every", options.save_every, "steps between saves; 0: only at the end")->check(CLI::NonNegativeNumber);
  app.add_option("--keep", options.keep, "saves that stay, the newest ones; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--save-beside", save_beside, "on: steps go on while a save is written; off: they wait [on]")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--export", options.export_to, "write the model into this folder at the end, as transformers reads it");
  app.add_option("--dump-gradients", options.dump_gradients,
                 "write the first step's gradients into this safetensors file, under published names");
  app.add_flag("--evaluate", options.evaluate, "instead of training: loss and perplexity over all of the data");
  const CLI::Option* const generate = app.add_option(
      "--generate", options.generate,
      "instead of training: continue this text, always by the likeliest token; numbers of tokens unless the data format is bytes");
  app.add_option("--generate-tokens", options.generate_tokens, "by so many tokens")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--data", options.data.files, "files to train on, or to evaluate; default: the library's own sources");
  std::string format, shuffle;
  app.add_option("--data-format", format, "what they hold: bytes, u16, u32, megatron (FILE.bin and FILE.idx) or llmc [bytes]");
  app.add_option("--data-weights", options.data.weights,
                 "how many samples come from each file, in proportion; default: the files are one text");
  app.add_option("--shuffle", shuffle, "on or off; off: sequences in file order [on]")->check(CLI::IsMember({"on", "off"}));
  app.add_option("--document-end", options.data.document_end, "token that ends a document; attention does not cross it")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--documents", options.data.document_marks, "attention does not cross documents that the files mark");
  app.add_flag("--pack-documents", options.data.pack, "fill sequences with whole documents instead of cutting them");
  const CLI::Option* const held_out =
      app.add_option("--held-out", options.data.held_out_share,
                     "share of the data that is held out for evaluation; default: 0.05, with --shuffle off none")
          ->check(CLI::Range(0.0, 0.99));
  app.add_option("--metrics", options.metrics, "write one JSON object per step to this file");
  app.add_option("--heatmap", options.heatmap, "draw the load of every expert over the steps into this file (SVG)");
  app.add_option("--draw-schedule", options.draw_schedule, "draw the run's pipeline schedule into this file (SVG), and stop");
  app.add_option("--record-routing", options.record_routing, "write every token's experts to this file");
  app.add_option("--replay-routing", options.replay_routing,
                 "use the experts of this file instead of the router's own choices, as far as it goes; evaluation chooses freely");
  app.add_flag("--even-routing", options.even_routing,
               "for benchmarks: give every expert the same number of tokens, whatever its scores; in training, not in evaluation");
  app.add_option("--seed", options.train.seed, "seed of weights and data order")->capture_default_str();
  app.add_option("--learning-rate", options.train.learning_rate, "peak learning rate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  std::string rate, bad;
  app.add_option("--rate", rate, "how the learning rate goes: cosine, linear, stable_decay, inverse_sqrt or constant [cosine]");
  app.add_option("--warmup", options.train.warmup, "steps in which the learning rate rises; default: a tenth of the run, at most 100");
  app.add_option("--floor", options.train.floor, "what the learning rate falls to, as a share of its peak")->capture_default_str();
  app.add_option("--expert-rate", options.train.expert_rate, "the experts' learning rate, as a share of the others'")
      ->capture_default_str();
  app.add_option("--on-bad-gradients", bad, "what to do about gradients that are not finite: stop, skip the step, or zero them [stop]");
  app.add_option("--global-batch", options.train.global_batch, "sequences per step")->check(at_least_one)->capture_default_str();
  app.add_option("--micro-batch", options.train.micro_batch, "sequences per rank and forward")->check(at_least_one)->capture_default_str();
  app.add_flag("--dry-run", options.dry_run, "print the folding and the memory table, and stop");
  moefold::launch_info me;
  try {
    me = moefold::detect([](const char* name) { return std::getenv(name); });
  } catch (const moefold::config_error& wrong) {
    std::fprintf(stderr, "train: %s\n", wrong.what());
    return 2;
  }
  const bool speaks = me.rank == 0;  // of what all processes see alike
  bool met = false;                  // until the processes have, what keeps one from it is known to it alone
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return speaks ? app.exit(done) : 0;
  } catch (const CLI::ParseError& wrong) {
    if (speaks) std::fprintf(stderr, "train: %s (see --help)\n", wrong.what());
    return 2;
  }
  std::optional<moefold::stop_signals> signals;
  std::optional<moefold::flight_signal> where;
  moefold::model_files files;
  // What was said, once it fits together; the run it names.
  const auto understood = [&]() -> const run_entry& {
    const auto run = runs().find(options.run);
    moefold::require<moefold::config_error>(run != runs().end(), "moefold: there is no run '", options.run,
                                            "' in this program; --list shows those there are, and MOEFOLD_RUNS adds one");
    if (!rate.empty()) options.train.rate = moefold::rate_shape_of(rate);
    if (!bad.empty()) options.train.bad = moefold::bad_step_of(bad);
    if (!format.empty()) options.data.format = moefold::data_format_of(format);
    if (shuffle == "off") {
      options.data.shuffle = false;
      if (held_out->count() == 0) options.data.held_out_share = 0;
    }
    options.save_beside = save_beside == "on";
    const bool reads_data = options.evaluate || (options.train.steps > 0 && options.generate.empty());
    if (options.data.files.empty() && reads_data) {
      moefold::require<moefold::config_error>(
          options.data.format == moefold::data_format::bytes,
          "moefold: the library's own sources are bytes; name files with --data, or leave out --data-format");
      options.data.files = own_sources();
    }
    options.files = &files;
    moefold::require<moefold::config_error>(generate->count() == 0 || !options.generate.empty(),
                                            "moefold: --generate continues a text; give at least one character or token");
    if (options.trains()) options.train.stop = &signals.emplace().asked();  // what only reads may end at once
    return run->second;
  };
  const auto built_with = [](bool built, const char* what, const char* mend) {
    moefold::require<moefold::config_error>(built, "moefold: this program was built without ", what, "; ", mend);
  };
  try {
    moefold::terminal_sink log;
    where.emplace();  // SIGUSR1 writes down where every rank is
    if (list) {
      for (const auto& [name, run] : runs())
        if (speaks) std::printf("%-20s %s\n", name.c_str(), run.summary.c_str());
      return 0;
    }
    if (me.size > 1 && device == "host")  // a launcher started us: one rank per process
      return moefold::run_launched(me, [&](const moefold::process_ranks& ranks) {
        met = true;
        const run_entry& run = understood();
        built_with(run.as_host_process != nullptr, "ranks as processes", "start one process with --ranks");
        return run.as_host_process(options, log, ranks);
      });
    const run_entry& run = understood();
    if (me.size > 1) {
      built_with(run.as_process != nullptr, "NCCL", "build it where NCCL is found, or start one process with --ranks");
      return run.as_process(options, log, me);
    }
    built_with(device == "host" || run.on_cuda != nullptr, "CUDA",
               "build it with cmake --workflow --preset gpu-train, or leave out --device cuda");
    return (device == "cuda" ? run.on_cuda : run.on_host)(options, log);
  } catch (const std::exception& wrong) {
    if (me.size == 1 || device == "cuda" || !met || moefold::speaks_of(me, wrong)) std::fprintf(stderr, "train: %s\n", wrong.what());
    return dynamic_cast<const moefold::config_error*>(&wrong) != nullptr ? 2 : 1;
  }
}
