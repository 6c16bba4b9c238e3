#include <moefold/inventory/legality.hpp>

#include <doctest/doctest.h>

#include <limits>
#include "../support/mappings.hpp"

using namespace moefold;

namespace {

constexpr model_shape model{.layers = 4, .heads = 8, .kv_heads = 4, .experts = 8, .ffn = 144};

std::string refused(const model_shape& m, extent_t sequence, const extents& attention, const extents& moe) {
  try {
    check(m, sequence, make_folding(attention, moe));
  } catch (const config_error& e) {
    return e.what();
  }
  return "";
}

struct run {
  static constexpr model_shape model = ::model;
  static constexpr extent_t sequence = 256;
  using fold = folding<mesh<tp<2>, cp<2>, dp<dyn>>, mesh<ep<4>, edp<dyn>>>;
};
static_assert(check_run<run>::ok);  // a dyn extent divides everything until the world is known

}  // namespace

TEST_SUITE("inventory/legality") {
  TEST_CASE("every mapping of the suites is legal") {
    for (const testing::mapping& m : testing::mappings()) {
      CAPTURE(m.name);
      model_shape small = model;
      small.kv_heads = 8;
      CHECK_NOTHROW(check(small, 64, m.fold));
    }
  }
  TEST_CASE("each broken rule says what was given, what is needed and how to mend it") {
    using enum axis_id;
    CHECK(refused(model, 12, {{tp, 3}}, {{edp, 3}}) ==
          "moefold: the attention heads must be a multiple of TP; choose a TP that divides them (given heads = 8, tp = 3)");
    CHECK(refused(model, 16, {{tp, 8}}, {{edp, 8}}) ==
          "moefold: the key/value heads must be a multiple of TP; choose a TP that divides them, and use CP for the rest (given kv_heads = "
          "4, tp = 8)");
    CHECK(refused(model, 16, {{dp, 3}}, {{ep, 3}}) ==
          "moefold: the experts must be a multiple of EP; choose an EP that divides them (given experts = 8, ep = 3)");
    CHECK(refused(model, 16, {{dp, 5}}, {{etp, 5}}) ==
          "moefold: the expert ffn width must be a multiple of ETP; choose an ETP that divides it (given ffn = 144, etp = 5)");
    CHECK(refused(model, 15, {{tp, 2}}, {{ep, 2}}) ==
          "moefold: the sequence must be a multiple of TP*CP, and of 2*CP*TP when CP > 1 (each CP rank owns two chunks); lengthen the "
          "sequence or lower "
          "CP or TP (given sequence = 15, pieces = 2)");
    CHECK(refused(model, 12, {{tp, 2}, {cp, 2}}, {{ep, 4}}).find("(given sequence = 12, pieces = 8)") != std::string::npos);
    CHECK(refused(model, 0, {}, {}) == "moefold: a sequence is at least 1 token long (given sequence = 0, least = 1)");
    CHECK(refused(model, 16, {{pp, 5}}, {{pp, 5}}) ==
          "moefold: every pipeline stage, and every chunk of one, needs at least one layer; lower PP, or give layer counts (given layers = "
          "4, "
          "virtual_stages = 5)");
  }
  TEST_CASE("a sequence may fill the window of the model, and not be longer") {
    model_shape windowed = model;
    windowed.sliding_window = 16;
    CHECK(refused(windowed, 16, {}, {}) == "");
    CHECK(refused(windowed, 17, {}, {}) ==
          "moefold: the model's tokens see only sliding_window tokens back, and attention here sees the whole sequence: shorten the "
          "sequence to "
          "the window, where both are the same, or set sliding_window = 0 to train a model that sees everything (given sequence = 17, "
          "sliding_window = 16)");
  }
  TEST_CASE("the model's own contradictions are found first") {
    using enum axis_id;
    model_shape odd = model;
    odd.head_dim = 15;
    CHECK(refused(odd, 16, {{tp, 3}}, {{edp, 3}}) == "moefold: RoPE rotates pairs; head_dim must be even (given head_dim = 15, pair = 2)");
  }
  TEST_CASE("no numbers of a batch overflow or divide by zero") {
    constexpr extent_t huge = std::numeric_limits<extent_t>::max();
    CHECK_NOTHROW(check_batch_size(8, 2, 2));
    for (const extent_t micro : {extent_t{0}, extent_t{-1}, huge, extent_t{1} << 62})
      CHECK_THROWS_AS(check_batch_size(8, 4, micro), config_error);
    for (const extent_t global : {extent_t{0}, extent_t{-8}, huge, extent_t{6}})
      CHECK_THROWS_AS(check_batch_size(global, 4, 1), config_error);
  }
  TEST_CASE("a batch is a positive multiple of DP times the micro-batch") {
    CHECK_NOTHROW(require_batch(8, 4));
    for (const extent_t batch : {-4, 0, 6})
      CHECK_THROWS_WITH_AS(
          require_batch(batch, 4),
          sentence("moefold: the global batch must be a positive multiple of DP * micro-batch; change --global-batch or --micro-batch "
                   "(given global_batch = ",
                   batch, ", dp_times_micro_batch = 4)")
              .c_str(),
          config_error);
  }
  TEST_CASE("what is legal beyond the usual is legal: EP need not divide DP, ETP need not equal TP") {
    using enum axis_id;
    CHECK(refused(model, 16, {{tp, 2}, {cp, 2}, {dp, 3}}, {{etp, 3}, {ep, 4}}) == "");
    CHECK(refused(model, 15, {{dp, 2}}, {{etp, 2}}) == "");
    CHECK(sequence_pieces(3, 1) == 3);
    CHECK(sequence_pieces(3, 2) == 12);
  }
}
