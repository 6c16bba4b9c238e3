// Training with one process per GPU over NCCL. Who started it, which rank it is, and where the ranks meet is found out by itself; no flag is needed:
//
//   torchrun --no-python --nproc-per-node 8 train_nccl        mpirun -np 8 train_nccl        srun --ntasks 8 --gpus-per-task 1 train_nccl
//   or by hand, on one machine:  for r in 0 1; do MOEFOLD_RANK=$r MOEFOLD_WORLD_SIZE=2 MOEFOLD_LOCAL_RANK=$r MOEFOLD_RENDEZVOUS=localhost:29500 train_nccl & done
#include <moefold/moefold.cuh>

#include <moefold/comm/nccl.cuh>

#include <cstdio>

struct tiny : moefold::run_defaults {
  static constexpr moefold::model_shape model{.layers = 2, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 96};
  static constexpr moefold::extent_t sequence = 64;
  using fold = moefold::folding<moefold::mesh<moefold::tp<2>, moefold::dp<moefold::dyn>>, moefold::mesh<moefold::ep<2>, moefold::edp<moefold::dyn>>>;
};

int main() {
  using namespace moefold;
  try {
    const auto variable = [](const char* name) { return std::getenv(name); };
    const launch_info me = detect(variable);
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 || me.size % 2 != 0) {
      std::printf("%s; this example wants 2, 4, 6 ... processes and a GPU for each\n", describe(me).c_str());
      return 77;
    }
    const char* const visible = variable("CUDA_VISIBLE_DEVICES");
    trainer_options options;
    options.steps = 30;
    options.device = device_of(me.local_rank, devices, visible ? visible : "");
    cuda_check(cudaSetDevice(options.device), "cudaSetDevice(", options.device, ")");
    if (me.rank == 0) std::printf("%s\n", describe(me).c_str());

    std::string text;
    for (int i = 0; i < 2000; ++i) text += "to be or not to be, that is the question; ";
    const dataset data(token_stream::from_bytes(text), tiny::sequence, 1);

    trainer<tiny, nccl_comm, cuda_exec> trainer(join_nccl(me), options, data);
    for (int i = 0; i < options.steps; ++i) {
      const step_result step = trainer.step();
      if (me.rank == 0 && (i + 1) % 10 == 0) std::printf("step %2d  loss %.4f  norm %.3f\n", i + 1, step.loss, step.grad_norm);
    }
    const auto held_out = trainer.evaluate();
    if (me.rank == 0 && held_out) std::printf("held-out loss %.4f\n", *held_out);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
