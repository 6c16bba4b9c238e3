// A whole training run in a program of one's own: a run is a struct, the trainer does the rest. Eight thread ranks, five-dimensional folding.
#include <moefold/moefold.hpp>

#include <cstdio>

struct tiny : moefold::run_defaults {
  static constexpr moefold::model_shape model{.layers = 2, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 48};
  static constexpr moefold::extent_t sequence = 64;
  using fold = moefold::folding<moefold::mesh<moefold::tp<2>, moefold::cp<2>, moefold::dp<moefold::dyn>, moefold::pp<2>>,
                                moefold::mesh<moefold::etp<1>, moefold::ep<4>, moefold::edp<moefold::dyn>, moefold::pp<2>>>;
};

int main() {
  using namespace moefold;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "to be or not to be, that is the question; ";
  const dataset data(token_stream::from_bytes(text), tiny::sequence, 1);

  run_threads(8, [&](thread_comm& world) {
    trainer_options options;
    options.steps = 30;
    trainer<tiny, thread_comm> trainer(std::move(world), options, data);
    for (int i = 0; i < options.steps; ++i) {
      const step_result step = trainer.step();
      if (trainer.world().rank() == 0 && (i + 1) % 10 == 0)
        std::printf("step %2d  loss %.4f  norm %.3f\n", i + 1, step.loss, step.grad_norm);
    }
    const auto held_out = trainer.evaluate();
    if (trainer.world().rank() == 0 && held_out) std::printf("held-out loss %.4f\n", *held_out);
  });
}
