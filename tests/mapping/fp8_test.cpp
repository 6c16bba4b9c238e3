// Whole models under the fp8 policy: they learn as in fp32, on one rank and folded over four; runs repeat and replicas stay the same to the bit,
// amaxes travel as foretold, and neither recomputation nor evaluation nor a step that is skipped leaves a trace in the scales.
#include <moefold/comm/self.hpp>
#include "../support/common_runs.hpp"

#include <doctest/doctest.h>

#include <cstdio>

using namespace moefold;
using namespace moefold::testing;

namespace {

template <class Precision>
using policies_in = policies<Precision, cp_all_gather, moe_defaults, one_f_one_b, adamw>;

mapping_options model_with_shared_expert(std::int64_t steps) {
  mapping_options options = small_model();
  options.model.shared_ffn = 16;
  options.steps = steps;
  return options;
}
double mean_of_last(const std::vector<double>& losses, std::size_t count = 5) {
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / double(count);
}
folding_extents four_ranks() { return make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 2}, {axis_id::edp, 2}}); }

}  // namespace

TEST_SUITE("mapping/fp8") {
  TEST_CASE("after 30 steps the loss is within 5% of fp32's, with delayed and with current scaling, on one rank and on four") {
    const mapping_options options = model_with_shared_expert(30);
    const outcome full = train_mapping<policies_in<fp32>>({}, options);
    report(full);
    REQUIRE(mean_of_last(full.losses) < 0.9 * full.losses.front());
    const auto compare = [&](const char* name, const outcome& narrow) {
      CAPTURE(name);
      report(narrow);  // traffic as foretold, replicas the same to the bit
      const double difference = mean_of_last(narrow.losses) / mean_of_last(full.losses) - 1;
      CHECK(std::abs(difference) < 0.05);
      CHECK(narrow.losses != full.losses);
      std::printf("%-32s loss %.4f, fp32 %.4f: %+.2f%%\n", name, mean_of_last(narrow.losses), mean_of_last(full.losses), 100 * difference);
    };
    const folding_extents staged = make_folding({{axis_id::cp, 2}, {axis_id::pp, 2}}, {{axis_id::etp, 2}, {axis_id::pp, 2}});
    compare("delayed scaling, one rank", train_mapping<policies_in<fp8<>>>({}, options));
    compare("delayed scaling, tp 2 dp 2, ep 2", train_mapping<policies_in<fp8<>>>(four_ranks(), options));
    compare("delayed scaling, cp 2 pp 2, etp 2", train_mapping<policies_in<fp8<>>>(staged, options));
    compare("current scaling, tp 2 dp 2, ep 2", train_mapping<policies_in<fp8<current_scaling>>>(four_ranks(), options));
  }

  TEST_CASE("on four ranks a run repeats to the bit, and so does one that computes its blocks twice") {
    mapping_options options = model_with_shared_expert(5);
    const outcome once = train_mapping<policies_in<fp8<>>>(four_ranks(), options),
                  twice = train_mapping<policies_in<fp8<>>>(four_ranks(), options);
    options.train.recompute = recompute_full;
    const outcome again = train_mapping<policies_in<fp8<>>>(four_ranks(), options);
    for (const outcome* o : {&once, &twice, &again}) report(*o);
    CHECK(twice.losses == once.losses);
    CHECK(twice.norms == once.norms);
    CHECK(twice.last_weights == once.last_weights);
    CHECK(again.losses == once.losses);
    CHECK(again.norms == once.norms);
    CHECK(again.last_weights == once.last_weights);
  }

  TEST_CASE("evaluation and a skipped step leave the scales as they are; every product of the model records in a step that counts") {
    const mapping_options options = model_with_shared_expert(4);
    const dataset data = test_data(options.model.vocabulary, options.sequence);
    using trainer_type = basic_trainer<policies_in<fp8<delayed_scaling<3>>>, self_comm>;
    trainer_type trainer(self_comm(), options.model, options.sequence, {}, options.train, data);
    const auto remembered = [&] { return std::vector<float>(trainer.scales().past().begin(), trainer.scales().past().end()); };
    REQUIRE(extent_t(remembered().size()) == 3 * recorded_amaxes<fp8<>>(options.model));
    step_result first = trainer.compute();
    first.skip = true;
    trainer.apply(first);
    CHECK(remembered() == std::vector<float>(remembered().size(), 0.0f));
    trainer.step();
    const std::vector<float> past = remembered();
    for (std::size_t i = 0; i < past.size(); i += 3) {
      CAPTURE(i);
      CHECK(past[i] > 0);  // x, W and dy of all ten products
      CHECK(past[i + 1] == 0);
    }
    REQUIRE(trainer.evaluate());
    CHECK(remembered() == past);
    trainer.step();
    CHECK(remembered() != past);
    for (std::size_t i = 0; i < past.size(); i += 3) CHECK(remembered()[i + 1] == past[i]);
  }

  TEST_CASE("the inventory's bound on scratch holds the quantised weights of wide experts") {
    mapping_options options = model_with_shared_expert(2);
    options.model.ffn = 1024, options.sequence = 8;
    const dataset data = test_data(options.model.vocabulary, options.sequence);
    basic_trainer<policies_in<fp8<delayed_scaling<3>>>, self_comm> trainer(self_comm(), options.model, options.sequence, {}, options.train,
                                                                           data);
    trainer.step();
    const extent_t without_slack = scratch_bound<fp8<>>(trainer.activations()) - (4 << 20);
    CHECK(extent_t(trainer.scratch_peak()) <= without_slack);
    CHECK(extent_t(trainer.scratch_peak()) > scratch_bound<mixed_bf16>(trainer.activations()) - (4 << 20));
  }
}
