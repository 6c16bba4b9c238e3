#pragma once
// From measured times to a cluster: the constants with which the planner's formulas come closest to what was measured. train/calibrate.hpp measures; here
// are numbers only.
//
//   products     rows x columns x depth, seconds    ->  gpu.bf16_flops (unless a data sheet says it), gemm, half_depth; in groups: grouped
//   streams      bytes as the planner counts, s     ->  gpu.hbm_bytes (of a plain copy), hbm
//   attention    flops, seconds                     ->  attention_forward, attention_backward
//   calls        operation, ranks, bytes, seconds   ->  the link's curve
#include <moefold/core/traffic_rule.hpp>
#include <moefold/plan/product.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace moefold {

struct timed_product {
  std::string name;
  product_shape shape;
  double seconds = 0;
};
struct timed_stream {
  std::string name;
  double bytes = 0, seconds = 0;  // read and written, 2 bytes an element whatever it has: as plan/block_time.hpp counts
};
/// One call of an operation in which every rank of the group sends `bytes`.
struct timed_call {
  operation op{};
  extent_t ranks = 0;
  double bytes = 0, seconds = 0;
};

struct measurements {
  std::vector<timed_product> products{};
  std::vector<timed_stream> streams{};
  std::vector<timed_call> calls{};
  double copy_rate = 0;        // bytes per second, read and written together
  double attention_flops = 0;  // of the forward that was measured, causal
  double forward_seconds = 0, backward_seconds = 0;
  double launch_seconds = 0, barrier_seconds = 0;
};

namespace detail {

inline double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
/// A share of a peak as a cluster may have it.
inline double share_of(double rate, double peak) { return peak > 0 ? std::clamp(rate / peak, 1e-4, 1.0) : 1; }

}  // namespace detail

/// Median of |ln(formula / measured)| over the products: 0.1 is 10 %.
inline double product_error(const std::vector<timed_product>& products, const cluster_spec& c) {
  std::vector<double> errors;
  for (const timed_product& p : products) errors.push_back(std::abs(std::log(seconds_of(p.shape, c) / p.seconds)));
  return detail::median_of(errors);
}

/// The share of the peak and the half depth with which the product formula is nearest to the measured times of products without groups: the smallest sum of
/// |ln(formula / measured)|. Then the share of that which products in groups reach: the median.
inline void fit_products(const std::vector<timed_product>& products, cluster_spec& c) {
  if (products.empty()) return;
  double least = -1;
  cluster_spec trial = c;
  efficiency_spec best = c.efficiency;
  for (double half = 0; half <= 4096; half = half == 0 ? 2 : half * 1.25)
    for (int percent = 1; percent <= 100; ++percent) {
      trial.efficiency.half_depth = half, trial.efficiency.gemm = 0.01 * percent;
      double sum = 0;
      for (const timed_product& p : products)
        if (!p.shape.grouped) sum += std::abs(std::log(seconds_of(p.shape, trial) / p.seconds));
      if (least >= 0 && sum >= least) continue;
      least = sum, best = trial.efficiency;
    }
  c.efficiency = best, c.efficiency.grouped = 1;
  std::vector<double> shares;
  for (const timed_product& p : products)
    if (p.shape.grouped) shares.push_back(seconds_of(p.shape, c) / p.seconds);
  if (!shares.empty()) c.efficiency.grouped = detail::share_of(detail::median_of(shares), 1);
}

/// The curve of a link: for every size the geometric mean of all operations measured with it, over the largest groups that were.
inline time_curve link_curve(const std::vector<timed_call>& calls) {
  extent_t most = 0;
  for (const timed_call& call : calls) most = std::max(most, call.ranks);
  std::vector<double> sizes;
  for (const timed_call& call : calls)
    if (call.ranks == most && call.bytes > 0) sizes.push_back(call.bytes);
  std::sort(sizes.begin(), sizes.end());
  std::vector<double> bytes, seconds;
  for (std::size_t i = 0; i < sizes.size() && bytes.size() < std::size_t(time_curve::most);) {
    double logs = 0, sum = 0;
    int count = 0;
    const double upto = 1.25 * sizes[i];  // operations round their counts: sizes that are nearly the same are one point
    for (; i < sizes.size() && sizes[i] <= upto; ++i) sum += sizes[i];
    for (const timed_call& call : calls)
      if (call.ranks == most && call.bytes * 1.25 >= upto && call.bytes <= upto) logs += std::log(call.seconds), ++count;
    bytes.push_back(sum / count), seconds.push_back(std::exp(logs / count));
  }
  return curve_through(bytes, seconds);
}

/// `base` with what was measured in its place. A peak of 0 becomes the rate of the fastest product, so that MFU is a share of that.
inline cluster_spec fitted(cluster_spec base, const measurements& m) {
  efficiency_spec& e = base.efficiency;
  if (base.gpu.bf16_flops <= 0)
    for (const timed_product& p : m.products) base.gpu.bf16_flops = std::max(base.gpu.bf16_flops, p.shape.flops() / p.seconds);
  if (m.copy_rate > 0) {
    base.gpu.hbm_bytes = std::max(base.gpu.hbm_bytes, m.copy_rate);
    std::vector<double> rates;
    for (const timed_stream& s : m.streams) rates.push_back(s.bytes / s.seconds);
    e.hbm = detail::share_of(rates.empty() ? m.copy_rate : detail::median_of(rates), base.gpu.hbm_bytes);
  }
  const double prior = e.gemm;
  fit_products(m.products, base);
  e.gemm8 = std::min(1.0, e.gemm8 * e.gemm / prior);  // those of 8 bits were not measured: they lose as much
  if (m.forward_seconds > 0) e.attention_forward = detail::share_of(m.attention_flops / m.forward_seconds, base.gpu.bf16_flops);
  if (m.backward_seconds > 0) e.attention_backward = detail::share_of(2.5 * m.attention_flops / m.backward_seconds, base.gpu.bf16_flops);
  if (m.launch_seconds > 0) e.launch = m.launch_seconds;
  if (!m.calls.empty()) {
    link_spec& link = base.inside;
    link.curve = link_curve(m.calls);
    link.latency = link.curve.latency(), link.bandwidth = link.curve.bandwidth(), link.share = 1, link.half = 0;
    base.between = link;
  }
  return base;
}

}  // namespace moefold
