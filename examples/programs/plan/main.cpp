// plan: which mapping a model should be trained in on a cluster, how much memory it takes, how fast it is and why. All it does is in
// moefold/train/plan_program.hpp.
#include "calibrate.hpp"

#include <moefold/train/plan_program.hpp>

#include <CLI/CLI.hpp>

#include <cstdio>

namespace {

/// What was typed, so that a shell reads it again as it was.
std::string typed(int argc, char** argv) {
  std::string all = "plan";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:") ==
                                            std::string::npos;
    std::string quoted = "'";
    for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c == '\n' ? ' ' : c);
    all += ' ' + (plain ? word : quoted + "'");
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Says which mappings of a MoE model on a cluster are fastest and fit: memory, time of a step, MFU, and why."};
  moefold::plan_options options;
  options.command = typed(argc, argv);
  bool list = false, dropless = false;
  const CLI::Range at_least_one(moefold::extent_t{1}, moefold::extent_t{1} << 40);
  app.add_option("--model", options.model, "a name (see --list), a config.json as Hugging Face writes it, or the folder it lies in");
  app.add_option("--gpus", options.gpus, "how many")->check(at_least_one);
  app.add_option("--cluster", options.cluster, "what they are: a name (see --list), or a file that --calibrate wrote")
      ->capture_default_str();
  app.add_option("--seq", options.sequence, "tokens of a sequence")->check(at_least_one)->capture_default_str();
  app.add_option("--global-batch", options.global_batch, "sequences of a step")->check(at_least_one)->capture_default_str();
  app.add_option("--precision", options.precision, "bf16 or fp8")->capture_default_str();
  auto* const capacity = app.add_option("--capacity", options.capacity, "experts take at most so many percent of the even share")
                             ->check(CLI::Range(1, 100000));
  app.add_flag("--dropless", dropless, "experts take every token (the default)")->excludes(capacity);
  app.add_option("--strategy", options.strategy, "folding, or what it is compared with: mcore, tp-ep-dp, fsdp-ep, fsdp")
      ->capture_default_str();
  app.add_option("--schedule", options.schedule, "1f1b (interleaved where that is better), zero-bubble or zero-bubble-h1")
      ->capture_default_str();
  app.add_option("--fix", options.fix,
                 "hold numbers: tp=2,pp=8; any of tp, cp, dp, pp, etp, ep, edp, vpp, micro_batch, and recompute=none, full, or parts like "
                 "norms+activation");
  app.add_option("--top", options.top, "how many plans to show")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--explain", options.explain,
                 "why plan N is what it is: groups, traffic, memory, time, what would change it; without N, plan 1")
      ->expected(0, 1)
      ->default_str("1")
      ->check(CLI::Range(1, 1000));
  app.add_option("--routing", options.routing, "plan for the routing of a run: the file of train --metrics");
  app.add_option("--json", options.json, "write all of it as one JSON object into this file; -: onto standard output, and nothing else");
  app.add_option("--emit-run", options.emit_run, "write plan 1 as a run, a header for MOEFOLD_RUNS named like its struct: my_run.hpp");
  app.add_option("--svg-groups", options.svg_groups, "draw where the groups of plan 1 lie on the nodes into this file");
  app.add_option("--svg-time", options.svg_time, "draw where the time of the plans goes into this file");
  app.add_flag("--list", list, "list models, clusters and strategies, and stop");
  std::string measured;
  const CLI::Option* const calibrates =
      app.add_option(
             "--calibrate", measured,
             "instead of planning: measure this machine, write it into this file for --cluster, and hold predicted against measured steps")
          ->expected(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ParseError& wrong) {
    std::fprintf(stderr, "plan: %s (see --help)\n", wrong.what());
    return 2;
  }
  try {
    if (calibrates->count() > 0) return calibrate(measured);
    if (list) return std::fputs(moefold::plan_choices().c_str(), stdout), 0;
    moefold::require<moefold::config_error>(
        !options.model.empty() && options.gpus > 0,
        "moefold: a plan needs a model and a number of GPUs, like: plan --model mixtral-8x22b --gpus 128 "
        "--cluster dgx-h100; --list shows the names");
    return moefold::run_plan(options, stdout);
  } catch (const std::exception& wrong) {
    std::fprintf(stderr, "plan: %s\n", wrong.what());
    return 2;
  }
}
