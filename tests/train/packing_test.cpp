#include <moefold/train/trainer.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

constexpr model_shape small{
    .layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 12, .vocabulary = 64, .init_std = 0.3};
constexpr std::int32_t end_token = 63;

using in_double = basic_trainer<policies<fp64, cp_all_gather, moe_defaults, one_f_one_b, adamw>,
                                self_comm>;  // no balance losses: they look at whole micro-batches

// Documents of 5 to 8 tokens with a label, each ended by a token of its own.
token_stream documents(int count) {
  std::string text;
  for (int d = 0; d < count; ++d) {
    for (int i = 0; i < 5 + (d * d) % 4; ++i) text += char((d * 17 + i * i * 5 + i) % 63);
    text += char(end_token);
  }
  return token_stream::from_bytes(text);
}
dataset packed(extent_t sequence) {
  return dataset({token_sequences(std::make_shared<token_stream>(documents(24)), sequence, {end_token, false, true})}, {}, 1, 0.0, false);
}
step_result first_step(const dataset& data) {
  trainer_options options;
  options.global_batch = data.training_sequences();
  in_double trainer(self_comm(), small, data.sequence(), {}, options, data);
  return trainer.step();
}

}  // namespace

TEST_SUITE("train/packing") {
  TEST_CASE(
      "packed documents have the loss and the gradient of each document alone: nothing crosses their ends, padding counts for nothing") {
    const dataset alone = packed(8), together = packed(27);
    REQUIRE(alone.training_sequences() == 24);
    REQUIRE(together.training_sequences() < 9);
    const step_result a = first_step(alone), b = first_step(together);
    CHECK(a.tokens == b.tokens);
    CHECK(a.loss == doctest::Approx(b.loss).epsilon(1e-12));
    CHECK(a.grad_norm == doctest::Approx(b.grad_norm).epsilon(1e-10));
    const dataset cut(documents(24), 27, 1, 0.0, false);  // the same text, over its documents' ends
    CHECK(std::abs(first_step(cut).loss - b.loss) > 1e-4);
  }
}
