#pragma once
// What the program `train` may be told, but for what a trainer may be told (train/options.hpp).
#include <moefold/train/data_options.hpp>
#include <moefold/train/files.hpp>
#include <moefold/train/options.hpp>

#include <string>
#include <vector>

namespace moefold {

struct program_options {
  std::string run{};             // its name
  extent_t ranks = 0;            // 0: the smallest world of the run
  data_options data{};           // files and how they are read; its vocabulary is the run's
  std::string metrics{};         // file for JSON lines; empty: none
  std::string heatmap{};         // file for the expert-load heatmap (SVG); empty: none
  std::string draw_schedule{};   // file for a picture of the pipeline schedule (SVG); empty: none. Nothing is trained then
  std::string record_routing{};  // file for every token's experts, to be replayed; empty: none
  std::string replay_routing{};  // file whose choices are used instead of the router's, as far as it goes; empty: none
  bool even_routing = false;     // for benchmarks: every expert gets the same number of tokens, whatever its scores
  std::string commit = "unknown";
  std::int64_t evaluate_every = 50;  // steps; 0: only at the end. The last step is always evaluated
  bool dry_run = false;              // stop after the tables

  program_files* files = nullptr;  // reads and writes what is named below; needed where anything is
  std::string load{};              // folder of a published model to start from
  std::string upcycle{};           // folder of a published dense model to start from
  std::string resume{};            // folder of checkpoints, or one of them, to go on from
  std::string save{};              // folder for checkpoints; the last state is always saved
  std::int64_t save_every = 0;     // steps between saves; 0: only at the end
  int keep = 2;                    // saves that stay, the newest ones; 0: all
  bool save_beside = true;         // steps go on while a save is written
  std::string export_to{};         // folder for the model as transformers reads it, at the end
  std::string dump_gradients{};    // file for the gradients of the first step, under published names
  bool evaluate = false;           // instead of training: the loss over all of the data
  std::string generate{};          // instead of training: continue this text; bytes, or numbers of tokens where the data are tokens
  std::int64_t generate_tokens = 64;

  trainer_options train{};  // steps 0: nothing is trained, only loaded and exported

  bool trains() const { return train.steps > 0 && !evaluate && generate.empty(); }
};

/// Throws config_error where options contradict each other.
inline void check_files(const program_options& o) {
  const int sources = !o.load.empty() + !o.upcycle.empty() + !o.resume.empty();
  require<config_error>(sources <= 1, "moefold: a run starts from one place; give only one of --load, --upcycle and --resume");
  require<config_error>(o.files != nullptr || (sources == 0 && o.save.empty() && o.export_to.empty() && o.dump_gradients.empty()),
                        "moefold: this program was built without model files; give program_options::files (train/model_files.hpp)");
  require<config_error>(o.save_every >= 0 && o.keep >= 0, "moefold: save_every and keep are 0 or above (given ", o.save_every, " and ",
                        o.keep, ")");
  require<config_error>(o.save_every == 0 || !o.save.empty(), "moefold: --save-every says when to save, and --save DIR where; give both");
  require<config_error>(!o.evaluate || o.generate.empty(), "moefold: give one of --evaluate and --generate");
  require<config_error>(o.generate_tokens >= 1, "moefold: generate at least 1 token (given ", o.generate_tokens, ")");
  require<config_error>(o.save.empty() || o.trains(),
                        "moefold: --save keeps what a run learns, and nothing is trained; leave it out, or train");
  require<config_error>(o.dump_gradients.empty() || o.trains(),
                        "moefold: --dump-gradients writes those of the first step; train at least 1 step");
  require<config_error>(o.train.steps >= 0, "moefold: a run has 0 or more steps (given ", o.train.steps, ")");
  require<config_error>(o.train.steps > 0 || sources > 0,
                        "moefold: a run of 0 steps only loads and exports; give --load, --upcycle or --resume");
}

}  // namespace moefold
