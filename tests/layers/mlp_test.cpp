#include <moefold/layers/mlp.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

using namespace moefold;
using test::own_parameter;
using test::random_tensor;

namespace {

struct variant {
  activation_function activation;
  bool output_gate;
};
constexpr variant variants[] = {{activation_function::swiglu, false},
                                {activation_function::swiglu, true},
                                {activation_function::gelu, false},
                                {activation_function::gelu, true}};

/// A whole layer and its inputs, from which every rank cuts its part into vectors of its own; sums the parts' results.
struct problem {
  static constexpr extent_t hidden = 5, width = 12;
  variant what;
  extent_t tokens = 8;
  tensor<double> x = random_tensor<double>({tokens, hidden}, 1), dy = random_tensor<double>({tokens, hidden}, 2);
  tensor<double> gate = random_tensor<double>({width, hidden}, 3, 0.5), up = random_tensor<double>({width, hidden}, 4, 0.5),
                 down = random_tensor<double>({hidden, width}, 5, 0.5), output = random_tensor<double>({hidden}, 6);
  tensor<double> y{x.shape(), 0.0}, dx{x.shape(), 0.0};
  tensor<double> dgate{gate.shape(), 0.0}, dup{up.shape(), 0.0}, ddown{down.shape(), 0.0}, doutput{output.shape(), 0.0};

  template <class Comm>
  void run(Comm& tp, bool backward = true) {
    host_context context;
    const host_exec e(context);
    arena keep;
    own_parameter<fp64, rows_over_tp> own_gate(gate, tp.rank(), tp.size()), own_up(up, tp.rank(), tp.size());
    own_parameter<fp64, columns_over_tp> own_down(down, tp.rank(), tp.size());
    own_parameter<fp64, replicated> own_output(output, tp.rank(), tp.size());
    mlp_layer<fp64, Comm> layer{{{}, {own_up.get()}, {own_down.get()}, {}}, what.activation, &tp};
    if (layer.gated()) layer.weights.gate = {own_gate.get()};
    if (what.output_gate) layer.weights.output = own_output.get();

    const sequence_part part{std::max<extent_t>(1, tokens), 1, 0, tp.size(), tp.rank()};
    const auto rows_of_rank = [&](const tensor<double>& whole) {
      return tokens > 0 ? test::take_rows(whole, part) : std::vector<double>{};
    };
    auto own_x = rows_of_rank(x), own_dy = rows_of_rank(dy);
    std::vector<double> own_y(own_x.size(), 99), own_dx(own_x.size(), 99);  // both are assigned
    typename mlp_layer<fp64, Comm>::saved saved;
    layer.forward(e, test::matrix(own_x, hidden), test::matrix(own_y, hidden), keep, saved);
    if (tokens > 0) test::put_rows(own_y, y, part);
    if (!backward) return;
    layer.backward(e, test::matrix(own_dy, hidden), test::matrix(own_dx, hidden), saved);
    if (tokens > 0) test::put_rows(own_dx, dx, part);
    own_gate.add_gradient_to(dgate);
    own_up.add_gradient_to(dup);
    own_down.add_gradient_to(ddown);
    own_output.add_gradient_to(doutput);
  }
  double loss() {
    self_comm self;
    run(self, false);
    return test::dot(y, dy);
  }
};

bool all_zero(const tensor<double>& t) {
  return std::all_of(t.begin(), t.end(), [](double g) { return g == 0; });
}

}  // namespace

