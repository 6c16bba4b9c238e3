#include <moefold/train/moe_record.hpp>

#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct result {
  double balance = 0.5, dropped = 0.25;
};
/// What a trainer shows after a step: two layers of two experts, 10 pairs each.
struct trainer_view {
  moe_facts facts;
  tensor<std::int64_t> counts{{2, 2}, 5};
  activation_shape activations() const { return {model_shape{.layers = 2, .experts = 2}, {}, 4, 1, facts}; }
  view<const std::int64_t> load() const { return counts; }
  std::int64_t pairs() const { return 10; }
  double dropped(extent_t layer) const { return 2 + double(layer); }
  balance_values balance(extent_t layer) const { return {0.1, 0.2 + double(layer), 0.3, 0.4, 0.5}; }
};

}  // namespace

TEST_SUITE("train/moe_record") {
  TEST_CASE("the fullest expert over the even share, layer by layer; 1 where nothing was routed") {
    using ratios = std::vector<double>;
    tensor<std::int64_t> load({2, 4}, 5);
    CHECK(max_over_mean(load) == ratios{1, 1});
    load.view()(1, 2) = 35;  // 50 choices, 12.5 each
    CHECK(max_over_mean(load) == ratios{1, 2.8});
    CHECK(max_over_mean(tensor<std::int64_t>({2, 4}, 0)) == ratios{1, 1});
  }
  TEST_CASE("a dropless layer without losses shows its load alone") {
    trainer_view trainer;
    trainer.counts[0] = 8, trainer.counts[1] = 2;
    step_record record;
    add_moe(record, trainer, result{}, true);
    CHECK(record.moe_max_over_mean == 1.6);
    CHECK(record.load_max_over_mean == std::vector<double>{1.6, 1});
    CHECK(record.expert_load == std::vector<std::vector<std::int64_t>>{{8, 2}, {5, 5}});
    CHECK_FALSE(record.dropped);
    CHECK_FALSE(record.balance);
    CHECK(record.dropped_share.empty());
    CHECK(record.balance_losses.empty());
  }
  TEST_CASE("with a capacity and losses it shows dropped shares and the losses that are on, by layer only where asked") {
    trainer_view trainer{{{100}, {.sequence = 1, .z = 2}}};
    step_record record, brief;
    add_moe(record, trainer, result{}, true);
    CHECK(record.dropped == 0.25);
    CHECK(record.balance == 0.5);
    CHECK(record.dropped_share == std::vector<double>{0.2, 0.3});
    REQUIRE(record.balance_losses.size() == 2);
    CHECK(record.balance_losses[0] == std::pair{std::string("sequence"), std::vector<double>{0.2, 1.2}});
    CHECK(record.balance_losses[1] == std::pair{std::string("z"), std::vector<double>{0.5, 0.5}});
    add_moe(brief, trainer, result{}, false);
    CHECK(brief.dropped == 0.25);
    CHECK(brief.dropped_share.empty());
    CHECK(brief.expert_load.empty());
  }
}
