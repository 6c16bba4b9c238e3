#pragma once
// Trains one small model on real text, the library's own headers, and returns its loss curve: what a precision costs is read off its end.
// Runs from the root of the project, as CTest does.
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/train/trainer.hpp>

#include <algorithm>
#include <filesystem>
#include <mutex>

namespace moefold::testing {

struct curve {
  std::vector<double> losses, norms;  // of every step
  std::uint64_t weights = 0;          // a hash of the last weights of all ranks, bit for bit
  std::vector<std::int64_t> load;     // choices of every expert in the last step
  bool operator==(const curve&) const = default;

  /// Mean loss of the last `steps` steps.
  double last(std::size_t steps) const {
    double sum = 0;
    for (std::size_t i = losses.size() - steps; i < losses.size(); ++i) sum += losses[i];
    return sum / double(steps);
  }
};

/// Read once: every curve of a process is of the same text, whatever happens to the files meanwhile.
inline const token_stream& own_sources() {
  static const token_stream text = [] {
    std::vector<std::string> files;
    for (const auto& file : std::filesystem::recursive_directory_iterator("include/moefold"))
      if (file.is_regular_file()) files.push_back(file.path().string());
    std::sort(files.begin(), files.end());
    return token_stream::from_files(files, disk());
  }();
  return text;
}

template <class Precision>
using curve_policies = policies<Precision, cp_ring, run_defaults::moe, run_defaults::schedule, run_defaults::optimizer>;

inline constexpr model_shape curve_model{.layers = 2, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .experts = 4, .ffn = 64};

/// On as many threads as the folding has ranks: 8 sequences of 64 tokens a step. The rate is a quarter of the default: at that one a model so narrow
/// learns worse, and two runs that differ in one rounding end up to 2% apart, either way, because another expert here and there makes another run.
/// At this one they stay within 0.4%. `until`: stop early, at the rates of the whole run.
template <class Precision>
curve train_curve(std::int64_t steps, const folding_extents& fold = {}, std::int64_t until = -1, std::uint64_t seed = 1234) {
  constexpr extent_t sequence = 64;
  const dataset data(own_sources(), sequence, 3);
  curve result;
  std::mutex guard;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    const int rank = world.rank();
    trainer_options options;
    options.steps = steps, options.global_batch = 8, options.micro_batch = 2, options.seed = seed, options.learning_rate = 1e-3;
    basic_trainer<curve_policies<Precision>, thread_comm> trainer(std::move(world), curve_model, sequence, fold, options, data);
    for (std::int64_t i = 0; i < (until < 0 ? steps : until); ++i) {
      const step_result now = trainer.step();
      if (rank == 0) result.losses.push_back(now.loss), result.norms.push_back(now.grad_norm);
    }
    std::uint64_t hash = 0;
    for (const auto& entry : trainer.parameters().entries())
      for (const auto w : entry.value) hash = (hash ^ std::bit_cast<std::uint64_t>(double(w))) * 0x100000001b3u;
    std::scoped_lock lock(guard);
    result.weights += hash * std::uint64_t(2 * rank + 1);  // in any order of the ranks
    if (rank == 0) result.load.assign(trainer.load().begin(), trainer.load().end());
  });
  return result;
}

}  // namespace moefold::testing
