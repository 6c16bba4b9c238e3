#include <moefold/inventory/legality.hpp>

#include <moefold/core/rng.hpp>

#include <doctest/doctest.h>
#include "../support/mappings.hpp"

#include <algorithm>
#include <limits>

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

/// Meshes, a model and a sequence of any numbers: small ones that may fit, and such as no configuration should have.
struct random_setup {
  std::vector<axis_extent> attention, moe;
  model_shape shape = model;
  extent_t sequence = 0;
  random_stream draw;
  mutable std::uint64_t drawn = 0;

  explicit random_setup(std::uint64_t seed) : draw(seed, "setup") {
    using enum axis_id;
    const bool wild = pick(2) == 0;
    const auto mesh = [&](std::initializer_list<axis_id> own) {
      std::vector<axis_extent> list;
      for (const axis_id axis : own)
        if (pick(4) > 0) list.insert(list.begin() + std::ptrdiff_t(pick(list.size() + 1)), {axis, number(wild)});
      if (wild && pick(6) == 0) list.push_back({axis_id(pick(axis_count)), number(wild)});
      return list;
    };
    attention = mesh({tp, cp, dp, pp}), moe = mesh({etp, ep, edp});
    extent_t stages = 1;
    std::size_t at = 0;
    for (std::size_t i = 0; i < attention.size(); ++i)
      if (attention[i].axis == pp) stages = attention[i].ranks, at = i;
    if (stages != 1 && pick(8) > 0) moe.insert(moe.begin() + std::ptrdiff_t(std::min(at, moe.size())), {pp, stages});
    if (pick(4) > 0)  // often as many ranks as attention has
      for (axis_extent& a : moe)
        if (a.axis == edp && wide(attention) > 0 && a.ranks > 0 && wide(moe) > 0 && wide(attention) % (wide(moe) / a.ranks) == 0)
          a.ranks = extent_t(wide(attention) / (wide(moe) / a.ranks));
    shape.heads = number(wild) * 8, shape.kv_heads = pick(2) ? shape.heads : number(wild), shape.experts = 8 * number(wild);
    shape.ffn = 16 * number(wild), shape.layers = 4 * number(wild), shape.head_dim = 2 * number(wild) + extent_t(pick(9) == 0);
    shape.top_k = wild ? number(true) : 2, sequence = 64 * number(wild);
  }
  std::size_t pick(std::size_t below) const { return std::size_t(draw.bits(drawn++) % below); }
  extent_t number(bool wild) const {
    constexpr extent_t usual[] = {1, 1, 2, 2, 4, 3};
    constexpr extent_t odd[] = {0, -1, 5, 7, extent_t{1} << 20, extent_t{1} << 40, extent_t{1} << 55, -(extent_t{1} << 55)};
    return wild && pick(5) == 0 ? odd[pick(std::size(odd))] : usual[pick(std::size(usual))];
  }
  /// The product of the extents; 0 where one is not positive or the product is beyond 2^100.
  static __int128 wide(const std::vector<axis_extent>& list) {
    __int128 product = 1;
    for (const axis_extent& a : list) product = a.ranks < 1 || product > (__int128{1} << 60) ? 0 : product * a.ranks;
    return product;
  }
  static extent_t of(const std::vector<axis_extent>& list, axis_id axis) {
    for (const axis_extent& a : list)
      if (a.axis == axis) return a.ranks;
    return 1;
  }
  static __int128 inside_pp(const std::vector<axis_extent>& list) {
    __int128 product = 1;
    for (const axis_extent& a : list) {
      if (a.axis == axis_id::pp) break;
      product *= a.ranks;
    }
    return product;
  }

