#pragma once
// The MoE layer as its formula says it, token by token in double: the oracle of every dispatcher, folding and block.
//
//   y_t = sum over the chosen k of p_k W2_e ( silu(W1_e x_t) * (W3_e x_t) )        p = softmax of the k chosen logits, logits = Wg x_t
#include <moefold/core/model_shape.hpp>
#include <moefold/tensor/tensor.hpp>

#include "random.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moefold::test {

struct dense_moe {
  model_shape model;
  tensor<double> router, gate, up, down;      // [E, H], [E, F, H], [E, F, H], [E, H, F]
  tensor<double> drouter, dgate, dup, ddown;  // added to by run()

  explicit dense_moe(const model_shape& m, std::uint64_t seed = 1)
      : model(m), router(random_tensor<double>({m.experts, m.hidden}, seed)),
        gate(random_tensor<double>({m.experts, m.ffn, m.hidden}, seed + 1, 0.4)),
        up(random_tensor<double>({m.experts, m.ffn, m.hidden}, seed + 2, 0.4)),
        down(random_tensor<double>({m.experts, m.hidden, m.ffn}, seed + 3, 0.4)), drouter(router.shape(), 0.0), dgate(gate.shape(), 0.0),
        dup(up.shape(), 0.0), ddown(down.shape(), 0.0) {}

  double logit(const double* x, extent_t expert) const {
    double sum = 0;
    for (extent_t h = 0; h < model.hidden; ++h) sum += x[h] * router.view()(expert, h);
    return sum;
  }
  /// The k experts with the largest logits, best first, ties to the lowest id.
  std::vector<std::int32_t> choose(const double* x) const {
    std::vector<std::int32_t> order(std::size_t(model.experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logit(x, a) > logit(x, b); });
    order.resize(std::size_t(model.top_k));
    return order;
  }

  /// x, dy [n, H] -> y, dx [n, H]; the four weight gradients grow. forced: the k experts of every token, if not those of choose().
  void run(view<const double> x, view<const double> dy, view<double> y, view<double> dx, const std::vector<std::int32_t>& forced = {}) {
    const extent_t H = model.hidden;
    std::fill(y.begin(), y.end(), 0.0);
    std::fill(dx.begin(), dx.end(), 0.0);
    for (extent_t t = 0; t < x.extent(0); ++t) {
      const double* const xt = x.data() + t * H;
      const std::vector<std::int32_t> chosen = forced.empty() ? choose(xt) : forced;
      std::vector<double> p, dp;
      double sum = 0;
      for (const std::int32_t e : chosen) sum += p.emplace_back(std::exp(logit(xt, e)));
      for (double& share : p) share /= sum;
      for (std::size_t k = 0; k < chosen.size(); ++k) dp.push_back(expert(t, chosen[k], p[k], x, dy, y, dx));
      double along = 0;
      for (std::size_t k = 0; k < p.size(); ++k) along += p[k] * dp[k];
      for (std::size_t k = 0; k < p.size(); ++k)
        for (extent_t h = 0; h < H; ++h) {
          drouter.view()(chosen[k], h) += p[k] * (dp[k] - along) * xt[h];
          dx(t, h) += p[k] * (dp[k] - along) * router.view()(chosen[k], h);
        }
    }
  }

 private:
  /// One (token, expert) pair; returns d loss / d p.
  double expert(extent_t t, extent_t e, double p, view<const double> x, view<const double> dy, view<double> y, view<double> dx) {
    const extent_t H = model.hidden, F = model.ffn;
    double dp = 0;
    for (extent_t f = 0; f < F; ++f) {
      double g = 0, u = 0, dact = 0;
      for (extent_t h = 0; h < H; ++h) g += gate.view()(e, f, h) * x(t, h), u += up.view()(e, f, h) * x(t, h);
      const double sigma = 1 / (1 + std::exp(-g)), act = g * sigma * u;
      for (extent_t h = 0; h < H; ++h) {
        y(t, h) += p * down.view()(e, h, f) * act;
        dact += dy(t, h) * down.view()(e, h, f);
        ddown.view()(e, h, f) += p * dy(t, h) * act;
      }
      dp += dact * act;
      const double dg = p * dact * u * (sigma + g * sigma * (1 - sigma)), du = p * dact * g * sigma;
      for (extent_t h = 0; h < H; ++h) {
        dgate.view()(e, f, h) += dg * x(t, h);
        dup.view()(e, f, h) += du * x(t, h);
        dx(t, h) += dg * gate.view()(e, f, h) + du * up.view()(e, f, h);
      }
    }
    return dp;
  }
};

}  // namespace moefold::test
