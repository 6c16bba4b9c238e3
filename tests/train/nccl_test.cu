#include <moefold/comm/nccl.cuh>
#include <moefold/train/trainer.cuh>

#include "../support/device.hpp"
#include "../support/run_nccl.hpp"

#include <moefold/comm/self.hpp>
#include <moefold/mesh/describe.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16;
constexpr std::int64_t steps = test::emulated ? 3 : 10;

constexpr model_shape small = [] {
  model_shape m{.layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 8, .experts = 4, .ffn = 16, .vocabulary = 32};
  m.shared_ffn = 8, m.init_std = 0.1;
  return m;
}();
using in_fp32 = policies<fp32, cp_ring, balanced_moe, one_f_one_b, adamw>;

template <class Comm, class Exec>
std::vector<double> losses(Comm world, const folding_extents& fold, int device) {
  std::string text;
  for (std::size_t i = 0; i < 3000; ++i) text += char((i * i / 7 + i) % 31);
  const dataset data(token_stream::from_bytes(text), sequence, 1);
  trainer_options options;
  options.steps = steps, options.global_batch = 4, options.micro_batch = 1, options.device = device;
  basic_trainer<in_fp32, Comm, Exec> trainer(std::move(world), small, sequence, fold, options, data, {}, facts_of<balanced_moe>());
  std::vector<double> all;
  for (std::int64_t i = 0; i < steps; ++i) all.push_back(trainer.step().loss);
  return all;
}

void check_fold(nccl_comm& world, const folding_extents& fold) {
  CAPTURE(describe(fold));
  const std::vector<double> alone = losses<self_comm, host_exec>(self_comm(), {}, 0);
  int device = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  const std::vector<double> together = losses<nccl_comm, cuda_exec>(world.split(0, world.rank(), "world"), fold, device);
  REQUIRE(together.size() == alone.size());
  for (std::size_t i = 0; i < alone.size(); ++i) {
    CAPTURE(i);
    CHECK(together[i] == doctest::Approx(alone[i]).epsilon(1e-4));
  }
}

using ax = axis_id;

}  // namespace

TEST_SUITE("train/nccl" * doctest::skip(!test::nccl_is_possible())) {
  TEST_CASE("two ranks over NCCL train a folded model to the losses of one rank on the host") {
    test::on_nccl("two ranks over NCCL train a folded model to the losses of one rank on the host", 2, [](nccl_comm& world, cuda_exec) {
      check_fold(world, make_folding({{ax::tp, 2}}, {{ax::ep, 2}}));
      if (test::emulated) return;
      check_fold(world, make_folding({{ax::pp, 2}}, {{ax::pp, 2}}));
      check_fold(world, make_folding({{ax::cp, 2}}, {{ax::etp, 2}}));
    });
  }
  TEST_CASE("four ranks over NCCL train a folded model to the losses of one rank on the host") {
    test::on_nccl("four ranks over NCCL train a folded model to the losses of one rank on the host", 4, [](nccl_comm& world, cuda_exec) {
      check_fold(world, make_folding({{ax::cp, 2}, {ax::pp, 2}}, {{ax::ep, 2}, {ax::pp, 2}}));  // messages both ways
      if (test::emulated) return;
      check_fold(world, make_folding({{ax::tp, 2}, {ax::dp, 2}}, {{ax::ep, 2}, {ax::edp, 2}}));
    });
  }
}
