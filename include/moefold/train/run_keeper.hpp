#pragma once
// What a run keeps and where it comes from, on one rank: starts a trainer from a published model or a checkpoint, saves while it trains, and hands the
// model back. The files themselves are program_files' business (train/files.hpp).
//
//   begin            load | upcycle | resume | nothing
//   after_step       due? begin a save      all ranks' writing done? finish it: it becomes the newest
//   end              the last state is saved, then exported
#include <moefold/comm/failure.hpp>
#include <moefold/core/file_error.hpp>
#include <moefold/mesh/describe.hpp>
#include <moefold/train/log.hpp>
#include <moefold/train/program_options.hpp>
#include <moefold/train/spike.hpp>
#include <moefold/train/trainer.hpp>

#include <bit>
#include <charconv>
#include <optional>

namespace moefold {

/// "attention tp 2 x pp 2 | moe ep 2 x pp 2 on 4 ranks", as a checkpoint remembers its mapping.
inline std::string mapping_text(const folding_extents& fold) {
  return sentence("attention ", fold.attention.text(), " | moe ", fold.moe.text(), " on ", fold.world(),
                  fold.world() == 1 ? " rank" : " ranks");
}

/// The spike watch's memory as a note, every bit of it, and back; a note that is none gives an empty memory.
inline std::string note_of(const spike_memory& memory) {
  std::string text = sentence(memory.seen, ' ', memory.lasting);
  for (const double loss : memory.losses) text += sentence(' ', std::bit_cast<std::uint64_t>(loss));
  return text;
}
inline spike_memory spike_memory_of(std::string_view note) {
  constexpr std::int64_t most = std::int64_t{1} << 60;
  spike_memory memory;
  const auto next = [&](auto& number) {
    const char* const end = note.data() + note.size();
    const auto [stop, failure] = std::from_chars(note.data(), end, number);
    if (failure != std::errc{}) return false;
    note.remove_prefix(std::min(note.size(), std::size_t(stop - note.data()) + 1));
    return true;
  };
  bool whole =
      next(memory.seen) && next(memory.lasting) && memory.seen >= 0 && memory.lasting >= 0 && memory.seen < most && memory.lasting < most;
  for (double& loss : memory.losses) {
    std::uint64_t bits = 0;
    whole = whole && next(bits);
    loss = std::bit_cast<double>(bits);
    whole = whole && std::isfinite(loss);
  }
  return whole ? memory : spike_memory{};
}

/// One per rank; all members but the constructor and ready() are collective over the world. `world` is the trainer's own, unrecorded.
template <class Trainer>
class run_keeper {
 public:
  run_keeper(const program_options& options, const std::optional<found_save>& resumed, Trainer& trainer, rank_group& world, host_exec e,
             run_notes notes, log_sink& log)
      : options_(options), resumed_(resumed), trainer_(trainer), world_(world), e_(e), notes_(std::move(notes)), log_(log) {
    if (!options.save.empty()) saver_ = options.files->saver(options.save, options.keep);
  }

  /// Fills the trainer from where the run starts.
  void begin(const model_shape& model) {
    const bool dense = !options_.upcycle.empty();
    const std::string& published = dense ? options_.upcycle : options_.load;
    if (!published.empty()) {
      auto owned = owned_state(trainer_);
      auto shared = shared_state(trainer_);
      options_.files->load(e_, world_, published, model, dense, options_.train.seed, owned, shared);
      trainer_.weights_follow_masters();
    }
    if (resumed_) {
      auto owned = owned_state(trainer_);
      auto shared = shared_state(trainer_);
      for (const std::string& fresh : options_.files->resume(e_, world_, *resumed_, owned, shared))
        log_.line("  " + fresh + ": not in the save, starts anew");
      trainer_.weights_follow_masters();
      trainer_.go_to(resumed_->position);
      saved_at_ = resumed_->position.step;
    }
  }

  /// Whether a save waits for nothing on this rank any more: what the ranks tell each other with every step. Local.
  bool ready() const { return saver_ && saver_->saving() && saver_->ready(); }

  /// all_ready: every rank's ready(). spikes: of this rank, the same on all.
  void after_step(bool all_ready, const spike_memory& spikes) {
    if (!saver_) return;
    if (all_ready) finish();
    if (options_.save_every > 0 && trainer_.position().step % options_.save_every == 0) save(spikes);
  }

  /// The last state is saved unless it has been.
  void end(const spike_memory& spikes) {
    if (!saver_) return;
    if (saver_->saving()) finish();
    if (saved_at_ == trainer_.position().step) return;
    save(spikes);
    if (saver_->saving()) finish();
  }
  /// Throws where the last save has failed: once everything else is done. Local; the same on all ranks.
  void require_saved() const {
    if (!failed_.empty()) throw error(failed_);
  }

  void export_model(const model_shape& model) {
    if (options_.export_to.empty()) return;
    auto owned = owned_state(trainer_);
    auto shared = shared_state(trainer_);
    options_.files->write_model(e_, world_, options_.export_to, model, options_.load, dtype_of<typename Trainer::precision::storage>, owned,
                                shared);
    log_.line(sentence("model: ", options_.export_to, ", as transformers reads it"));
  }
  /// Between compute() and apply() of a step.
  void dump_gradients(const model_shape& model, const step_result& step) {
    auto owned = owned_gradients(trainer_, 1.0 / double(std::max<std::int64_t>(step.tokens, 1)));
    options_.files->write_gradients(e_, world_, options_.dump_gradients, model, owned);
    log_.line(sentence("gradients of step ", step.step + 1, ": ", options_.dump_gradients));
  }

 private:
  void save(const spike_memory& spikes) {
    if (saver_->saving()) finish();
    run_notes notes = notes_;
    notes["spikes"] = note_of(spikes);
    auto owned = owned_state(trainer_);
    auto shared = shared_state(trainer_);
    attempt([&] {
      saver_->begin(e_, world_, trainer_.position(), notes, owned, shared);
      saving_step_ = trainer_.position().step;
    });
    if (!options_.save_beside && saver_->saving()) finish();
  }
  void finish() {
    attempt([&] {
      const finished_save done = saver_->finish(e_, world_);
      saved_at_ = saving_step_;
      failed_.clear();
      log_.line(sentence("saved step ", saving_step_, ": ", done.folder));
      if (!done.warning.empty()) log_.line("WARNING: " + done.warning);
    });
  }
  /// A save that fails does not end the run: the one before is still there, and the next may do. The last one's failure does.
  template <class F>
  void attempt(F&& f) {
    try {
      f();
    } catch (const comm_error&) {  // a rank is gone
      throw;
    } catch (const error& e) {  // the same on all ranks
      failed_ = e.what();
      log_.line(sentence("WARNING: ", failed_, "; the run goes on, and the save before is still there"));
    }
  }

  const program_options& options_;
  const std::optional<found_save>& resumed_;
  Trainer& trainer_;
  rank_group& world_;
  host_exec e_;
  run_notes notes_;
  log_sink& log_;
  std::unique_ptr<checkpoint_saver> saver_;
  std::int64_t saving_step_ = -1, saved_at_ = -1;
  std::string failed_;
};

}  // namespace moefold
