#include <moefold/layers/norm.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t rows = 6, width = 37;

struct normed {
  tensor<double> y{{rows, width}}, dx{{rows, width}}, dgain{{width}, 0.0};
};

/// Forward and backward on `parts` ranks with rows of their own: local, so ranks may be played one after the other.
normed run(const tensor<double>& x, const tensor<double>& gain, const tensor<double>& dy, extent_t parts) {
  normed out;
  for (extent_t part = 0; part < parts; ++part) {
    host_context context;
    const host_exec e(context);
    arena keep;
    test::own_parameter<fp64, replicated> own(gain, part, parts);
    const norm_layer<fp64> layer{own.get(), 1e-3};
    norm_layer<fp64>::saved s;
    const extent_t count = rows / parts, first = part * count;
    layer.forward(e, x.view().rows(first, count), out.y.view().rows(first, count), keep, s);
    layer.backward(e, dy.view().rows(first, count), out.dx.view().rows(first, count), s);
    own.add_gradient_to(out.dgain);
  }
  return out;
}

}  // namespace

TEST_SUITE("layers/norm") {
  TEST_CASE("every row is divided by its root mean square, with the layer's eps, times the gain") {
    auto x = random_tensor<double>({rows, width}, 1, 0.1);
    for (extent_t c = 0; c < width; ++c) x.view()(2, c) = 0;  // eps alone
    const auto gain = random_tensor<double>({width}, 2), dy = random_tensor<double>({rows, width}, 3);
    tensor<double> expected({rows, width});
    for (extent_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (extent_t c = 0; c < width; ++c) squares += x.view()(r, c) * x.view()(r, c);
      for (extent_t c = 0; c < width; ++c)
        expected.view()(r, c) = x.view()(r, c) / std::sqrt(squares / double(width) + 1e-3) * gain[std::size_t(c)];
    }
    CHECK(test::largest_error(run(x, gain, dy, 1).y, expected) < 1e-14);
  }
  TEST_CASE("both gradients equal finite differences") {
    auto x = random_tensor<double>({rows, width}, 1), gain = random_tensor<double>({width}, 2);
    const auto dy = random_tensor<double>({rows, width}, 3);
    const auto loss = [&] { return test::dot(run(x, gain, dy, 1).y, dy); };
    const normed now = run(x, gain, dy, 1);
    CHECK(test::largest_error(now.dx, test::numerical_gradient(x, loss)) < 1e-8);
    CHECK(test::largest_error(now.dgain, test::numerical_gradient(gain, loss)) < 1e-8);
  }
  TEST_CASE("on 2 and 3 ranks with rows of their own, the gain's gradients sum to the one rank's") {
    const auto x = random_tensor<double>({rows, width}, 1), gain = random_tensor<double>({width}, 2);
    const auto dy = random_tensor<double>({rows, width}, 3);
    const normed one = run(x, gain, dy, 1);
    for (const extent_t parts : {2, 3}) {
      const normed many = run(x, gain, dy, parts);
      CHECK(test::largest_error(many.y, one.y) == 0);
      CHECK(test::largest_error(many.dx, one.dx) == 0);
      CHECK(test::largest_error(many.dgain, one.dgain) < 1e-14);
    }
  }
  TEST_CASE("the gain's gradient is accumulated over micro-batches, and what is kept for backward is one number a row") {
    host_context context;
    const host_exec e(context);
    arena keep;
    const auto x = random_tensor<float>({rows, width}, 1), gain = random_tensor<float>({width}, 2),
               dy = random_tensor<float>({rows, width}, 3);
    test::own_parameter<fp32, replicated> own(gain, 0, 1);
    const norm_layer<fp32> layer{own.get()};
    CHECK(layer.eps == 1e-5);
    norm_layer<fp32>::saved s;
    tensor<float> y({rows, width}), dx({rows, width}, 5.0f), again({rows, width}, -5.0f);
    layer.forward(e, x, y.view(), keep, s);
    CHECK((s.rstd.shape() == shape{rows} && s.x.data() == x.data() && keep.peak() == 64));
    layer.backward(e, dy, dx.view(), s);
    const std::vector<float> once = own.gradient;
    layer.backward(e, dy, again.view(), s);
    CHECK(test::largest_error(again, dx) == 0);
    for (std::size_t i = 0; i < once.size(); ++i) CHECK(own.gradient[i] == 2 * once[i]);
  }
  TEST_CASE("no rows are legal") {
    host_context context;
    const host_exec e(context);
    arena keep;
    const tensor<double> gain({width}, 1.0), none({0, width});
    tensor<double> dgain({width}, 3.0), out({0, width});
    const norm_layer<fp64> layer{{gain, dgain}};
    norm_layer<fp64>::saved s;
    layer.forward(e, none, out.view(), keep, s);
    layer.backward(e, none, out.view(), s);
    CHECK(std::count(dgain.begin(), dgain.end(), 3.0) == width);
  }
}
