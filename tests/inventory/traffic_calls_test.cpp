#include <moefold/inventory/traffic.hpp>
#include <moefold/inventory/traffic_calls.hpp>

#include <moefold/core/precision.hpp>

#include <doctest/doctest.h>
#include "../support/random_models.hpp"

#include <map>
#include <tuple>

using namespace moefold;

namespace {

using key = std::pair<std::string, operation>;
using sums = std::map<key, std::array<extent_t, 3>>;  // calls, messages, bytes

void add(sums& to, const traffic_call& c, extent_t often = 1) {
  auto& [calls, messages, bytes] = to[{c.axes.empty() ? "world" : c.axes.name(), c.op}];
  calls += often * c.times, messages += often * c.messages(), bytes += often * c.bytes();
}
sums of_block(const activation_shape& a, bool dense, traffic_pass pass) {
  sums all;
  for_each_block_call<mixed_bf16>(a, dense, pass, [&](const traffic_call& c) { add(all, c); });
  return all;
}
sums plus(sums one, const sums& other) {
  for (const auto& [name, numbers] : other)
    for (std::size_t i = 0; i < 3; ++i) one[name][i] += numbers[i];
  return one;
}

constexpr model_shape mixtral{
    .layers = 56, .hidden = 6144, .heads = 48, .kv_heads = 8, .head_dim = 128, .experts = 8, .top_k = 2, .ffn = 16384, .vocabulary = 32000};
using enum axis_id;
constexpr activation_shape folded{mixtral, make_folding({{tp, 2}, {dp, 8}, {pp, 8}}, {{ep, 8}, {edp, 2}, {pp, 8}}), 4096};
constexpr activation_shape coupled{mixtral, make_folding({{tp, 2}, {dp, 8}, {pp, 8}}, {{etp, 2}, {ep, 4}, {edp, 2}, {pp, 8}}), 4096};

constexpr extent_t forward_bytes(const activation_shape& a) {
  extent_t bytes = 0;
  for_each_block_call<mixed_bf16>(a, false, traffic_pass::forward, [&](const traffic_call& c) { bytes += c.bytes(); });
  return bytes;
}
static_assert(forward_bytes(folded) < forward_bytes(coupled));  // known while compiling

}  // namespace

