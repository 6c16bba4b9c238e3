#include <moefold/moe/experts.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t hidden = 6, width = 5, rows = 5;
const std::vector<std::int64_t> offsets{0, 2, 2, 5};  // the second of three experts has no rows

struct experts {
  tensor<double> gate, up, down, dgate, dup, ddown;
  explicit experts(extent_t slice = width)
      : gate(random_tensor<double>({3, slice, hidden}, 1, 0.5)), up(random_tensor<double>({3, slice, hidden}, 2, 0.5)),
        down(random_tensor<double>({3, hidden, slice}, 3, 0.5)), dgate(gate.shape(), 0.0), dup(up.shape(), 0.0), ddown(down.shape(), 0.0) {}
  grouped_experts<fp64> layer() { return {{gate.view(), dgate.view()}, {up.view(), dup.view()}, {down.view(), ddown.view()}}; }
};

/// y, and the gradients of sum(dy * y).
struct result {
  tensor<double> y{{rows, hidden}}, dx{{rows, hidden}}, dweight{{rows}};
};
result run(experts& e, const tensor<double>& x, const tensor<double>& weight, const tensor<double>& dy) {
  host_context context;
  const host_exec exec(context);
  arena keep;
  grouped_experts<fp64>::saved saved;
  result r;
  e.layer().forward(exec, x.view(), weight.view(), offsets, r.y.view(), keep, saved);
  e.layer().backward(exec, dy.view(), r.dx.view(), r.dweight.view(), saved);
  return r;
}

}  // namespace

