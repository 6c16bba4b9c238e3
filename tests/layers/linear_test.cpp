#include <moefold/layers/linear.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/sequence.hpp>

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

constexpr extent_t tokens = 8, hidden = 5, middle = 12;

/// y = (x A^T) B^T with A column-parallel and B row-parallel over tp, all in the user's vectors; sums its parts into whole tensors.
struct pair_of_linears {
  tensor<double> x = random_tensor<double>({tokens, hidden}, 1), dy = random_tensor<double>({tokens, hidden}, 2);
  tensor<double> a = random_tensor<double>({middle, hidden}, 3), b = random_tensor<double>({hidden, middle}, 4);
  tensor<double> y{{tokens, hidden}, 0.0}, dx{{tokens, hidden}, 0.0}, da{{middle, hidden}, 0.0}, db{{hidden, middle}, 0.0};

  template <class Comm>
  void run(Comm& tp) {
    host_context context;
    const host_exec e(context);
    own_parameter<fp64, rows_over_tp> own_a(a, tp.rank(), tp.size());
    own_parameter<fp64, columns_over_tp> own_b(b, tp.rank(), tp.size());
    const linear<fp64, rows_over_tp> split{own_a.get()};
    const linear<fp64, columns_over_tp> joined{own_b.get()};
    const sequence_part part{tokens, 1, 0, tp.size(), tp.rank()};
    auto own_x = test::take_rows(x, part), own_dy = test::take_rows(dy, part), own_y = own_x, own_dx = own_x;
    const view<double> in = test::matrix(own_x, hidden), out = test::matrix(own_y, hidden);
    const view<double> d_out = test::matrix(own_dy, hidden), d_in = test::matrix(own_dx, hidden);

    scratch<host_exec> local(e);
    const view<double> h = local.take<double>(tokens, middle / tp.size()), dh = local.take<double>(tokens, middle / tp.size());
    split.forward(e, gather_rows_of_group<double>(e, tp, in, local), h);
    const view<double> partial = partial_rows<double, host_exec>(tp, out, local);
    joined.forward(e, h, partial);
    sum_and_scatter_rows<double>(e, tp, partial, out);

    joined.backward(e, gather_rows_of_group<double>(e, tp, d_out, local), h, dh);
    const view<double> d_partial = partial_rows<double, host_exec>(tp, d_in, local);
    split.backward(e, dh, gather_rows_of_group<double>(e, tp, in, local), d_partial);
    sum_and_scatter_rows<double>(e, tp, d_partial, d_in);

    test::put_rows(own_y, y, part);
    test::put_rows(own_dx, dx, part);
    own_a.add_gradient_to(da);
    own_b.add_gradient_to(db);
  }
};

}  // namespace

