#include <moefold/moe/sequential_experts.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t hidden = 6, width = 5, rows = 9, count = 5;
constexpr double before = 3.0;                                 // what gradients hold before
const std::vector<std::int64_t> offsets{0, 0, 3, 4, 4, rows};  // the first and the fourth expert have no rows

template <class Precision>
struct problem {
  using T = typename Precision::storage;
  activation_function activation;
  tensor<T> gate = random_tensor<T>({count, width, hidden}, 1, 0.5), up = random_tensor<T>({count, width, hidden}, 2, 0.5),
            down = random_tensor<T>({count, hidden, width}, 3, 0.5);
  tensor<T> x = random_tensor<T>({rows, hidden}, 4), weight = random_tensor<T>({rows}, 5), dy = random_tensor<T>({rows, hidden}, 6);
  // All of these are assigned; garbage that was there must not show.
  tensor<T> y{{rows, hidden}, std::numeric_limits<T>::quiet_NaN()}, dx{{rows, hidden}, std::numeric_limits<T>::quiet_NaN()},
      dweight{{rows}, std::numeric_limits<T>::quiet_NaN()};
  tensor<T> dgate{gate.shape(), T(before)}, dup{up.shape(), T(before)}, ddown{down.shape(), T(before)};

  template <template <class> class Experts>
  void run() {
    host_context context;
    const host_exec e(context);
    arena keep;
    Experts<Precision> layer;
    if (activation == activation_function::swiglu) layer.gate = {gate, dgate};
    layer.up = {up, dup};
    layer.down = {down, ddown};
    layer.activation = activation;
    typename Experts<Precision>::saved saved;
    layer.forward(e, x, weight, offsets, y, keep, saved);
    layer.backward(e, dy, dx, dweight, saved);
  }
};
constexpr activation_function activations[] = {activation_function::swiglu, activation_function::gelu};

}  // namespace