TEST_SUITE("inventory/traffic_calls") {
  TEST_CASE("Mixtral 8x22B on 128 GPUs by hand: 25.2 MB over tp, 44.0 MB over ep and nothing over etp; coupled 37.7 MB and 50.3 MB") {
    const extent_t rows = 2048, weights = 2 * rows * 2 * 4;  // a weight in fp32 travels with every pair
    const sums forward = of_block(folded, false, traffic_pass::forward), other = of_block(coupled, false, traffic_pass::forward);
    CHECK((forward.at({"tp", operation::all_gather}) == std::array<extent_t, 3>{1, 1, rows * 6144 * 2}));      // 25.2 MB
    CHECK((forward.at({"tp", operation::reduce_scatter}) == std::array<extent_t, 3>{1, 1, rows * 6144 * 2}));  // of rows of the whole
    const extent_t pairs = 2 * rows * 6144 * 2;                                                                // bytes: 50.3 MB
    CHECK((forward.at({"ep", operation::all_to_all_v}) == std::array<extent_t, 3>{2, 14, (2 * pairs + weights / 2) / 8 * 7}));
    CHECK(pairs / 8 * 7 == 44'040'192);
    CHECK(!forward.contains({"etp", operation::all_gather_v}));
    CHECK((other.at({"ep", operation::all_to_all_v}) == std::array<extent_t, 3>{2, 6, (2 * pairs + weights / 2) / 4 * 3}));
    CHECK(pairs / 4 * 3 == 37'748'736);
    CHECK((other.at({"etp", operation::all_gather_v}) == std::array<extent_t, 3>{1, 1, pairs + weights / 2}));
    CHECK((other.at({"etp", operation::reduce_scatter_v}) == std::array<extent_t, 3>{1, 1, pairs}));
    const sums backward = of_block(coupled, false, traffic_pass::backward);
    CHECK((backward.at({"tp", operation::all_gather}) == std::array<extent_t, 3>{2, 2, 2 * rows * 6144 * 2}));
    CHECK((backward.at({"ep", operation::all_to_all_v}) == std::array<extent_t, 3>{2, 6, (2 * pairs + weights / 2) / 4 * 3}));
    CHECK((backward.at({"etp", operation::reduce_scatter_v}) == std::array<extent_t, 3>{2, 2, pairs + weights / 2}));  // dp by itself
  }
  TEST_CASE("what is recomputed travels once more, in backward: all of a block, attention over cp, or the MoE layer") {
    const testing::random_numbers draw(3);
    for (std::uint64_t i = 0; i < 200; ++i) {
      activation_shape a{testing::random_model(draw, i), {}, 64, 2};
      a.fold = testing::random_folding(draw, i, a.model);
      a.facts.balance.micro_batch = 0.1;
      a.context = draw.of<context_facts>(i, "context", {{}, {false, 1}, {false, 0}});
      for (const bool dense : {false, true}) {
        const sums forward = of_block(a, dense, traffic_pass::forward), backward = of_block(a, dense, traffic_pass::backward);
        activation_shape again = a;
        again.recompute = recompute_full;
        CHECK((of_block(again, dense, traffic_pass::forward) == forward));
        CHECK((of_block(again, dense, traffic_pass::backward) == plus(backward, forward)));
        again.recompute = selective<recompute_part::norms, recompute_part::activation>;
        CHECK((of_block(again, dense, traffic_pass::backward) == backward));
        again.recompute = selective<recompute_part::core_attention>;
        const sums core = of_block(again, dense, traffic_pass::backward);
        for (const auto& [name, numbers] : core)
          CHECK((numbers == (name.first == "cp" ? plus(backward, forward).at(name) : backward.at(name))));
        again.recompute = selective<recompute_part::moe>;
        const sums moe = of_block(again, dense, traffic_pass::backward);
        for (const auto& [name, numbers] : moe) {
          const bool twice = !dense && name.first != "cp" && name.first != "tp";
          if (name.first != "tp") CHECK((numbers == (twice ? plus(backward, forward).at(name) : backward.at(name))));
        }
      }
    }
  }
  TEST_CASE("added up, the calls of blocks, stage and step are the table of a step in which routing is even") {
    const testing::random_numbers draw(4);
    extent_t compared = 0;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      activation_shape a{testing::random_model(draw, i), {}, 128, 2};
      a.fold = testing::random_folding(draw, i, a.model);
      a.recompute = draw.of<recompute_rule>(i, "recompute", {recompute_none, recompute_full, selective<recompute_part::moe>});
      if (draw(i, "gathers", 3) == 0) a.facts.dispatch = dispatch_kind::all_gather;
      if (draw(i, "padded", 3) == 0) a.facts.tokens = {125, draw(i, "full", 2) == 0, false, true};
      if (draw(i, "losses", 2) == 0) a.facts.balance = {.micro_batch = 0.1, .global_running = 0.1};
      if (a.rows() * a.model.top_k % a.model.experts != 0) continue;
      const std::vector<std::int64_t> even(std::size_t(a.model.experts), a.rows() * a.model.top_k / a.model.experts);
      const extent_t micro_batches = 1 + draw(i, "micro", 3), bucket = 500;
      for (extent_t stage = 0; stage < a.fold.attention.of(axis_id::pp); ++stage) {
        sums all;
        const extent_t dense = dense_on_stage(a.model.layers, a.model.dense_layers, a.fold, stage);
        const extent_t moe = layers_on_stage(a.model.layers, a.fold, stage) - dense;
        for (const traffic_pass pass : {traffic_pass::forward, traffic_pass::backward}) {
          for (extent_t micro = 0; micro < micro_batches; ++micro) {
            if (dense > 0) for_each_block_call<mixed_bf16>(a, true, pass, [&](const traffic_call& c) { add(all, c, dense); });
            if (moe > 0) for_each_block_call<mixed_bf16>(a, false, pass, [&](const traffic_call& c) { add(all, c, moe); });
            for_each_stage_call<mixed_bf16>(a, stage, pass, [&](const traffic_call& c) { add(all, c); });
          }
        }
        for_each_step_call<mixed_bf16>(a, stage, bucket, [&](const traffic_call& c) { add(all, c); });
        sums table;
        const traffic_table said = step_traffic<mixed_bf16>(
            a, stage * (a.fold.world() / a.fold.attention.of(axis_id::pp)), micro_batches,
            [&](extent_t, extent_t, extent_t) -> std::span<const std::int64_t> { return even; }, bucket);
        for (const traffic_cell& c : said.cells()) table[{c.axis(), c.op}] = {extent_t(c.calls), extent_t(c.messages), extent_t(c.bytes)};
        CHECK((all == table));
        ++compared;
      }
    }
    CHECK(compared > 1000);
    MESSAGE("P02, by formula: ", compared, " stages of random mappings");
  }
}
