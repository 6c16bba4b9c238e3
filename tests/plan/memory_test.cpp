#include <moefold/plan/memory.hpp>

#include <moefold/core/precision.hpp>
#include <moefold/model/mixtral.hpp>

#include <doctest/doctest.h>
#include "../support/random_plans.hpp"

using namespace moefold;
using moefold::testing::random_numbers;
using moefold::testing::random_plan;

namespace {

plan_job mixtral() {
  plan_job job;
  job.model = mixtral_8x22b, job.gpus = 128, job.sequence = 4096, job.global_batch = 256;
  return job;
}
constexpr plan_mapping mcore{2, 1, 8, 8, 2, 4, 2, 7}, folded{2, 1, 8, 8, 1, 8, 2, 7};
double gb(extent_t bytes) { return double(bytes) / 1e9; }

}  // namespace

TEST_SUITE("plan/memory") {
  TEST_CASE("Mixtral 8x22B on 128 GPUs, the worked example: static bytes, 63 layers in flight on the first stage, and folding needs less") {
    const plan_job job = mixtral();
    check(job, mcore), check(job, folded);
    const plan_memory first = memory_of<mixed_bf16>(job, folded, 0), coupled = memory_of<mixed_bf16>(job, mcore, 0);
    CHECK(live_pairs(job, folded, 0) == 63);  // of one layer each
    CHECK(live_heads(job, folded) == 1);
    const double experts = 2.114, dense = 0.413;  // 1e9 parameters of a rank
    CHECK(gb(first.parameters) == doctest::Approx(2 * (experts + dense)).epsilon(0.01));
    CHECK(gb(first.gradients) == doctest::Approx(4 * (experts + dense)).epsilon(0.01));
    CHECK(gb(first.optimizer) == doctest::Approx(12 * (experts / 2 + dense / 8)).epsilon(0.01));
    CHECK((first.parameters == coupled.parameters && first.optimizer == coupled.optimizer));
    CHECK(gb(first.activations) == doctest::Approx(41.8).epsilon(0.05));  // 63 layers of 663 MB by hand; coupled 713 MB
    CHECK(gb(coupled.activations) == doctest::Approx(44.9).epsilon(0.05));
    MESSAGE("B12: ", gb(first.activations), " GB of activations, coupled ", gb(coupled.activations), "; in all ",
            gb(memory_of<mixed_bf16>(job, folded).total()), " and ", gb(memory_of<mixed_bf16>(job, mcore).total()), " GB");
    CHECK(memory_of<mixed_bf16>(job, folded).total() < memory_of<mixed_bf16>(job, mcore).total());
    static_assert(memory_of<mixed_bf16>(plan_job{}, plan_mapping{}, 0).parameters > 2 * 2'036'864 - 1);  // while compiling
  }
  TEST_CASE("it is the inventory's, by the schedule's live pairs, on every stage of random mappings") {
    const random_numbers draw(11);
    extent_t compared = 0;
    for (std::uint64_t i = 0; i < 1500; ++i) {
      const auto [job, m] = moefold::testing::draw_plan(draw, i);
      const activation_shape a = shape_of(job, m);
      extent_t most = 0;
      for (extent_t stage = 0; stage < m.pp; ++stage) {
        const plan_memory said = memory_of<mixed_bf16>(job, m, stage);
        const parameter_memory weights = memory_of_parameters<mixed_bf16>(job.model, a.fold, stage, 2, job.bucket);
        CHECK((said.parameters == weights.parameters && said.gradients == weights.gradients && said.optimizer == weights.optimizer));
        const extent_t rows = std::min(a.worst_rows(), extent_t(job.imbalance * double(a.balanced_rows())));
        const int at = int(stage), stages = int(m.pp), micro_batches = int(micro_batches_of(job, m));
        const bool split = m.vpp == 1 && job.schedule != plan_schedule::one_f_one_b;
        const std::vector<schedule_step> steps = m.vpp > 1 ? interleaved_over::steps(int(m.vpp), at, stages, micro_batches)
                                               : !split    ? one_f_one_b::steps(at, stages, micro_batches)
                                               : job.schedule == plan_schedule::zero_bubble
                                                   ? zero_bubble::steps(at, stages, micro_batches)
                                                   : zero_bubble_h1::steps(at, stages, micro_batches);
        extent_t kept = 0;  // for all pairs that are alive
        if (m.vpp == 1)
          kept = most_alive(steps, 0) *
                 (kept_by_micro_batch<mixed_bf16>(a, stage, rows) + (split ? deferred_by_micro_batch<mixed_bf16>(a, stage, rows) : 0));
        if (m.vpp > 1)
          kept = interleaved_over::live(int(m.vpp), at, stages, micro_batches) * kept_by_micro_batch<mixed_bf16>(a, stage, rows);
        if (stage == m.pp - 1) kept += most_alive(steps, int(m.vpp) - 1) * kept_by_head<mixed_bf16>(a);
        CHECK(said.activations == kept);
        CHECK(said.transient >= recomputed_by_block<mixed_bf16>(a, rows));
        CHECK(said.transient <= recomputed_by_block<mixed_bf16>(a, rows) + scratch_bound<mixed_bf16>(a));
        most = std::max(most, said.total()), ++compared;
      }
      CHECK(memory_of<mixed_bf16>(job, m).total() == most);
    }
    MESSAGE("P04, by formula: ", compared, " stages of random mappings");
  }
  TEST_CASE("uneven routing needs more, up to the worst; the largest imbalance is the last one that fits") {
    const random_numbers draw(12);
    extent_t between = 0;
    for (std::uint64_t i = 0; i < 300; ++i) {
      const auto [job, m] = moefold::testing::draw_plan(draw, i);
      const extent_t worst = worst_memory<mixed_bf16>(job, m).total();
      const auto at = [own = job, mapping = m](double imbalance) {
        plan_job uneven = own;
        uneven.imbalance = imbalance;
        return memory_of<mixed_bf16>(uneven, mapping).total();
      };
      const extent_t even = at(1);
      CHECK(even <= at(1.5));
      CHECK(at(1.5) <= worst);
      CHECK(at(1e9) == worst);
      CHECK(largest_imbalance<mixed_bf16>(job, m, even - 1) == 0);
      const activation_shape a = shape_of(job, m);
      CHECK(largest_imbalance<mixed_bf16>(job, m, worst) == doctest::Approx(double(a.worst_rows()) / double(a.balanced_rows())));
      const extent_t room = (even + worst) / 2;
      const double largest = largest_imbalance<mixed_bf16>(job, m, room), row = 1.0 / double(a.balanced_rows());
      CHECK(at(largest + row / 4) <= room);
      if (largest + 2 * row < double(a.worst_rows()) * row) {
        CHECK(at(largest + row * 1.25) > room);
        ++between;
      }
    }
    CHECK(between > 50);
  }
  TEST_CASE("strategies that shard weights hold a share of everything and two gathered layers") {
    plan_job job = mixtral();
    job.strategy = plan_strategy::fsdp;
    const plan_mapping m{2, 1, 64, 1, 2, 1, 64};
    check(job, m);
    const extent_t parameters = count_parameters(job.model);
    const plan_memory bytes = memory_of<mixed_bf16>(job, m);
    CHECK(double(bytes.optimizer) == doctest::Approx(12.0 * double(parameters) / 128).epsilon(1e-4));
    const double layer = double(parameters - 2 * job.model.hidden * job.model.vocabulary) / 56 / 2;  // cut by TP
    CHECK(double(bytes.parameters) == doctest::Approx(2.0 * double(parameters) / 128 + 2 * 2 * layer).epsilon(1e-3));
    CHECK(double(bytes.gradients) == doctest::Approx(4.0 * double(parameters) / 128 + 2 * 4 * layer).epsilon(1e-3));
    job.strategy = plan_strategy::folding;
    CHECK(memory_of<mixed_bf16>(job, m).parameters > 2 * parameters / 2 - 1);
  }
}
