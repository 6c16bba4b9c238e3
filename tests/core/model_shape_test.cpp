#include <moefold/core/model_shape.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace moefold;

namespace {

template <class Change>
model_shape with(Change change) {
  model_shape m;
  change(m);
  return m;
}

}  // namespace

TEST_SUITE("core/model_shape") {
  TEST_CASE("the default model is sound, at compile time too") {
    static_assert((check(model_shape{}), true));
    static_assert(model_shape{}.q_width() == 128 && model_shape{}.kv_width() == 64);
    CHECK(model_shape{} == model_shape{});
    CHECK(with([](model_shape& m) { m.norm_eps = 1e-6; }) != model_shape{});
  }
  TEST_CASE("heads need not fill the hidden width, nor an expert be wider than a token") {
    CHECK_NOTHROW(check(with([](model_shape& m) { m.hidden = 5, m.heads = 3, m.kv_heads = 1, m.head_dim = 2, m.ffn = 1; })));
    CHECK_NOTHROW(check(with([](model_shape& m) { m.experts = m.top_k = 1, m.score = score_function::softmax_before; })));
    CHECK_NOTHROW(check(with([](model_shape& m) { m.top_k = m.experts; })));
  }
  TEST_CASE("a number below 1 is refused with all numbers, whichever it is") {
    for (extent_t model_shape::*number : {&model_shape::layers, &model_shape::hidden, &model_shape::heads, &model_shape::kv_heads,
                                          &model_shape::head_dim, &model_shape::experts, &model_shape::ffn, &model_shape::vocabulary})
      for (const extent_t value : {0, -2}) CHECK_THROWS_AS(check(with([=](model_shape& m) { m.*number = value; })), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.ffn = 0; })),
                         "moefold: every number of a model_shape is at least 1 (layers 4, hidden 128, heads 8, kv_heads 4, head_dim 16, "
                         "experts 8, ffn 0, vocabulary 256)",
                         config_error);
  }
  TEST_CASE("what contradicts itself is refused with the two numbers") {
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.kv_heads = 3; })),
                         "moefold: heads must be a multiple of kv_heads; each key/value head serves equally many query heads (given heads "
                         "= 8, kv_heads = 3)",
                         config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.head_dim = 15; })),
                         "moefold: RoPE rotates pairs; head_dim must be even (given head_dim = 15, pair = 2)", config_error);
    for (const extent_t k : {0, 9})
      CHECK_THROWS_WITH_AS(check(with([=](model_shape& m) { m.top_k = k; })),
                           sentence("moefold: top_k must lie between 1 and experts (given top_k = ", k, ", experts = 8)").c_str(),
                           config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.top_k = 1; })),
                         "moefold: with top_k = 1 softmax over the chosen is always 1 and the router cannot learn; use "
                         "score_function::softmax_before (given top_k = 1, softmax_after = 1)",
                         config_error);
    CHECK_NOTHROW(check(with([](model_shape& m) { m.top_k = 1, m.score = score_function::sigmoid; })));
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.expert_groups = 3; })),
                         doctest::Contains("(given experts = 8, expert_groups = 3)"), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.expert_groups = 0; })), doctest::Contains("expert_groups = 0"), config_error);
    for (const extent_t chosen : {0, 5})
      CHECK_THROWS_WITH_AS(check(with([=](model_shape& m) { m.expert_groups = 4, m.chosen_groups = chosen; })),
                           doctest::Contains("chosen_groups must lie between 1 and expert_groups"), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.top_k = 3, m.expert_groups = 4, m.chosen_groups = 2; })),
                         doctest::Contains("top_k must be a multiple of chosen_groups"), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.top_k = 4, m.expert_groups = 4, m.chosen_groups = 1; })),
                         doctest::Contains("use fewer or larger groups"), config_error);
    CHECK_NOTHROW(check(with([](model_shape& m) { m.top_k = 4, m.expert_groups = 4, m.chosen_groups = 2; })));
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.expert_bias = true; })),
                         doctest::Contains("expert_bias works on sigmoid scores"), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.shared_gate = true; })), doctest::Contains("give it a width, shared_ffn"),
                         config_error);
    CHECK_THROWS_AS(check(with([](model_shape& m) { m.shared_ffn = -1; })), config_error);
    CHECK_NOTHROW(check(with([](model_shape& m) { m.dense_layers = m.layers, m.dense_ffn = 64; })));
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.dense_layers = m.layers + 1, m.dense_ffn = 64; })),
                         doctest::Contains("take 0 (none) to layers"), config_error);
    CHECK_THROWS_AS(check(with([](model_shape& m) { m.dense_layers = -1; })), config_error);
    CHECK_NOTHROW(check(with([](model_shape& m) { m.sliding_window = 1; })));
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.sliding_window = -1; })),
                         doctest::Contains("or 0 for all of them (given sliding_window = -1, least = 0)"), config_error);
    CHECK_THROWS_WITH_AS(check(with([](model_shape& m) { m.dense_layers = 1; })), doctest::Contains("dense layers have a width"),
                         config_error);
    CHECK_THROWS_AS(check(with([](model_shape& m) { m.dense_ffn = 64; })), config_error);
    CHECK_THROWS_AS(check(with([](model_shape& m) { m.dense_layers = 1, m.dense_ffn = -64; })), config_error);
    for (const double bad : {0.0, -1.0, std::nan("")})
      CHECK_THROWS_AS(check(with([=](model_shape& m) { m.weight_scale = bad; })), config_error);
    for (const double bad : {0.0, -1.0, std::nan("")}) {
      CHECK_THROWS_AS(check(with([=](model_shape& m) { m.init_std = bad; })), config_error);
      CHECK_THROWS_AS(check(with([=](model_shape& m) { m.norm_eps = bad; })), config_error);
      CHECK_THROWS_AS(check(with([=](model_shape& m) { m.rope_theta = bad; })), config_error);
    }
  }
}