TEST_SUITE("moe/experts") {
  TEST_CASE("every gradient equals finite differences") {
    experts own;
    auto x = random_tensor<double>({rows, hidden}, 4), weight = random_tensor<double>({rows}, 5);
    const auto dy = random_tensor<double>({rows, hidden}, 6);
    const result r = run(own, x, weight, dy);
    experts probe;
    const auto loss = [&] { return test::dot(run(probe, x, weight, dy).y, dy); };
    CHECK(test::largest_error(r.dx, test::numerical_gradient(x, loss)) < 1e-9);
    CHECK(test::largest_error(r.dweight, test::numerical_gradient(weight, loss)) < 1e-9);
    CHECK(test::largest_error(own.dgate, test::numerical_gradient(probe.gate, loss)) < 1e-9);
    CHECK(test::largest_error(own.dup, test::numerical_gradient(probe.up, loss)) < 1e-9);
    CHECK(test::largest_error(own.ddown, test::numerical_gradient(probe.down, loss)) < 1e-9);
  }
  TEST_CASE("gradients are added to what is there, and those of an expert without rows are not touched") {
    experts once, twice;
    const auto x = random_tensor<double>({rows, hidden}, 4), weight = random_tensor<double>({rows}, 5),
               dy = random_tensor<double>({rows, hidden}, 6);
    run(once, x, weight, dy);
    for (tensor<double>* t : {&twice.dgate, &twice.dup, &twice.ddown}) std::fill(t->begin(), t->end(), 3.0);
    run(twice, x, weight, dy);
    const auto compare = [](const tensor<double>& one, const tensor<double>& added) {
      for (extent_t expert = 0; expert < 3; ++expert) {
        const auto a = one.view().rows(expert, 1), b = added.view().rows(expert, 1);
        double most = 0;
        for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(b[i] - 3 - a[i]));
        if (expert == 1) {
          CHECK(std::all_of(a.begin(), a.end(), [](double g) { return g == 0; }));
          CHECK(std::all_of(b.begin(), b.end(), [](double g) { return g == 3; }));
        } else {
          CHECK(most < 1e-13);
          CHECK(std::any_of(a.begin(), a.end(), [](double g) { return g != 0; }));
        }
      }
    };
    compare(once.dgate, twice.dgate);
    compare(once.dup, twice.dup);
    compare(once.ddown, twice.ddown);
  }
  TEST_CASE("two slices of the width, as etp cuts it, add up to the whole: output, dx and dweight; weight gradients are their slices") {
    experts whole;
    const auto x = random_tensor<double>({rows, hidden}, 4), weight = random_tensor<double>({rows}, 5),
               dy = random_tensor<double>({rows, hidden}, 6);
    const result all = run(whole, x, weight, dy);
    result sum;
    for (tensor<double>* t : {&sum.y, &sum.dx, &sum.dweight}) std::fill(t->begin(), t->end(), 0.0);
    for (extent_t first = 0, slice = 2; first < width; first += slice, slice = 3) {
      experts part(slice);
      const auto each = [&](auto copy) {
        for (extent_t e = 0; e < 3; ++e)
          for (extent_t f = 0; f < slice; ++f)
            for (extent_t h = 0; h < hidden; ++h) copy(e, f, h);
      };
      each([&](extent_t e, extent_t f, extent_t h) {
        part.gate.view()(e, f, h) = whole.gate.view()(e, first + f, h);
        part.up.view()(e, f, h) = whole.up.view()(e, first + f, h);
        part.down.view()(e, h, f) = whole.down.view()(e, h, first + f);
      });
      const result r = run(part, x, weight, dy);
      for (std::size_t i = 0; i < sum.y.size(); ++i) sum.y[i] += r.y[i], sum.dx[i] += r.dx[i];
      for (std::size_t i = 0; i < sum.dweight.size(); ++i) sum.dweight[i] += r.dweight[i];
      double most = 0;
      each([&](extent_t e, extent_t f, extent_t h) {
        most = std::max({most, std::abs(part.dgate.view()(e, f, h) - whole.dgate.view()(e, first + f, h)),
                         std::abs(part.dup.view()(e, f, h) - whole.dup.view()(e, first + f, h)),
                         std::abs(part.ddown.view()(e, h, f) - whole.ddown.view()(e, h, first + f))});
      });
      CHECK(most < 1e-13);
    }
    CHECK(test::largest_error(sum.y, all.y) < 1e-13);
    CHECK(test::largest_error(sum.dx, all.dx) < 1e-13);
    CHECK(test::largest_error(sum.dweight, all.dweight) < 1e-13);
  }
  TEST_CASE("in fp8, to the bit, the bf16 products of tensors rounded by hand, one scale for all experts of the rank") {
    host_context context;
    const host_exec e(context);
    const auto rounded = [](const tensor<bf16>& t, auto format) {
      using F = decltype(format);
      float amax = 0;
      for (const bf16 v : t) amax = std::max(amax, std::abs(float(v)));
      tensor<bf16> copy(t.shape());
      const float scale = scale_of(amax, F::largest);
      for (std::size_t i = 0; i < t.size(); ++i) copy[i] = bf16(float(F(float(t[i]) * scale)) / scale);
      return copy;
    };
    const auto same = [](const auto& a, const auto& b) {
      return std::equal(a.begin(), a.end(), b.begin(), [](auto p, auto q) { return float(p) == float(q); });
    };
    const auto gate = random_tensor<bf16>({3, width, hidden}, 1, 0.5), up = random_tensor<bf16>({3, width, hidden}, 2, 0.5),
               down = random_tensor<bf16>({3, hidden, width}, 3, 0.5);
    const auto x = random_tensor<bf16>({rows, hidden}, 4), dy = random_tensor<bf16>({rows, hidden}, 6, 1e-3);
    const auto weight = random_tensor<float>({rows}, 5);
    const fp8_e4m3 e4m3{};
    const fp8_e5m2 e5m2{};
    for (const bool gated : {true, false}) {
      CAPTURE(gated);
      tensor<float> dgate(gate.shape(), 0.0f), dup(up.shape(), 0.0f), ddown(down.shape(), 0.0f), dweight({rows});
      tensor<bf16> y({rows, hidden}), dx({rows, hidden});
      grouped_experts<fp8<>> layer;
      if (gated) layer.gate = {gate, dgate};
      layer.up = {up, dup}, layer.down = {down, ddown};
      layer.activation = gated ? activation_function::swiglu : activation_function::gelu;
      arena keep;
      grouped_experts<fp8<>>::saved s;
      layer.forward(e, x.view(), weight.view(), offsets, y.view(), keep, s);
      layer.backward(e, dy.view(), dx.view(), dweight.view(), s);

      const auto x8 = rounded(x, e4m3), gate8 = rounded(gate, e4m3), up8 = rounded(up, e4m3), down8 = rounded(down, e4m3);
      const auto dy8 = rounded(dy, e5m2);
      const shape wide{rows, width};
      tensor<bf16> g(wide), u(wide), act(wide), dact(wide), dg(wide), du(wide), own_y({rows, hidden}), own_dx({rows, hidden});
      tensor<float> own_dgate(gate.shape(), 0.0f), own_dup(up.shape(), 0.0f), own_ddown(down.shape(), 0.0f), own_dweight({rows});
      const auto in = [](const tensor<bf16>& t) { return t.view(); };
      grouped_gemm_nt(e, in(x8), in(up8), offsets, u.view());
      if (gated) {
        grouped_gemm_nt(e, in(x8), in(gate8), offsets, g.view());
        swiglu_forward(e, in(g), in(u), weight.view(), act.view());
      } else {
        gelu_forward(e, in(u), weight.view(), act.view());
      }
      const auto act8 = rounded(act, e4m3);
      grouped_gemm_nt(e, in(act8), in(down8), offsets, own_y.view());
      grouped_gemm_nn(e, in(dy8), in(down8), offsets, dact.view());
      grouped_gemm_tn(e, in(dy8), in(act8), offsets, own_ddown.view());
      if (gated) {
        swiglu_backward(e, in(dact), in(g), in(u), weight.view(), dg.view(), du.view(), own_dweight.view());
        const auto dg8 = rounded(dg, e5m2);
        grouped_gemm_tn(e, in(dg8), in(x8), offsets, own_dgate.view());
        grouped_gemm_nn(e, in(dg8), in(gate8), offsets, own_dx.view());
      } else {
        gelu_backward(e, in(dact), in(u), weight.view(), du.view(), own_dweight.view());
      }
      const auto du8 = rounded(du, e5m2);
      grouped_gemm_tn(e, in(du8), in(x8), offsets, own_dup.view());
      grouped_gemm_nn(e, in(du8), in(up8), offsets, own_dx.view(), bf16(gated ? 1 : 0));
      CHECK(same(y, own_y));
      CHECK(same(dx, own_dx));
      CHECK(same(dweight, own_dweight));
      CHECK(same(dgate, own_dgate));
      CHECK(same(dup, own_dup));
      CHECK(same(ddown, own_ddown));
    }
  }
  TEST_CASE("no rows at all: nothing happens") {
    experts own;
    host_context context;
    const host_exec e(context);
    arena keep;
    grouped_experts<fp64>::saved saved;
    tensor<double> x({0, hidden}), y({0, hidden}), weight({0});
    const std::vector<std::int64_t> none{0, 0, 0, 0};
    own.layer().forward(e, x.view(), weight.view(), none, y.view(), keep, saved);
    own.layer().backward(e, y.view(), x.view(), weight.view(), saved);
    for (const tensor<double>* t : {&own.dgate, &own.dup, &own.ddown})
      CHECK(std::all_of(t->begin(), t->end(), [](double g) { return g == 0; }));
  }
}
