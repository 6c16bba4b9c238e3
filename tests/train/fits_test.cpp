#include <moefold/model/mixtral.hpp>
#include <moefold/train/fits.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct planned : run_defaults {
  static constexpr model_shape model = mixtral_8x22b;
  static constexpr extent_t sequence = 4096;
  using fold = folding<mesh<tp<2>, dp<8>, pp<8>>, mesh<ep<8>, edp<2>, pp<8>>>;
  using schedule = interleaved<7>;
};
struct any_world : run_defaults {
  using fold = folding<mesh<tp<2>, dp<dyn>>, mesh<ep<4>, edp<dyn>>>;
  using schedule = zero_bubble;
  static constexpr recompute_rule recompute = recompute_full;
};

}  // namespace

// What does not compile is in tests/compile_fail/train/fits.cpp.
TEST_SUITE("train/fits") {
  TEST_CASE("a run that fits is true when it is compiled") {
    static_assert(fits<planned, h200_141gb>);
    static_assert(fits<any_world, h100_80gb, 16>);
    static_assert(fits<any_world, h100_80gb, 8, 2, 4>);
  }
  TEST_CASE("a run's job and mapping are what its types say") {
    constexpr plan_job job = job_of<any_world>(16, 3, 5);
    constexpr plan_mapping m = mapping_of<any_world>(16, 3);
    static_assert(m == plan_mapping{2, 1, 8, 1, 1, 4, 4, 1, 3, recompute_full});
    static_assert(job.global_batch == 8 * 3 * 5 && job.schedule == plan_schedule::zero_bubble && job.facts.balance.micro_batch == 1e-2);
    static_assert(mapping_of<planned>(128, 1) == plan_mapping{2, 1, 8, 8, 1, 8, 2, 7, 1, {}});
    CHECK(refusal(job, m) == "");
    CHECK(refusal(job_of<planned>(128, 1, 0), mapping_of<planned>(128, 1)) == "");
  }
  TEST_CASE("it is the memory that the planner predicts, and more micro-batches than fill the pipeline change nothing") {
    constexpr plan_job job = job_of<planned>(128, 1, 32);
    constexpr plan_memory memory = memory_of_run<planned>(128);
    static_assert(memory.total() == memory_of<mixed_bf16>(job, mapping_of<planned>(128, 1)).total());
    static_assert(memory_of_run<planned>(128, 1, 4).total() < memory.total());
    CHECK(memory.activations > 0);
  }
  TEST_CASE("what a known cluster sets aside counts") {
    CHECK(detail::reserved_on(h100_80gb) == dgx_h100.reserved);
    CHECK(detail::reserved_on(gpu_spec{.name = "mine"}) == 0);
  }
}
