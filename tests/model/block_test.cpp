#include <moefold/model/block.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/layers/parameter_store.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr model_shape model{
    .layers = 1, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .experts = 4, .ffn = 6, .vocabulary = 11, .init_std = 0.3};
constexpr extent_t sequence = 4, batch = 2, rows = sequence * batch;

using block = block_layer<fp64, self_comm, cp_all_gather, moe_defaults>;

/// A block over the parameters of layer 0 in a store.
struct one_block {
  parameter_store<fp64> store{model, {}, 0};
  self_comm tp{"tp"}, cp{"cp"}, ep{"ep"}, etp{"etp"};
  host_context context;
  arena keep;
  block::saved saved;
  tensor<double> y{{rows, model.hidden}}, dx{{rows, model.hidden}};
  routing_tap tap;

  one_block() {
    store.initialise(3);
    for (auto& entry : store.entries())  // gains of their own, so that no factor of 1 hides anything
      if (entry.fact.init_std == 0)
        for (std::size_t i = 0; i < entry.value.size(); ++i) entry.value[i] = 1 + 0.1 * double(i % 5);
  }
  block layer() {
    using enum parameter_kind;
    const attention_weights<fp64> a{{store.get<rows_over_tp>(query, 0)},
                                    {store.get<rows_over_tp>(key, 0)},
                                    {store.get<rows_over_tp>(value, 0)},
                                    {store.get<columns_over_tp>(output, 0)}};
    const moe_weights<fp64> m{store.get<replicated>(router, 0), store.get<expert_rows>(gate, 0), store.get<expert_rows>(up, 0),
                              store.get<expert_columns>(down, 0)};
    return {{store.get<replicated>(attention_norm, 0), model.norm_eps},
            {model, sequence, a, tp, cp},
            {store.get<replicated>(moe_norm, 0), model.norm_eps},
            {model, m, ep, etp}};
  }
  void forward(const tensor<double>& x) {
    keep.clear();
    layer().forward(host_exec(context), x.view(), y.view(), keep, saved, 0, {.place = batch_place{0, 0, batch, {sequence}}, .tap = &tap});
  }
  void backward(const tensor<double>& dy) { layer().backward(host_exec(context), dy.view(), dx.view(), saved); }
};

}  // namespace

TEST_SUITE("model/block") {
  TEST_CASE("the gradients of the input and of all ten parameters equal finite differences") {
    one_block own, probe;
    auto x = random_tensor<double>({rows, model.hidden}, 4);
    const auto dy = random_tensor<double>({rows, model.hidden}, 5);
    own.forward(x);
    own.backward(dy);
    CHECK(own.tap.margin > 1e-2);  // no choice changes within the differences below
    const auto loss = [&] {
      probe.forward(x);
      return test::dot(probe.y, dy);
    };
    CHECK(test::largest_error(own.dx, test::numerical_gradient(x, loss, 1e-4)) < 1e-7);
    int checked = 0;
    for (std::size_t p = 0; p < own.store.entries().size(); ++p) {
      const auto& entry = own.store.entries()[p];
      if (entry.fact.layer != 0) continue;
      CAPTURE(entry.fact.name());
      CHECK(test::largest_error(entry.gradient, test::numerical_gradient(probe.store.entries()[p].value, loss, 1e-4)) < 1e-7);
      ++checked;
    }
    CHECK(checked == 10);
  }
  TEST_CASE("both residuals pass their input on: with output projections of zero a block is the identity, both ways") {
    one_block b;
    for (auto& entry : b.store.entries())
      if (entry.fact.kind == parameter_kind::output || entry.fact.kind == parameter_kind::down)
        std::fill(entry.value.begin(), entry.value.end(), 0.0);
    const auto x = random_tensor<double>({rows, model.hidden}, 4), dy = random_tensor<double>({rows, model.hidden}, 5);
    b.forward(x);
    b.backward(dy);
    CHECK(test::largest_error(b.y, x) == 0);
    CHECK(test::largest_error(b.dx, dy) == 0);
  }
  TEST_CASE("a sequence of the batch does not see the others, and a token does not see what comes after it") {
    one_block b;
    auto x = random_tensor<double>({rows, model.hidden}, 4);
    b.forward(x);
    const auto before = test::copy_of(b.y.view());
    const extent_t position = 2, sample = 1, changed = position * batch + sample;  // rows are [S, B]
    for (extent_t h = 0; h < model.hidden; ++h) x.view()(changed, h) += 1;
    b.forward(x);
    for (extent_t row = 0; row < rows; ++row) {
      const bool sees = row % batch == sample && row / batch >= position;
      CAPTURE(row);
      CHECK((test::largest_error(b.y.view().rows(row, 1), before.view().rows(row, 1)) > 0) == sees);
    }
  }
}
