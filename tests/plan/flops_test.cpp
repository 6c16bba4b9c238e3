#include <moefold/plan/flops.hpp>

#include <moefold/model/llama.hpp>
#include <moefold/model/mixtral.hpp>
#include <moefold/model/qwen.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// Whether x is what was printed, to less than one in its last digit.
bool reads(double x, double printed, double last_digit) { return x > printed - last_digit && x < printed + last_digit; }

}  // namespace

TEST_SUITE("plan/flops") {
  TEST_CASE("parameters and flops of the four models are those of the published table, to less than one in its last digit") {
    struct row {
      const model_shape& model;
      double total, active, full, causal;  // 1e9 parameters, flops per token at 4,096 tokens
      double digit;                        // of the flops
    };
    const row rows[] = {{mixtral_8x22b, 140.6, 39.2, 2.506e11, 2.422e11, 1e8},
                        {mixtral_8x22b_g8t8, 140.7, 22.3, 1.492e11, 1.407e11, 1e8},
                        {qwen2_57b_a14b, 57.4, 14.3, 8.712e10, 8.465e10, 1e7},
                        {llama3_8x70b, 465.2, 126.9, 7.874e11, 7.713e11, 1e8}};
    for (const row& r : rows) {
      CAPTURE(r.total);
      CHECK(reads(double(count_parameters(r.model)) / 1e9, r.total, 0.1));
      CHECK(reads(double(active_parameters(r.model)) / 1e9, r.active, 0.1));
      const double full = flops_per_token(r.model, 4096, attention_flops::full),
                   causal = flops_per_token(r.model, 4096, attention_flops::causal);
      CAPTURE(full);
      CAPTURE(causal);
      const double router = 6.0 * double(r.model.layers * r.model.hidden * r.model.experts);  // the table leaves it out
      CHECK((reads(full, r.full, r.digit) || reads(full - router, r.full, r.digit)));
      CHECK((reads(causal, r.causal, r.digit) || reads(causal - router, r.causal, r.digit)));
      CHECK(router / full < 0.0009);
    }
    CHECK(reads(flops_per_token(mixtral_8x22b, 4096, attention_flops::full) / flops_per_token(mixtral_8x22b, 4096, attention_flops::causal),
                1.035, 0.001));
  }
  TEST_CASE("dense layers and a gelu have their own matrices, and recomputation counts for nothing") {
    model_shape m = mixtral_8x22b;
    m.activation = activation_function::gelu;
    const extent_t without = weights_per_token(m);
    CHECK(weights_per_token(mixtral_8x22b) - without == 56 * 2 * extent_t(16384) * 6144);
    m.dense_layers = 1, m.dense_ffn = 1000;
    CHECK(weights_per_token(m) - without == 2 * 6144 * (1000 - 2 * extent_t(16384)) - 8 * 6144);
  }
  TEST_CASE(
      "a rank's multiply-adds, over all ranks and backward's second scores aside, are half of the model's flops with full attention") {
    using enum axis_id;
    const folding_extents fold = make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 4}});
    const activation_shape a{mixtral_8x22b_g8t8, fold, 4096, 1};
    const product_count block = products_of_block(a, a.balanced_rows(), false), head = products_of_head(a);
    const double made = 2 * (double(block.weights + block.attention / 7 * 6) * 56 + double(head.total()));
    const double asked = flops_per_step(mixtral_8x22b_g8t8, 4096, 2, attention_flops::full) / 8;
    CHECK(made == doctest::Approx(asked).epsilon(1e-12));
    activation_shape again = a;
    again.recompute = recompute_full;
    CHECK(products_of_block(again, a.balanced_rows(), false).weights == block.weights / 3 * 4);
    CHECK(products_of_block(again, a.balanced_rows(), false).attention == block.attention / 7 * 9);
  }
}
