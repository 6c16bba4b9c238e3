#pragma once
// Small runs that are cut, saved with train/model_files.hpp, and go on: in any mapping, after any step.
#include <moefold/comm/thread.hpp>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/train/model_files.hpp>
#include <moefold/train/run_keeper.hpp>
#include <moefold/train/trainer.hpp>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace moefold::testing {

/// A folder of its own in the system's place for such, gone at the end.
struct temporary_folder {
  std::filesystem::path path;
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "moefold_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  temporary_folder(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code none;
    std::filesystem::remove_all(path, none);
  }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

struct remembering_moe : moe_defaults {  // everything a router can remember
  static constexpr balance_losses balance{.global = 1e-2};
};
template <class Precision>
using resumed_policies = policies<Precision, cp_all_gather, remembering_moe, one_f_one_b, adamw>;

/// Odd on purpose: a vocabulary that tp pads, tied tables, more layers than stages, biases, norms.
inline constexpr model_shape resumed_model{.layers = 4,
                                           .hidden = 16,
                                           .heads = 4,
                                           .kv_heads = 4,
                                           .head_dim = 4,
                                           .experts = 8,
                                           .ffn = 8,
                                           .vocabulary = 61,
                                           .init_std = 0.1,
                                           .score = score_function::sigmoid,
                                           .expert_bias = true,
                                           .qkv_bias = true,
                                           .qk_norm = true,
                                           .tied_embeddings = true};
inline constexpr extent_t resumed_sequence = 32;

struct resumed_mapping {
  std::string name;
  folding_extents fold;
};
/// TP, CP, DP, PP | ETP, EP and chunks of a stage; W 1, 2, 4, 8.
inline std::vector<resumed_mapping> resumed_mappings() {
  std::vector<resumed_mapping> all;
  const auto add = [&](extent_t tp, extent_t cp, extent_t dp, extent_t pp, extent_t etp, extent_t ep, extent_t chunks = 1) {
    const extent_t edp = tp * cp * dp / (etp * ep);
    folding_extents fold = make_folding({{axis_id::tp, tp}, {axis_id::cp, cp}, {axis_id::dp, dp}, {axis_id::pp, pp}},
                                        {{axis_id::etp, etp}, {axis_id::ep, ep}, {axis_id::edp, edp}, {axis_id::pp, pp}});
    fold.layers.chunks = chunks;
    all.push_back(
        {sentence("tp ", tp, " cp ", cp, " dp ", dp, " pp ", pp, " | etp ", etp, " ep ", ep, chunks > 1 ? ", interleaved" : ""), fold});
  };
  add(1, 1, 1, 1, 1, 1);
  add(2, 1, 1, 1, 1, 1);
  add(1, 2, 1, 1, 1, 2);
  add(1, 1, 2, 1, 2, 1);
  add(1, 1, 1, 2, 1, 1);
  add(1, 1, 1, 2, 1, 1, 2);
  add(4, 1, 1, 1, 1, 4);
  add(2, 2, 1, 1, 2, 2);
  add(2, 1, 2, 1, 1, 2);
  add(1, 1, 4, 1, 1, 4);
  add(1, 4, 1, 1, 4, 1);
  add(1, 1, 2, 2, 1, 2);
  add(2, 1, 1, 2, 2, 1, 2);
  add(1, 1, 1, 4, 1, 1);
  add(1, 2, 1, 2, 1, 1);
  add(2, 2, 2, 1, 1, 8);
  add(4, 1, 2, 1, 2, 4);
  add(1, 2, 4, 1, 1, 8);
  add(2, 2, 1, 2, 1, 4);
  add(2, 1, 2, 2, 1, 2, 2);
  add(1, 1, 2, 4, 2, 1);
  add(2, 1, 1, 4, 1, 2);
  add(1, 1, 8, 1, 4, 2);
  add(4, 2, 1, 1, 1, 1);
  return all;
}