  /// Words of every rule that is broken, each decided here by itself; none: the setup is legal.
  std::vector<const char*> broken() const {
    using enum axis_id;
    std::vector<const char*> words;
    const auto needs = [&](bool holds, const char* what) {
      if (!holds) words.push_back(what);
    };
    for (const auto* list : {&attention, &moe}) {
      std::array<int, axis_count> named{};
      bool positive = true, distinct = true;
      for (const axis_extent& a : *list) positive = positive && a.ranks >= 1, distinct = distinct && ++named[std::size_t(a.axis)] == 1;
      needs(distinct, "names the same axis twice");
      needs(positive, "an axis has at least 1 rank");
      __int128 product = 1;
      for (const axis_extent& a : *list)
        if (a.ranks > 1 && product <= (extent_t{1} << 40)) product *= a.ranks;
      needs(product <= (extent_t{1} << 40), "a mesh has at most");
    }
    if (!words.empty()) return words;
    const auto foreign = [](const auto& list, auto own) {
      return std::any_of(list.begin(), list.end(), [&](const axis_extent& a) { return !own(a.axis); });
    };
    needs(!foreign(attention, [](axis_id a) { return a == tp || a == cp || a == dp || a == pp; }), "the attention mesh has only the axes");
    needs(!foreign(moe, [](axis_id a) { return a == etp || a == ep || a == edp || a == pp; }), "the MoE mesh has only the axes");
    needs(of(attention, pp) == of(moe, pp), "cut into the same pipeline stages");
    needs(wide(attention) == wide(moe), "TP*CP*DP*PP must equal ETP*EP*EDP*PP");
    needs(of(attention, pp) == 1 || of(moe, pp) == 1 || inside_pp(attention) == inside_pp(moe), "must have the same pipeline groups");
    if (!words.empty()) return words;
    const model_shape& m = shape;
    const bool positive = m.layers > 0 && m.heads > 0 && m.kv_heads > 0 && m.head_dim > 0 && m.experts > 0 && m.ffn > 0;
    needs(positive, "every number of a model_shape is at least 1");
    if (!positive) return words;
    needs(m.heads % m.kv_heads == 0, "heads must be a multiple of kv_heads");
    needs(m.head_dim % 2 == 0, "head_dim must be even");
    needs(m.top_k >= 1 && m.top_k <= m.experts, "top_k must lie between 1 and experts");
    needs(m.top_k != 1, "with top_k = 1 softmax over the chosen is always 1");
    needs(m.heads % of(attention, tp) == 0, "the attention heads must be a multiple of TP");
    needs(m.kv_heads % of(attention, tp) == 0, "the key/value heads must be a multiple of TP");
    needs(m.experts % of(moe, ep) == 0, "the experts must be a multiple of EP");
    needs(m.ffn % of(moe, etp) == 0, "the expert ffn width must be a multiple of ETP");
    needs(sequence >= 1, "a sequence is at least 1 token long");
    needs(sequence % (of(attention, tp) * of(attention, cp) * (of(attention, cp) > 1 ? 2 : 1)) == 0,
          "the sequence must be a multiple of TP*CP");
    needs(m.layers >= of(attention, pp), "every pipeline stage");
    return words;
  }
};

/// Returns how many were legal.
int check_setups(std::uint64_t from, int count) {
  int legal = 0, wrong = 0;
  for (int i = 0; i < count; ++i) {
    const random_setup setup(from + std::uint64_t(i));
    const std::vector<const char*> broken = setup.broken();
    std::string said;
    try {
      check(setup.shape, setup.sequence, make_folding(extents(setup.attention), extents(setup.moe)));
    } catch (const config_error& e) {
      said = e.what();
    }
    legal += broken.empty();
    const bool right = broken.empty() ? said.empty() : std::any_of(broken.begin(), broken.end(), [&](const char* words) {
      return said.find(words) != std::string::npos && said.find('\n') == std::string::npos;
    });
    wrong += !right;
    CAPTURE(i);
    CAPTURE(said);
    CAPTURE(std::string(broken.empty() ? "legal" : broken.front()));
    if (!right && wrong < 5) CHECK(right);
  }
  CHECK(wrong == 0);
  MESSAGE("F23: ", count - wrong, " of ", count, " random foldings and models: ", legal, " legal ones accepted, ", count - legal,
          " refused with the rule they break");
  return legal;
}

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
  TEST_CASE("F23: 100,000 random foldings and models: the illegal ones are refused, each with a rule that it breaks") {
    const int legal = check_setups(1, 100'000);
    CHECK(legal > 5'000);
    CHECK(legal < 90'000);
  }
}
TEST_SUITE("inventory/legality_soak") {
  TEST_CASE("F23: a million random foldings and models") { check_setups(1'000'000, 1'000'000); }
}
