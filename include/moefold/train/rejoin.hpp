#pragma once
// A run that outlives a failure: every rank keeps a copy of its state in memory, and after a failure a trainer on a rebuilt world goes on from there,
// bit for bit as if nothing had happened. Saves on disk (train/model_files.hpp) do the same for runs whose processes are gone.
//
//   std::optional<trainer> t;  t.emplace(world, ..);  memory_save kept;
//   for (;;) try { kept.take(*t);  for (int i = 0; i < 100; ++i) t->step(); }
//            catch (const comm_error&) { rejoin(t, kept, [&](Comm world) { t.emplace(std::move(world), ..); }); }
// The trainer is made anew, not mended: what a step leaves half made (gradients, operations in flight, buffers of the pipeline, a helper's jobs) is
// spread over all its parts, and a constructor is the one place that is known to set up every one of them.
#include <moefold/train/trainer.hpp>

#include <cstring>
#include <optional>
#include <utility>
#include <vector>

namespace moefold {

/// One rank's share of a run, as it was between two steps: masters, moments, what routers and scales remember, and the position. Bytes: what
/// owned_state and shared_state list, allocated by the first take.
class memory_save {
 public:
  bool empty() const { return owned_.empty() && shared_.empty(); }
  const run_position& position() const { return position_; }

  /// Between two steps. Local, but all ranks take after the same step.
  template <class Trainer>
  void take(Trainer& trainer) {
    const auto owned = owned_state(trainer);
    const auto shared = shared_state(trainer);
    owned_.resize(owned.size()), shared_.resize(shared.size());
    for (std::size_t i = 0; i < owned.size(); ++i) {
      owned_[i].resize(owned[i].bytes());
      owned[i].get(owned_[i]);
    }
    for (std::size_t i = 0; i < shared.size(); ++i) shared_[i].assign(shared[i].bytes.begin(), shared[i].bytes.end());
    position_ = trainer.position();
  }

  /// Into a trainer of the same model and folding, on the same rank. Collective over its world.
  template <class Trainer>
  void restore(Trainer& trainer) const {
    const auto owned = owned_state(trainer);
    const auto shared = shared_state(trainer);
    require<config_error>(owned.size() == owned_.size() && shared.size() == shared_.size(), "moefold: a save in memory of ", owned_.size(),
                          " shares and ", shared_.size(), " arrays meets a trainer of ", owned.size(), " and ", shared.size(),
                          "; restore it into a trainer of the same model, folding and rank");
    for (std::size_t i = 0; i < owned.size(); ++i) {
      require<config_error>(owned[i].bytes() == owned_[i].size(), "moefold: a save in memory has ", owned_[i].size(), " bytes of ",
                            owned[i].name(), ", the trainer ", owned[i].bytes(),
                            "; restore it into a trainer of the same model, folding and rank");
      owned[i].set(owned_[i]);
    }
    for (std::size_t i = 0; i < shared.size(); ++i) {
      require<config_error>(shared[i].bytes.size() == shared_[i].size(), "moefold: a save in memory has ", shared_[i].size(), " bytes of ",
                            shared[i].name, ", the trainer ", shared[i].bytes.size(), "; restore it into a trainer of the same model");
      if (!shared_[i].empty()) std::memcpy(shared[i].bytes.data(), shared_[i].data(), shared_[i].size());
    }
    trainer.go_to(position_);
    trainer.weights_follow_masters();
  }

 private:
  std::vector<std::vector<std::byte>> owned_, shared_;
  run_position position_;
};

/// After a failure: the world of the trainer is rebuilt, the trainer destroyed, another one made by `make(world)`, which puts it in its place, and
/// filled from the save. Collective over the ranks of the world, whatever each has seen of the failure; inside the catch block, so that a rank that
/// failed by itself tells the others why. Throws what rebuild() throws if a rank is gone; then the trainer is as the failure left it.
template <class Trainer, class Make>
void rejoin(std::optional<Trainer>& trainer, const memory_save& save, Make&& make) {
  auto world = trainer->world().inner().rebuild();
  trainer.reset();
  make(std::move(world));
  save.restore(*trainer);
}

}  // namespace moefold