TEST_SUITE("moe/sequential_experts") {
  TEST_CASE_TEMPLATE("output and every gradient are those of the grouped experts, for both activations, with starved experts", Precision,
                     fp32, fp64) {
    constexpr double rounding = test::rounding<typename Precision::storage>;
    for (const activation_function activation : activations) {
      CAPTURE(int(activation));
      problem<Precision> one{activation}, other{activation};
      one.template run<sequential_experts>();
      other.template run<grouped_experts>();
      CHECK(test::largest_error(one.y, other.y) < rounding);
      CHECK(test::largest_error(one.dx, other.dx) < rounding);
      CHECK(test::largest_error(one.dweight, other.dweight) < rounding);
      CHECK(test::largest_error(one.dgate, other.dgate) < rounding);
      CHECK(test::largest_error(one.dup, other.dup) < rounding);
      CHECK(test::largest_error(one.ddown, other.ddown) < rounding);
    }
  }
  TEST_CASE("every gradient equals finite differences, added to what is there; a starved expert's is not touched") {
    for (const activation_function activation : activations) {
      problem<fp64> own{activation}, probe{activation};
      own.run<sequential_experts>();
      const auto loss = [&] {
        probe.run<sequential_experts>();
        return test::dot(probe.y, probe.dy);
      };
      CHECK(test::largest_error(own.dx, test::numerical_gradient(probe.x, loss)) < 1e-9);
      CHECK(test::largest_error(own.dweight, test::numerical_gradient(probe.weight, loss)) < 1e-9);
      const auto added = [&](const tensor<double>& gradient, tensor<double>& weights) {
        auto slope = test::numerical_gradient(weights, loss);
        for (double& s : slope) s += before;
        CHECK(test::largest_error(gradient, slope) < 1e-9);
        for (const extent_t starved : {0, 3}) {
          const auto g = gradient.view().rows(starved, 1);
          CHECK(std::all_of(g.begin(), g.end(), [](double value) { return value == before; }));
        }
      };
      added(own.dup, probe.up);
      added(own.ddown, probe.down);
      added(own.dgate, probe.gate);
    }
  }
  TEST_CASE("no rows at all: nothing happens") {
    problem<fp64> p{activation_function::swiglu};
    host_context context;
    const host_exec e(context);
    arena keep;
    sequential_experts<fp64> layer;
    layer.gate = {p.gate, p.dgate}, layer.up = {p.up, p.dup}, layer.down = {p.down, p.ddown};
    sequential_experts<fp64>::saved saved;
    tensor<double> x({0, hidden}), weight({0});
    const std::vector<std::int64_t> none(count + 1, 0);
    layer.forward(e, x, weight, none, x, keep, saved);
    layer.backward(e, x, x, weight, saved);
    for (const tensor<double>* t : {&p.dgate, &p.dup, &p.ddown})
      CHECK(std::all_of(t->begin(), t->end(), [](double g) { return g == before; }));
  }
  TEST_CASE("in bf16 the twins agree to rounding, with and without a gate, and their gradients are sums in fp32") {
    host_context context;
    const host_exec e(context);
    const extent_t rows = 9, hidden = 6, width = 5, experts = 3;
    const std::vector<std::int64_t> offsets{0, 4, 4, 9};
    const auto x = test::random_tensor<bf16>({rows, hidden}, 1), dy = test::random_tensor<bf16>({rows, hidden}, 2);
    const auto gate = test::random_tensor<bf16>({experts, width, hidden}, 3), up = test::random_tensor<bf16>({experts, width, hidden}, 4);
    const auto down = test::random_tensor<bf16>({experts, hidden, width}, 5);
    const auto p = test::random_tensor<float>({rows}, 6);
    for (const activation_function activation : {activation_function::swiglu, activation_function::gelu}) {
      const auto run = [&](auto layer, tensor<bf16>& y, tensor<bf16>& dx, tensor<float>& dp, tensor<float>& dgate, tensor<float>& dup,
                           tensor<float>& ddown) {
        layer.gate = {gate.view(), dgate.view()}, layer.up = {up.view(), dup.view()}, layer.down = {down.view(), ddown.view()};
        layer.activation = activation;
        arena keep;
        typename decltype(layer)::saved saved;
        layer.forward(e, x.view(), p.view(), offsets, y.view(), keep, saved);
        layer.backward(e, dy.view(), dx.view(), dp.view(), saved);
      };
      tensor<bf16> y({rows, hidden}), dx({rows, hidden}), other_y({rows, hidden}), other_dx({rows, hidden});
      tensor<float> dp({rows}), dgate(gate.shape(), 0.0f), dup(up.shape(), 0.0f), ddown(down.shape(), 0.0f);
      tensor<float> other_dp({rows}), other_dgate(gate.shape(), 0.0f), other_dup(up.shape(), 0.0f), other_ddown(down.shape(), 0.0f);
      run(grouped_experts<mixed_bf16>{}, y, dx, dp, dgate, dup, ddown);
      run(sequential_experts<mixed_bf16>{}, other_y, other_dx, other_dp, other_dgate, other_dup, other_ddown);
      const double bits = 1.0 / 256;  // a sum in another order may fall to the other side of a rounding
      CHECK(test::norm_error(other_y, y) < bits);
      CHECK(test::norm_error(other_dx, dx) < bits);
      CHECK(test::norm_error(other_dp, dp) < bits);
      CHECK(test::norm_error(other_dgate, dgate) < bits);
      CHECK(test::norm_error(other_dup, dup) < bits);
      CHECK(test::norm_error(other_ddown, ddown) < bits);
      std::size_t fine = 0;  // gradients that are no bf16 numbers: they were not rounded to storage on their way
      for (const float g : ddown) fine += float(bf16(g)) != g;
      CHECK(fine > ddown.size() / 4);
    }
  }
  TEST_CASE("in fp8 with a past the twins see the same 8-bit values, expert by expert as all at once") {
    using precision = fp8<delayed_scaling<1>>;
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<bf16>({rows, hidden}, 1), dy = random_tensor<bf16>({rows, hidden}, 2, 1e-3);
    const auto gate = random_tensor<bf16>({count, width, hidden}, 3, 0.5), up = random_tensor<bf16>({count, width, hidden}, 4, 0.5);
    const auto down = random_tensor<bf16>({count, hidden, width}, 5, 0.5);
    const auto p = random_tensor<float>({rows}, 6);
    float past[9] = {2, 1, 1e-3f, 2, 1, 1e-3f, 2, 1, 2e-3f}, seen[2][9] = {};
    const auto run = [&](auto layer, float* amax, tensor<bf16>& y, tensor<bf16>& dx, tensor<float>& dp, tensor<float>& dup) {
      tensor<float> dgate(gate.shape(), 0.0f), ddown(down.shape(), 0.0f);
      layer.gate = {gate.view(), dgate.view()}, layer.up = {up.view(), dup.view()}, layer.down = {down.view(), ddown.view()};
      product_inputs<precision>* products[] = {&layer.inputs.gate, &layer.inputs.up, &layer.inputs.down};
      for (int i = 0; i < 3; ++i) {
        const auto of = [&](int tensor) { return amax_history{amax + 3 * i + tensor, {past + 3 * i + tensor, 1}}; };
        products[i]->x_seen = of(0), products[i]->weight_seen = of(1), products[i]->dy_seen = of(2);
      }
      arena keep;
      typename decltype(layer)::saved saved;
      layer.forward(e, x.view(), p.view(), offsets, y.view(), keep, saved);
      layer.backward(e, dy.view(), dx.view(), dp.view(), saved);
    };
    tensor<bf16> y({rows, hidden}), dx({rows, hidden}), other_y({rows, hidden}), other_dx({rows, hidden});
    tensor<float> dp({rows}), other_dp({rows}), dup(up.shape(), 0.0f), other_dup(up.shape(), 0.0f);
    run(grouped_experts<precision>{}, seen[0], y, dx, dp, dup);
    run(sequential_experts<precision>{}, seen[1], other_y, other_dx, other_dp, other_dup);
    const double bits = 1.0 / 64;  // rarely, a sum in another order falls to the other side of an 8-bit rounding
    CHECK(test::norm_error(other_y, y) < bits);
    CHECK(test::norm_error(other_dx, dx) < bits);
    CHECK(test::norm_error(other_dp, dp) < bits);
    CHECK(test::norm_error(other_dup, dup) < bits);
    for (int i = 0; i < 9; ++i) {
      CAPTURE(i);
      CHECK(seen[0][i] > 0);
      // every expert's weights are seen by the grouped twin, only those of experts with rows here
      if (i % 3 != 1) CHECK(seen[1][i] == doctest::Approx(seen[0][i]).epsilon(0.01));
      if (i % 3 == 1) CHECK(seen[1][i] <= seen[0][i]);
    }
  }
}
