#include <moefold/inventory/buffers.hpp>

#include <moefold/core/precision.hpp>
#include <moefold/core/rng.hpp>

#include <doctest/doctest.h>
#include "../support/counting_new.hpp"
#include "../support/mappings.hpp"
#include "../support/random_models.hpp"

#include <map>

using namespace moefold;
using testing::mapping;

namespace {

constexpr model_shape small{.layers = 5, .hidden = 32, .heads = 4, .kv_heads = 4, .head_dim = 8, .experts = 8, .ffn = 12, .vocabulary = 50};

}  // namespace

TEST_SUITE("inventory/buffers") {
  TEST_CASE("buffers hold all parameters of equal replicas, in shards that come out even, in every mapping") {
    for (const mapping& m : testing::mappings()) {
      CAPTURE(m.name);
      for (extent_t stage = 0; stage < m.fold.attention.of(axis_id::pp); ++stage) {
        const parameter_buffers buffers = buffers_of(small, m.fold, stage);
        extent_t held = 0, in_buffers = 0;
        for_each_parameter(small, m.fold, stage, [&](const parameter_fact& p) { held += local_elements(p, m.fold); });
        for (int i = 0; i < buffers.count; ++i) {
          const parameter_buffer& b = buffers.buffer[std::size_t(i)];
          in_buffers += b.elements;
          CHECK(b.shard() * b.replicas == b.padded());
          CHECK(b.padded() - b.elements >= 0);
          CHECK(b.padded() - b.elements < b.replicas);
        }
        CHECK(buffers.count == 3);
        CHECK(in_buffers == held);
      }
    }
  }
  TEST_CASE("a bucket takes whole layers until it is full, and knows the first and last of them") {
    const model_shape model{.layers = 5, .hidden = 8, .heads = 2, .kv_heads = 2, .head_dim = 4, .experts = 2, .ffn = 3, .vocabulary = 10};
    const extent_t attention = 4 * 8 * 8, everywhere = 2 * 8 + 2 * 8, experts = 2 * 3 * 3 * 8, table = 10 * 8;
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::edp, 4}});
    const auto dense = [](const parameter_buffers& all) {  // rows and columns over tp: [lowest, highest, elements] of each bucket
      std::vector<std::array<extent_t, 3>> found;
      for (const parameter_buffer& b : all.buffer)
        if (b.placement.replicas() == set_of<tag::cp, tag::dp>) found.push_back({b.lowest, b.highest, b.elements});
      return found;
    };
    const extent_t a = attention / 2, t = table / 2;
    using buckets = std::vector<std::array<extent_t, 3>>;
    CHECK(dense(buffers_of(model, fold, 0, 0)) == buckets{{-1, 5, 5 * a + 2 * t}});
    CHECK(dense(buffers_of(model, fold, 0)) == buckets{{-1, 5, 5 * a + 2 * t}});  // all fit into one
    CHECK(dense(buffers_of(model, fold, 0, 1)) == buckets{{-1, -1, t}, {0, 0, a}, {1, 1, a}, {2, 2, a}, {3, 3, a}, {4, 4, a}, {5, 5, t}});
    CHECK(dense(buffers_of(model, fold, 0, a)) == buckets{{-1, 0, t + a}, {1, 1, a}, {2, 2, a}, {3, 3, a}, {4, 4, a}, {5, 5, t}});
    CHECK(dense(buffers_of(model, fold, 0, 2 * a)) == buckets{{-1, 1, t + 2 * a}, {2, 3, 2 * a}, {4, 5, a + t}});
    CHECK(dense(buffers_of(model, fold, 0, 2 * a + t + 1)) == buckets{{-1, 2, t + 3 * a}, {3, 5, 2 * a + t}});
    extent_t total = 0;
    const parameter_buffers split = buffers_of(model, fold, 0, 2 * a);
    CHECK(split.count == int(split.buffer.size()));
    for (const parameter_buffer& b : split.buffer) total += b.elements;
    CHECK(total == 5 * (a + everywhere + experts) + 8 + 2 * t);
    // Every bucket rounds up to shards of its own.
    extent_t values = 0, shards = 0;
    for (const parameter_buffer& b : split.buffer) values += b.padded(), shards += b.shard();
    const parameter_memory bytes = memory_of_parameters<fp32>(model, fold, 0, 2, 2 * a);
    CHECK(bytes.parameters == 4 * values);
    CHECK(bytes.optimizer == 8 * shards);
    static_assert(memory_of_parameters<fp32>(model_shape{}, make_folding({{axis_id::dp, 2}}, {{axis_id::ep, 2}}), 0, 2, 1000).parameters >
                  0);
  }
  TEST_CASE("bytes of a rank: values, gradients, and two moments of its shard") {
    constexpr folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::dp, 2}}, {{axis_id::ep, 4}});
    constexpr parameter_memory bytes = memory_of_parameters<fp32>(model_shape{}, fold, 0);
    constexpr extent_t dense = 2 * 128 * 128 + 4 * (64 * 128 * 2 + 32 * 128 * 2), everywhere = 9 * 128 + 4 * 8 * 128,
                       experts = 4 * 2 * 3 * 144 * 128;
    CHECK(bytes.parameters == 4 * (dense + everywhere + experts));
    CHECK(bytes.gradients == bytes.parameters);
    CHECK(bytes.optimizer == 2 * 4 * (dense / 2 + everywhere / 4 + experts));
    CHECK(memory_of_parameters<fp64>(model_shape{}, fold, 0).optimizer == 2 * bytes.optimizer);
    constexpr parameter_memory mixed = memory_of_parameters<mixed_bf16>(model_shape{}, fold, 0);
    CHECK(2 * mixed.parameters == bytes.parameters);
    CHECK(mixed.gradients == bytes.gradients);
    CHECK(2 * mixed.optimizer == 3 * bytes.optimizer);  // two moments and a master in fp32
    CHECK(memory_of_parameters<with_moments<mixed_bf16, bf16>>(model_shape{}, fold, 0).optimizer == bytes.optimizer);  // 2 + 2 + 4
  }
  TEST_CASE("counted, the buffers are those that are listed, whatever the model, the mapping and the bucket; and nothing is allocated") {
    const testing::random_numbers draw(5);
    extent_t compared = 0, listed_in_all = 0;
    for (std::uint64_t i = 0; i < 3000; ++i) {
      const model_shape m = testing::random_model(draw, i);
      const folding_extents fold = testing::random_folding(draw, i, m);
      const extent_t bucket = draw(i, "bucket", 4) == 0 ? 0 : 1 + draw(i, "elements", 4000);
      for (extent_t stage = 0; stage < fold.attention.of(axis_id::pp); ++stage) {
        using key = std::tuple<extent_t, extent_t, std::string>;
        std::map<key, extent_t> listed, counted;  // how many of each kind
        parameter_memory bytes, shards;
        const auto bf16_bytes = [](extent_t elements) { return 2 * elements; };
        for (const parameter_buffer& b : buffers_of(m, fold, stage, bucket).buffer) {
          ++listed[{b.elements, b.replicas, b.placement.replicas().name()}], ++listed_in_all;
          bytes.parameters += bf16_bytes(b.padded()), bytes.gradients += 4 * b.padded(), bytes.optimizer += 12 * b.shard();
          shards.parameters += bf16_bytes(b.shard()), shards.gradients += 4 * b.shard();
        }
        for_each_buffer(m, fold, stage, bucket, [&](const equal_buffers& b) {
          counted[{b.elements, b.replicas, b.placement.replicas().name()}] += b.times;
        });
        CHECK((counted == listed));
        const std::size_t before = test::allocations_of_this_thread();
        const parameter_memory said = memory_of_parameters<mixed_bf16>(m, fold, stage, 2, bucket);
        const parameter_memory shared = memory_of_parameters<mixed_bf16>(m, fold, stage, 2, bucket, held_weights::shard);
        const std::size_t taken = test::allocations_of_this_thread() - before;
        CHECK(taken == 0);
        CHECK((said.parameters == bytes.parameters && said.gradients == bytes.gradients && said.optimizer == bytes.optimizer));
        CHECK((shared.parameters == shards.parameters && shared.gradients == shards.gradients && shared.optimizer == bytes.optimizer));
        ++compared;
      }
    }
    MESSAGE("P01, counted against listed: ", compared, " stages of random mappings, ", listed_in_all, " buffers");
  }
}
