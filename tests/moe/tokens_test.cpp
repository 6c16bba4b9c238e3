#include <moefold/moe/tokens.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <atomic>
#include <string>
#include <utility>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16, batch = 2, k = 2, experts = 4;  // of a micro-batch

/// The choices of all tokens of a micro-batch, in token order; weights with many ties.
struct micro_batch {
  tensor<std::int32_t> expert{{sequence * batch, k}};
  tensor<double> weight{{sequence * batch, k}};
  micro_batch() {
    const random_stream draw(3, "tokens");
    for (extent_t t = 0; t < sequence * batch; ++t) {
      const std::uint64_t first = draw.bits(std::uint64_t(t)) % 5 * 2 / 3;  // 0 0 1 2 2: uneven
      for (extent_t j = 0; j < k; ++j) {
        expert.view()(t, j) = std::int32_t((first + std::uint64_t(j)) % experts);
        weight.view()(t, j) = double(draw.bits(1000 + std::uint64_t(t * k + j)) % 4) / 8;
      }
    }
  }
};

/// One rank's part of it, and what the rule keeps of that.
struct part {
  batch_place place;
  tensor<std::int32_t> expert;
  tensor<double> weight;
  arena keep;
  routing<double> kept{};

  part(const micro_batch& all, const sequence_part& where)
      : place{0, 0, batch, where}, expert({where.local_tokens() * batch, k}), weight(expert.shape()) {
    for (extent_t t = 0; t < expert.extent(0); ++t)
      for (extent_t j = 0; j < k; ++j)
        expert.view()(t, j) = all.expert.view()(place.number(t), j), weight.view()(t, j) = all.weight.view()(place.number(t), j);
  }
  template <class Comm>
  const routing<double>& apply(const token_rule& rule, Comm* group) {
    host_context context;
    return kept = keep_pairs(host_exec(context), rule, routing<double>{expert, weight}, experts, place, group, keep);
  }
};

constexpr sequence_part whole{sequence, 1, 0, 1, 0};

/// keep [S * B, k] of the rule over one rank.
std::vector<std::int32_t> of_one_rank(const micro_batch& all, const token_rule& rule) {
  part one(all, whole);
  self_comm self;
  const routing<double>& kept = one.apply(rule, &self);
  return {kept.expert.begin(), kept.expert.end()};
}

}  // namespace

