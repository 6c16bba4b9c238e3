#include <moefold/inventory/activations.hpp>

#include <moefold/comm/thread.hpp>
#include <moefold/train/trainer.hpp>

#include <moefold/schedule/zero_bubble.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

using namespace moefold;

namespace {

constexpr model_shape small{
    .layers = 5, .hidden = 16, .heads = 4, .kv_heads = 4, .head_dim = 4, .experts = 8, .ffn = 12, .vocabulary = 50, .init_std = 0.1};
constexpr extent_t sequence = 32;

dataset text() {
  std::string bytes;
  for (int i = 0; i < 1500; ++i) bytes += char((i * i / 5 + i) % 50);
  return dataset(token_stream::from_bytes(bytes), sequence, 1);
}

template <class Precision, class Moe = moe_defaults>
using trainer_of = basic_trainer<policies<Precision, cp_all_gather, Moe, one_f_one_b, adamw>, thread_comm>;
struct gather : moe_defaults {
  template <class T, class Comm>
  using dispatcher = all_gather_dispatcher<T, Comm>;
};

/// One step with top_k = E, where every expert receives every token, or padded, so that all sizes are known beforehand.
template <class Precision, class Moe = moe_defaults>
void check_engine(const folding_extents& fold, extent_t micro_batch, model_shape model = small, const moe_facts& facts = {},
                  const recompute_rule& recompute = {}, const schedule_value* schedule = nullptr) {
  if (!facts.tokens.padded) model.top_k = model.experts;
  const dataset data = text();
  trainer_options options;
  options.global_batch = 8;
  options.micro_batch = micro_batch;
  options.recompute = recompute;
  options.schedule = schedule;
  run_threads(int(fold.world()), [&](thread_comm& world) {
    const extent_t stage = coordinate_of(fold.attention, world.rank())[axis_id::pp];
    trainer_of<Precision, Moe> trainer(std::move(world), model, sequence, fold, options, data, {}, facts);
    trainer.step();
    const activation_shape a = trainer.activations();
    const extent_t rows = a.rows_of_source() * fold.moe.of(axis_id::ep) * fold.moe.of(axis_id::etp) * a.own_experts();
    CHECK((facts.tokens.drops() || a.rows_of_source() == a.rows()));
    CHECK(extent_t(trainer.kept_peak()) == kept_by_micro_batch<Precision>(a, stage, rows));
    CHECK(extent_t(trainer.head_peak()) == (stage == fold.attention.of(axis_id::pp) - 1 ? kept_by_head<Precision>(a) : 0));
    const extent_t own = layers_on_stage(model.layers, fold, stage), dense = dense_on_stage(model.layers, model.dense_layers, fold, stage);
    const extent_t again = std::max(own > dense ? memory_of_block<Precision>(a, rows).again : 0,
                                    dense > 0 ? memory_of_block<Precision>(a, rows, true).again : 0);
    CHECK(extent_t(trainer.recomputed_peak()) == again);
    CHECK(again <= recomputed_by_block<Precision>(a, rows));
    if (model.dense_layers == 0) CHECK(again == recomputed_by_block<Precision>(a, rows));
    if (schedule != nullptr) CHECK(extent_t(trainer.deferred_peak()) == deferred_by_chunk<Precision>(a, stage, 0, rows));
    CHECK(rows == a.worst_rows());
    CHECK(extent_t(trainer.scratch_peak()) <=
          scratch_bound<Precision>(a) - (4 << 20));  // without the slack, which holds all of a small model
  });
}

}  // namespace