struct resumed_run {
  std::vector<double> losses;
  std::map<std::string, std::vector<std::byte>> state;  // of the whole model, by name; and the shared arrays
  run_position position;
};

inline std::string resumed_text() {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += char((i * i / 7 + i) % 61);
  return text;
}
inline const dataset& resumed_data() {
  static const dataset data(token_stream::from_bytes(resumed_text()), resumed_sequence, 1);
  return data;
}

struct resumed_plan {
  int steps = 0;           // of this part
  std::string from{};      // folder of saves; empty: begins
  std::string to{};        // folder of saves; empty: not saved
  std::int64_t every = 0;  // steps between saves; 0: at the end
  bool beside = true;
  extent_t global_batch = 8;
  storage* on = &disk();
  std::function<void()> after_step{};  // of rank 0, once what is due is saved
};

/// The state of the whole model from what this rank owns; from all ranks together it is complete.
template <class Trainer>
void gather_state(Trainer& trainer, std::mutex& guard, resumed_run& into) {
  trainer.parameters();  // all have arrived: nobody waits for another rank below
  std::scoped_lock lock(guard);
  into.position = trainer.position();
  for (const state_array& a : shared_state(trainer)) into.state[a.name] = {a.bytes.begin(), a.bytes.end()};
  for (const state_tensor& t : owned_state(trainer)) {
    std::vector<std::byte> mine(t.bytes());
    t.get(mine);
    const std::size_t size = size_of(t.type);
    auto& all = into.state[t.name()];
    all.resize(std::size_t(t.fact.parameters()) * size);
    std::size_t at = 0;
    t.piece.for_each_run([&](extent_t global, extent_t, extent_t count) {
      std::copy_n(mine.begin() + extent_t(at), std::size_t(count) * size, all.begin() + global * extent_t(size));
      at += std::size_t(count) * size;
    });
  }
}

template <class Precision>
resumed_run run_part(const folding_extents& fold, const resumed_plan& plan) {
  resumed_run result;
  std::mutex guard;
  model_files files(*plan.on);
  program_options options;
  options.files = &files, options.save = plan.to, options.save_every = plan.every, options.save_beside = plan.beside;
  options.train.steps = 40, options.train.warmup = 2, options.train.global_batch = plan.global_batch;
  const std::optional<found_save> save = plan.from.empty() ? std::nullopt : std::optional(files.find_save(plan.from));
  run_threads(int(fold.world()), [&](thread_comm& world) {
    const bool first = world.rank() == 0;
    trainer_options train = options.train;
    static const schedule_value interleaved_2 = value_of_schedule<interleaved<2>>;
    if (fold.layers.chunks > 1) train.schedule = &interleaved_2;
    basic_trainer<resumed_policies<Precision>, thread_comm> trainer(std::move(world), resumed_model, resumed_sequence, fold, train,
                                                                    resumed_data());
    host_context context;
    const host_exec host(context);
    silent_sink log;
    group_over group(trainer.world().inner());
    run_keeper keeper(options, save, trainer, group, host, {{"mapping", mapping_text(fold)}}, log);
    keeper.begin(resumed_model);
    if (plan.steps == 0) return gather_state(trainer, guard, result);
    for (int i = 0; i < plan.steps; ++i) {
      const step_result now = trainer.step();
      std::array<std::int32_t, 1> ready{keeper.ready() ? 1 : 0}, all{};
      trainer.world().inner().all_reduce(host, std::span<const std::int32_t>(ready), std::span<std::int32_t>(all), sum{}).wait(host);
      keeper.after_step(all[0] == trainer.world().size(), {});
      if (first) result.losses.push_back(now.loss);
      if (first && plan.after_step) plan.after_step();
    }
    keeper.end({});
    gather_state(trainer, guard, result);
  });
  return result;
}

/// Largest relative difference of two lists of losses.
inline double apart(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) return 1e9;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return worst;
}

}  // namespace moefold::testing