TEST_SUITE("moe/tokens") {
  TEST_CASE("a token policy says its name") {
    struct nameless {};
    CHECK(token_policy<dropless>);
    CHECK_FALSE(token_policy<nameless>);
    CHECK(std::string(dropless::name) == "dropless");
    CHECK(std::string(capacity<100>::name) == "capacity");
  }
  TEST_CASE("options are tags in any order, and the defaults may be written out") {
    static_assert(dropless::rule == token_rule{});
    static_assert(capacity<125>::rule == token_rule{125, false, false, false});
    static_assert(capacity<125, sub_sequence, by_probability>::rule == capacity<125>::rule);
    static_assert(capacity<125, full_sequence>::rule == token_rule{125, true, false, false});
    static_assert(capacity<125, by_position>::rule == token_rule{125, false, true, false});
    static_assert(capacity<125, padded>::rule == token_rule{125, false, false, true});
    static_assert(capacity<1, full_sequence, by_position, padded>::rule == token_rule{1, true, true, true});
    static_assert(capacity<1, padded, by_position, full_sequence>::rule == token_rule{1, true, true, true});
    static_assert(capacity<1, by_position, padded, full_sequence>::rule == token_rule{1, true, true, true});
    static_assert(capacity<100000, padded, by_probability, sub_sequence>::rule == token_rule{100000, false, false, true});
  }
  TEST_CASE("dropless keeps every pair: the choice itself, without fillers") {
    const micro_batch all;
    part one(all, whole);
    const routing<double>& kept = one.apply<self_comm>(dropless::rule, nullptr);
    CHECK(kept.expert.data() == one.expert.data());
    CHECK(kept.weight.data() == one.weight.data());
    CHECK(kept.padded_rows == -1);
  }
  TEST_CASE("a sub-sequence is this rank's own tokens, and needs no group") {
    const micro_batch all;
    for (const bool by_position : {false, true})
      for (const extent_t cp_rank : {0, 1}) {
        part own(all, {sequence, 2, cp_rank, 1, 0});
        const tensor<std::int32_t> before = test::copy_of(own.expert.view());
        const routing<double>& kept = own.apply<self_comm>({100, false, by_position, false}, nullptr);
        host_context context;
        tensor<std::int32_t> number({16}), expected({16, k});
        for (extent_t t = 0; t < 16; ++t) number[std::size_t(t)] = std::int32_t(own.place.number(t));
        const extent_t dropped = keep_within_capacity<double>(host_exec(context), own.expert.view(), own.weight.view(), number.view(),
                                                              experts, 8, by_position, expected);
        CHECK(dropped > 0);
        CHECK(std::equal(kept.expert.begin(), kept.expert.end(), expected.begin(), expected.end()));
        CHECK(std::equal(before.begin(), before.end(), own.expert.begin()));  // what was chosen is still known
        CHECK(kept.weight.data() == own.weight.data());
        CHECK(kept.padded_rows == -1);
      }
  }
  TEST_CASE("over a full sequence every cut keeps the same pairs as one rank, by probability and by position") {
    const micro_batch all;
    for (const bool by_position : {false, true})
      for (const extent_t percent : {25, 75, 100}) {
        const token_rule rule{percent, true, by_position, false};
        const auto expected = of_one_rank(all, rule);
        CHECK(std::count(expected.begin(), expected.end(), -1) > 5);
        for (const auto& cut : {std::pair{2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {4, 2}, {8, 1}}) {
          const int tp = cut.first, cp = cut.second;
          CAPTURE(tp);
          CAPTURE(cp);
          CAPTURE(percent);
          CAPTURE(by_position);
          std::atomic<int> wrong{0};
          run_ranks(tp * cp, [&](thread_comm& group) {
            part own(all, {sequence, cp, group.rank() / tp, tp, group.rank() % tp});
            const routing<double>& kept = own.apply(rule, &group);
            for (extent_t t = 0; t < kept.expert.extent(0); ++t)
              for (extent_t j = 0; j < k; ++j) wrong += kept.expert(t, j) != expected[std::size_t(own.place.number(t) * k + j)];
          });
          CHECK(wrong == 0);
        }
      }
  }
  TEST_CASE("by probability the largest weights of the micro-batch stay, ties to the lower token in token order, over ranks too") {
    micro_batch all;
    std::fill(all.weight.begin(), all.weight.end(), 0.5);  // all tie: then by number
    all.weight[31 * k] = 0.75;                             // but the last token's first choice
    for (extent_t t = 0; t < sequence * batch; ++t) all.expert.view()(t, 0) = 0, all.expert.view()(t, 1) = 1;
    run_ranks<4>([&](thread_comm& group) {
      part own(all, {sequence, 2, group.rank() / 2, 2, group.rank() % 2});
      const routing<double>& kept = own.apply({25, true, false, false}, &group);  // C = 4
      for (extent_t t = 0; t < kept.expert.extent(0); ++t) {
        const extent_t number = own.place.number(t);
        CHECK(kept.expert(t, 0) == (number < 3 || number == 31 ? 0 : -1));
        CHECK(kept.expert(t, 1) == (number < 4 ? 1 : -1));
      }
    });
  }
  TEST_CASE("padded rows are the capacity of the set, and never more than the rank's tokens") {
    const micro_batch all;
    const token_rule own_tokens{100, false, false, true}, all_tokens{100, true, false, true}, many{1000, true, false, true};
    run_ranks<4>([&](thread_comm& group) {
      part own(all, {sequence, 1, 0, 4, group.rank()});  // 8 tokens of 32
      CHECK(own.apply(own_tokens, &group).padded_rows == 4);
      CHECK(own.apply(all_tokens, &group).padded_rows == 8);
      CHECK(own.apply(many, &group).padded_rows == 8);
      CHECK(own.apply({13, true, false, true}, &group).padded_rows == 3);  // C = 2.08, rounded up
    });
  }
  TEST_CASE("a rank without tokens keeps nothing and still takes part") {
    run_ranks<2>([](thread_comm& group) {
      host_context context;
      arena keep;
      tensor<std::int32_t> expert({0, k});
      tensor<double> weight({0, k});
      const routing<double> kept =
          keep_pairs(host_exec(context), {100, true, false, true}, routing<double>{expert, weight}, experts, {}, &group, keep);
      CHECK(kept.expert.shape() == shape{0, k});
      CHECK(kept.padded_rows == 0);
    });
  }
  TEST_CASE("a full sequence whose tokens have no place is refused on every rank: they would all be the first") {
    const micro_batch all;
    CHECK_THROWS_WITH_AS(run_ranks<2>([&](thread_comm& group) {
                           part own(all, {sequence, 1, 0, 2, group.rank()});
                           own.place = {};
                           own.apply({100, true, false, false}, &group);
                         }),
                         doctest::Contains("pass routing_context::place"), error);
  }
  TEST_CASE("a full sequence without its group is refused") {
    const micro_batch all;
    part one(all, whole);
    CHECK_THROWS_WITH_AS(one.apply<self_comm>({100, true, false, false}, nullptr),
                         "moefold: full-sequence dropping works over the ranks of tp x cp; pass that communicator as moe_groups::sequence",
                         config_error);
  }
}
