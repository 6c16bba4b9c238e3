#include <moefold/train/run.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct fold_alone : run_defaults {  // a run may be a fold alone
  using fold = folding<mesh<tp<2>, cp<2>, dp<dyn>, pp<2>>, mesh<etp<1>, ep<4>, edp<dyn>, pp<2>>>;
};
struct other_numbers : run_defaults {
  static constexpr model_shape model{.layers = 2, .vocabulary = 64};
  static constexpr extent_t sequence = 32;
};
struct other_code : run_defaults {
  using precision = fp64;
};

}  // namespace

static_assert(check_run<run_defaults>::ok && check_run<fold_alone>::ok && check_run<other_numbers>::ok);

TEST_SUITE("train/run") {
  TEST_CASE("a run that says one thing keeps every other default") {
    CHECK(fold_alone::model == model_shape{});
    CHECK(fold_alone::sequence == 256);
    CHECK(std::is_same_v<fold_alone::precision, fp32>);
    CHECK(std::is_same_v<fold_alone::schedule, one_f_one_b>);
    CHECK(std::is_same_v<fold_alone::optimizer, adamw>);
    CHECK(std::is_same_v<fold_alone::moe, balanced_moe>);
    CHECK(fold_alone::moe::balance == balance_losses{.micro_batch = 1e-2});
    CHECK(std::is_same_v<fold_alone::context, cp_all_gather>);
  }
  TEST_CASE("runs that differ in fold and numbers share one instantiation of the trainer; other code is another one") {
    CHECK(std::is_same_v<policies_of<fold_alone>, policies_of<run_defaults>>);
    CHECK(std::is_same_v<policies_of<other_numbers>, policies_of<run_defaults>>);
    CHECK_FALSE(std::is_same_v<policies_of<other_code>, policies_of<run_defaults>>);
  }
  TEST_CASE("the default run lies on any number of ranks") {
    for (const extent_t world : {1, 3, 8}) CHECK(resolve<run_defaults::fold>(world).world() == world);
  }
}