TEST_SUITE("layers/mlp") {
  TEST_CASE("y is the definition, token by token") {
    for (const variant& v : variants) {
      problem p{v};
      p.loss();
      tensor<double> expected(p.y.shape(), 0.0);
      for (extent_t t = 0; t < p.tokens; ++t) {
        const auto along = [&](const tensor<double>& w, extent_t row) {
          double sum = 0;
          for (extent_t h = 0; h < p.hidden; ++h) sum += w[std::size_t(row * p.hidden + h)] * p.x.view()(t, h);
          return sum;
        };
        const double opening = v.output_gate ? 1 / (1 + std::exp(-along(p.output, 0))) : 1;
        for (extent_t f = 0; f < p.width; ++f) {
          const double g = along(p.gate, f), u = along(p.up, f);
          const double act =
              v.activation == activation_function::swiglu ? g / (1 + std::exp(-g)) * u : u * std::erfc(-u / std::sqrt(2.0)) / 2;
          for (extent_t h = 0; h < p.hidden; ++h) expected.view()(t, h) += opening * p.down.view()(h, f) * act;
        }
      }
      CHECK(test::largest_error(p.y, expected) < 1e-14);
    }
  }
  TEST_CASE("every gradient equals finite differences, for both activations, with and without an output gate") {
    for (const variant& v : variants) {
      CAPTURE(int(v.activation));
      CAPTURE(v.output_gate);
      problem own{v, 3}, probe{v, 3};
      self_comm self;
      own.run(self);
      const auto loss = [&] { return probe.loss(); };
      CHECK(test::largest_error(own.dx, test::numerical_gradient(probe.x, loss)) < 1e-9);
      CHECK(test::largest_error(own.dup, test::numerical_gradient(probe.up, loss)) < 1e-9);
      CHECK(test::largest_error(own.ddown, test::numerical_gradient(probe.down, loss)) < 1e-9);
      CHECK(test::largest_error(own.dgate, test::numerical_gradient(probe.gate, loss)) < 1e-9);
      CHECK(test::largest_error(own.doutput, test::numerical_gradient(probe.output, loss)) < 1e-9);
      CHECK(all_zero(own.dgate) == (v.activation == activation_function::gelu));
      CHECK(all_zero(own.doutput) == !v.output_gate);
    }
  }
  TEST_CASE("weight gradients are added to what is there") {
    host_context context;
    const host_exec e(context);
    self_comm self;
    problem once{{activation_function::swiglu, true}};
    once.run(self);
    problem p{once.what};
    for (tensor<double>* t : {&p.dgate, &p.dup, &p.ddown, &p.doutput}) std::fill(t->begin(), t->end(), 3.0);
    const mlp_layer<fp64, self_comm> layer{
        {{{p.gate, p.dgate}}, {{p.up, p.dup}}, {{p.down, p.ddown}}, {p.output, p.doutput}}, p.what.activation, &self};
    arena keep;
    mlp_layer<fp64, self_comm>::saved saved;
    layer.forward(e, p.x, p.y, keep, saved);
    layer.backward(e, p.dy, p.dx, saved);
    layer.backward(e, p.dy, p.dx, saved);  // saved state can be used again
    CHECK(test::largest_error(p.dx, once.dx) < 1e-14);
    const auto doubled = [](const tensor<double>& sum, const tensor<double>& one) {
      tensor<double> expected(one.shape());
      for (std::size_t i = 0; i < one.size(); ++i) expected[i] = 3 + 2 * one[i];
      return test::largest_error(sum, expected) < 1e-14;
    };
    CHECK(doubled(p.dgate, once.dgate));
    CHECK(doubled(p.dup, once.dup));
    CHECK(doubled(p.ddown, once.ddown));
    CHECK(doubled(p.doutput, once.doutput));
  }
  TEST_CASE("over 2 and 4 tensor-parallel ranks output, dx and all gradients are those of one rank") {
    for (const variant& v : variants) {
      problem one{v};
      self_comm self;
      one.run(self);
      for (const int ranks : {2, 4}) {
        CAPTURE(ranks);
        CAPTURE(int(v.activation));
        CAPTURE(v.output_gate);
        problem many{v};
        run_ranks(ranks, [&](thread_comm& tp) { many.run(tp); });
        CHECK(test::largest_error(many.y, one.y) < 1e-14);
        CHECK(test::largest_error(many.dx, one.dx) < 1e-14);
        CHECK(test::largest_error(many.dgate, one.dgate) < 1e-14);
        CHECK(test::largest_error(many.dup, one.dup) < 1e-14);
        CHECK(test::largest_error(many.ddown, one.ddown) < 1e-14);
        CHECK(test::largest_error(many.doutput, one.doutput) < 1e-14);
      }
    }
  }
  TEST_CASE("no rows on any rank: everybody takes part, and no gradient moves") {
    for (const variant& v : variants)
      for (const int ranks : {1, 2}) {
        problem none{v, 0};
        run_ranks(ranks, [&](thread_comm& tp) { none.run(tp); });
        for (const tensor<double>* t : {&none.dgate, &none.dup, &none.ddown, &none.doutput}) CHECK(all_zero(*t));
      }
  }
}