TEST_SUITE("inventory/activations") {
  TEST_CASE("rows and tokens of a rank follow from the cut of the sequence") {
    const activation_shape a{small, make_folding({{axis_id::tp, 2}, {axis_id::cp, 4}}, {{axis_id::etp, 2}, {axis_id::ep, 4}}), 64, 3};
    CHECK(a.rows() == 24);
    CHECK(a.tokens() == 48);
    CHECK(a.own_experts() == 2);
    CHECK(a.balanced_rows() == 24 * 2 * 2);
    CHECK(a.worst_rows() == 24 * 8 * 2);
    model_shape wide = small;
    wide.top_k = 7;  // more than a rank's experts: a token sends at most one row to each
    CHECK(activation_shape{wide, a.fold, 64, 3}.worst_rows() == 24 * 8 * 2);
  }
  TEST_CASE(
      "what an engine keeps of a micro-batch is foretold to the byte on every stage of every mapping, and scratch stays inside its bound") {
    for (const testing::mapping& m : testing::mappings()) {
      CAPTURE(m.name);
      check_engine<fp32>(m.fold, 1);
    }
  }
  TEST_CASE("so it is in fp64 and with several sequences in a micro-batch") {
    using enum axis_id;
    check_engine<fp64>({}, 4);
    check_engine<fp64>(make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}), 2);
    check_engine<fp32>(make_folding({{dp, 2}}, {{etp, 2}}), 4);
  }
  TEST_CASE("so it is with capacity, balance losses, shared experts, groups, gelu and the AllGather dispatcher") {
    using enum axis_id;
    model_shape rich = small;
    rich.shared_ffn = 24, rich.shared_gate = true, rich.qk_norm = true, rich.qkv_bias = true;
    model_shape sigmoid = small;
    sigmoid.score = score_function::sigmoid, sigmoid.expert_groups = 4, sigmoid.chosen_groups = 2, sigmoid.expert_bias = true;
    sigmoid.activation = activation_function::gelu, sigmoid.shared_ffn = 8;
    const moe_facts losses{{}, {.micro_batch = 0.1, .sequence = 0.1, .global = 0.1, .global_running = 0.1, .z = 0.1}, 0.1};
    const moe_facts padded{{75, false, false, true}, {.micro_batch = 0.1}}, whole{{120, true, false, true}, {}};
    for (const folding_extents& fold : {folding_extents{}, make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}),
                                        make_folding({{tp, 2}, {cp, 2}}, {{etp, 2}, {ep, 2}}), make_folding({{dp, 4}}, {{ep, 4}})}) {
      check_engine<fp32>(fold, 2, rich, losses);
      check_engine<fp32>(fold, 2, small, padded);
      check_engine<fp32>(fold, 2, sigmoid, padded);
      check_engine<fp32>(fold, 2, rich, whole);
      check_engine<fp32, gather>(fold, 2, small, losses);
      check_engine<fp32, gather>(fold, 2, sigmoid, whole);
    }
  }
  TEST_CASE("so it is whatever is recomputed, and what is needed for the recomputation as well") {
    using enum axis_id;
    using enum recompute_part;
    model_shape rich = small;
    rich.shared_ffn = 24, rich.shared_gate = true, rich.qk_norm = true, rich.qkv_bias = true;
    model_shape corrected = rich;  // two counts: with groups and a bias
    corrected.score = score_function::sigmoid, corrected.expert_groups = 4, corrected.chosen_groups = 2, corrected.expert_bias = true;
    const moe_facts losses{{}, {.micro_batch = 0.1, .sequence = 0.1, .global = 0.1, .global_running = 0.1, .z = 0.1}, 0.1};
    const moe_facts padded{{75, false, false, true}, {.micro_batch = 0.1}};
    for (const recompute_rule& rule : {recompute_full, selective<norms>, selective<activation>, selective<core_attention>, selective<moe>,
                                       selective<norms, activation, core_attention, moe>})
      for (const folding_extents& fold : {folding_extents{}, make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{etp, 2}, {ep, 2}, {pp, 2}})}) {
        CAPTURE(describe(rule));
        check_engine<fp32>(fold, 2, small, {}, rule);
        check_engine<fp64>(fold, 2, rich, losses, rule);
        check_engine<fp32, gather>(fold, 2, corrected, padded, rule);
      }
  }
  TEST_CASE("so it is with dense layers, and with a backward in two parts what it leaves for later") {
    using enum axis_id;
    using enum recompute_part;
    model_shape dense = small, rich = small;
    dense.dense_layers = 3, dense.dense_ffn = 20, dense.qk_norm = true, dense.qkv_bias = true;
    rich.dense_layers = 1, rich.dense_ffn = 200, rich.shared_ffn = 24, rich.shared_gate = true, rich.activation = activation_function::gelu;
    for (const folding_extents& fold : {folding_extents{}, make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{etp, 2}, {ep, 2}, {pp, 2}})})
      for (const schedule_value* schedule : {static_cast<const schedule_value*>(nullptr), &value_of_schedule<zero_bubble_h1>})
        for (const model_shape& model : {dense, rich, small})
          for (const recompute_rule& rule : {recompute_none, recompute_full, selective<norms, activation, moe>}) {
            CAPTURE(describe(rule));
            CAPTURE(model.dense_layers);
            check_engine<fp32>(fold, 2, model, {}, rule, schedule);
          }
  }
  TEST_CASE("recomputation saves exactly what is no longer kept") {
    using enum recompute_part;
    activation_shape a{small, {}, sequence, 1};
    const extent_t R = a.balanced_rows(), rows = a.rows(), all = kept_by_block<fp32>(a, R);
    const auto saving = [&](const recompute_rule& rule) {
      a.recompute = rule;
      return all - kept_by_block<fp32>(a, R);
    };
    CHECK(saving(recompute_none) == 0);
    CHECK(saving(selective<norms>) == 2 * rows * small.hidden * 4);
    CHECK(saving(selective<activation>) == R * small.ffn * 4);
    CHECK(saving(selective<core_attention>) == rows * small.q_width() * 4 + rows * small.heads * 4);
    CHECK(saving(recompute_full) == all - rows * small.hidden * 4 - (small.experts * 8 + 63) / 64 * 64);
    CHECK(saving(selective<moe, activation>) == saving(selective<moe>));
    CHECK(saving(selective<moe, norms>) == saving(selective<moe>) + saving(selective<norms>));
  }
  TEST_CASE("with a capacity no more rows arrive than it allows") {
    const activation_shape a{small, make_folding({{axis_id::dp, 4}}, {{axis_id::ep, 4}}), 32, 1, {{50}}};
    CHECK(a.rows_of_source() == 4);  // ceil(0.5 * 32 * 2 / 8)
    CHECK(a.worst_rows() == 2 * 4 * 4);
    CHECK(a.balanced_rows() == 2 * 4 * 4);
    const activation_shape wide{small, a.fold, 32, 1, {{400}}};
    CHECK(wide.worst_rows() == 32 * 4 * 2);  // every token to both experts: 2 * 4 * 32, as many as dropless
    CHECK(wide.balanced_rows() == 32 * 2);
  }
  TEST_CASE("with routing as it comes, what a stage keeps is foretold from the rows that its tickets count") {
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {cp, 2}}, {{etp, 2}, {ep, 2}});
    std::atomic<extent_t> all{0};
    run_threads(4, [&](thread_comm& world) {
      group_set<thread_comm> groups(world, fold);
      parameter_store<fp32> store(small, fold, world.rank());
      store.initialise(3);
      const transformer_stage<fp32, thread_comm> stage(small, sequence, fold, world.rank(), store, groups);
      const coordinate at = coordinate_of(fold.attention, world.rank());
      micro_batch batch{{0, 0, 1, {sequence, 2, at[cp], 2, at[tp]}}, {}, {}};
      for (int i = 0; i < sequence / 2; ++i) batch.ids.push_back(i % 50), batch.labels.push_back((i + 1) % 50);
      host_context context;
      transformer_stage<fp32, thread_comm>::saved saved;
      saved.batch = &batch;
      tensor<double> loss({1}, 0);
      stage.forward(host_exec(context), saved, nullptr, loss.view());
      const activation_shape a{small, fold, sequence, 1};
      extent_t bytes = kept_by_chunk_input<fp32>(a) + kept_by_head<fp32>(a);
      for (const auto& block : saved.blocks) {
        bytes += kept_by_block<fp32>(a, block.moe.ticket.batch.extent(0));
        all += block.moe.ticket.batch.extent(0);
        CHECK(block.moe.ticket.batch.extent(0) <= a.worst_rows());
      }
      CHECK(extent_t(saved.keep.peak()) == bytes);
    });
    CHECK(all == small.layers * sequence * small.top_k * 2);  // every pair once on each of the two etp ranks
  }
  TEST_CASE("the stages of a pipeline differ by their layers, and the last by norm and loss") {
    const folding_extents fold = make_folding({{axis_id::pp, 2}}, {{axis_id::pp, 2}});
    const activation_shape a{small, fold, sequence, 1};
    const extent_t block = kept_by_block<fp32>(a, a.balanced_rows());
    CHECK(kept_by_chunk_input<fp32>(a) == 32 * 16 * 4);
    CHECK(kept_by_head<fp32>(a) == 32 * 16 * 4 + 32 * 4 + 32 * 50 * 4);
    CHECK(kept_by_micro_batch<fp32>(a, 0, a.balanced_rows()) == 32 * 16 * 4 + 3 * block);
    CHECK(kept_by_micro_batch<fp32>(a, 1, a.balanced_rows()) == 32 * 16 * 4 + 2 * block);
  }
}
