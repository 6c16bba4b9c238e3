// Saves a run on four ranks and goes on with it on eight, in another mapping: weights, moments, routers and the place in the data are the same, and so are
// the losses. In a program of one's own; the program `train` does the same with --save and --resume.
#include <moefold/checkpoint/checkpoint.hpp>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/moefold.hpp>

#include <cstdio>
#include <filesystem>

namespace {

using namespace moefold;

constexpr model_shape model{.layers = 4, .hidden = 32, .heads = 4, .kv_heads = 4, .head_dim = 8, .ffn = 48};
constexpr extent_t sequence = 64;
using trainer_type = basic_trainer<policies_of<run_defaults>, thread_comm>;

/// This rank's share of everything that a resumed run needs, by name.
checkpoint_content content_of(trainer_type& trainer) {
  checkpoint_content content;
  content.step = trainer.position().step;
  content.notes["samples"] = std::to_string(trainer.position().sample);
  content.notes["updates"] = std::to_string(trainer.position().updates);
  for (state_tensor& t : owned_state(trainer)) content.tensors.push_back({t.name(), t.piece, t.type, t.get, t.set});
  return content;
}

/// Trains to step `last` on a folding, from a save if `resume`, and saves at the end.
double train(const folding_extents& fold, const dataset& data, std::int64_t last, bool resume, const std::string& folder) {
  double loss = 0;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    trainer_options options;
    options.steps = 20;
    const bool first = world.rank() == 0;
    trainer_type trainer(std::move(world), model, sequence, fold, options, data);
    thread_comm& comm = trainer.world().inner();
    host_context context;
    const host_exec e(context);
    if (resume) {
      const loaded_checkpoint from = load_checkpoint(e, comm, disk(), folder, content_of(trainer).tensors);
      trainer.weights_follow_masters();
      trainer.go_to({from.step, std::stoll(from.note("updates")), std::stoll(from.note("samples"))});
      if (first) std::printf("%s: step %lld, written by %d ranks\n", from.folder.c_str(), static_cast<long long>(from.step), from.world);
    }
    step_result step;
    while (trainer.position().step < last) step = trainer.step();
    checkpoint_writer saves(disk(), folder);
    saves.save(e, comm, content_of(trainer));  // beside further steps: begin, and finish later
    if (first) loss = step.loss;
  });
  return loss;
}

}  // namespace

int main() {
  using enum axis_id;
  const std::string folder = (std::filesystem::temp_directory_path() / "moefold_resume_example").string();
  std::filesystem::remove_all(folder);
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "to be or not to be, that is the question; ";
  const dataset data(token_stream::from_bytes(text), sequence, 1);

  const folding_extents four = make_folding({{tp, 2}, {dp, 2}}, {{ep, 4}});
  const folding_extents eight = make_folding({{cp, 2}, {dp, 2}, {pp, 2}}, {{etp, 2}, {ep, 2}, {pp, 2}});
  train(four, data, 10, false, folder);
  const double other = train(eight, data, 20, true, folder);
  std::filesystem::remove_all(folder);
  const double undisturbed = train(four, data, 20, false, folder);
  std::filesystem::remove_all(folder);
  std::printf("loss of step 20: %.6f on 4 ranks, %.6f on 4 and then 8\n", undisturbed, other);
  return other - undisturbed < 1e-3 && undisturbed - other < 1e-3 ? 0 : 1;
}