TEST_SUITE("layers/linear") {
  TEST_CASE_TEMPLATE("y is x times the transposed weight, assigned", Precision, fp32, fp64) {
    using T = typename Precision::storage;
    host_context context;
    const host_exec e(context);
    for (const extent_t rows : {0, 1, 7}) {
      const auto x = random_tensor<T>({rows, 5}, 1), w = random_tensor<T>({3, 5}, 2);
      tensor<T> dw({3, 5}, T(0)), y({rows, 3}, T(99)), expected({rows, 3});
      for (extent_t r = 0; r < rows; ++r)
        for (extent_t o = 0; o < 3; ++o) {
          double dot = 0;
          for (extent_t i = 0; i < 5; ++i) dot += double(x.view()(r, i)) * double(w.view()(o, i));
          expected.view()(r, o) = T(dot);
        }
      linear<Precision, rows_over_tp>{{w, dw}}.forward(e, x, y.view());
      CHECK(test::largest_error(y, expected) < test::rounding<T>);
    }
  }
  TEST_CASE("dx is assigned or added to, dW is accumulated, both equal finite differences") {
    host_context context;
    const host_exec e(context);
    auto x = random_tensor<double>({4, 5}, 1), w = random_tensor<double>({3, 5}, 2);
    const auto dy = random_tensor<double>({4, 3}, 3);
    tensor<double> y({4, 3}), dx({4, 5}, 7.0), dw({3, 5}, 1.0);
    const linear<fp64, rows_over_tp> layer{{w, dw}};
    const auto loss = [&] {
      layer.forward(e, x, y.view());
      return test::dot(y, dy);
    };
    const auto slope_x = test::numerical_gradient(x, loss);
    auto slope_w = test::numerical_gradient(w, loss);
    layer.backward(e, dy, x, dx.view());
    CHECK(test::largest_error(dx, slope_x) < 1e-9);
    layer.backward(e, dy, x, dx.view(), 1.0);
    for (std::size_t i = 0; i < dx.size(); ++i) CHECK(dx[i] == doctest::Approx(2 * slope_x[i]).epsilon(1e-9));
    for (double& s : slope_w) s = 2 * s + 1.0;
    CHECK(test::largest_error(dw, slope_w) < 1e-9);
  }
  TEST_CASE("in fp8, to the bit, the bf16 products of x and W rounded to e4m3 and dy rounded to e5m2 by hand") {
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<bf16>({7, 5}, 1), w = random_tensor<bf16>({3, 5}, 2, 0.03), dy = random_tensor<bf16>({7, 3}, 3, 1e-4);
    const auto by_hand = [](const tensor<bf16>& t, auto format) {
      float amax = 0;
      for (const bf16 v : t) amax = std::max(amax, std::abs(float(v)));
      using F = decltype(format);
      tensor<bf16> rounded(t.shape());
      const float scale = scale_of(amax, F::largest);
      for (std::size_t i = 0; i < t.size(); ++i) rounded[i] = bf16(float(F(float(t[i]) * scale)) / scale);
      return rounded;
    };
    const auto x8 = by_hand(x, fp8_e4m3{}), w8 = by_hand(w, fp8_e4m3{}), dy8 = by_hand(dy, fp8_e5m2{});
    const auto run = [&](auto layer, const tensor<bf16>& in, const tensor<bf16>& d_out, tensor<bf16>& y, tensor<bf16>& dx) {
      layer.forward(e, in.view(), y.view());
      layer.backward(e, d_out.view(), in.view(), dx.view());
      layer.backward(e, d_out.view(), in.view(), dx.view(), bf16(1));
    };
    const auto same = [](const auto& a, const auto& b) {
      return std::equal(a.begin(), a.end(), b.begin(), [](auto p, auto q) { return float(p) == float(q); });
    };
    tensor<bf16> y({7, 3}), dx({7, 5}), y8({7, 3}), dx8({7, 5}), wide_y({7, 3}), wide_dx({7, 5});
    tensor<float> dw({3, 5}, 1.0f), dw8({3, 5}, 1.0f), wide_dw({3, 5}, 1.0f);
    run(linear<fp8<>, rows_over_tp>{{w, dw}}, x, dy, y, dx);
    run(linear<mixed_bf16, rows_over_tp>{{w8, dw8}}, x8, dy8, y8, dx8);
    run(linear<mixed_bf16, rows_over_tp>{{w, wide_dw}}, x, dy, wide_y, wide_dx);
    CHECK(same(y, y8));
    CHECK(same(dx, dx8));
    CHECK(same(dw, dw8));
    CHECK_FALSE(same(y, wide_y));
    CHECK_FALSE(same(dx, wide_dx));
    CHECK_FALSE(same(dw, wide_dw));
  }
  TEST_CASE("no rows leave the weight's gradient as it is") {
    host_context context;
    const host_exec e(context);
    const auto w = random_tensor<double>({3, 5}, 2);
    tensor<double> dw({3, 5}, 4.0), none({0, 5}), dy({0, 3}), dx({0, 5});
    linear<fp64, rows_over_tp>{{w, dw}}.backward(e, dy, none, dx.view());
    CHECK(std::count(dw.begin(), dw.end(), 4.0) == 15);
  }
  TEST_CASE("column-parallel then row-parallel over 2 and 4 ranks is the one rank's pair, forward and all gradients") {
    pair_of_linears one;
    self_comm self;
    one.run(self);
    for (const int ranks : {2, 4}) {
      pair_of_linears many;
      run_ranks(ranks, [&](thread_comm& tp) { many.run(tp); });
      CAPTURE(ranks);
      CHECK(test::largest_error(many.y, one.y) < 1e-14);
      CHECK(test::largest_error(many.dx, one.dx) < 1e-14);
      CHECK(test::largest_error(many.da, one.da) < 1e-14);
      CHECK(test::largest_error(many.db, one.db) < 1e-14);
    }
  }
}
