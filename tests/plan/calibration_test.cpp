#include <moefold/plan/calibration.hpp>

#include <doctest/doctest.h>
#include <moefold/core/rng.hpp>

using namespace moefold;

namespace {

/// Products of many shapes, with the times that a cluster's own formula gives, each a few percent off.
std::vector<timed_product> products_of(const cluster_spec& c, double noise) {
  const random_stream random(5, "noise");
  std::vector<timed_product> all;
  for (const double n : {256.0, 1024.0, 4096.0})
    for (const double depth : {64.0, 256.0, 1024.0, 4096.0})
      for (const bool ragged : {false, true}) {
        const product_shape shape{n, 4096, depth, ragged ? 8.0 : 1.0, ragged, ragged};
        all.push_back({"", shape, seconds_of(shape, c) * (1 + noise * random.normal(all.size()))});
      }
  return all;
}

}  // namespace

TEST_SUITE("plan/calibration") {
  TEST_CASE("the constants behind the measured times of products are found, through noise") {
    for (const double gemm : {0.45, 0.71})
      for (const double half : {60.0, 500.0}) {
        cluster_spec real = dgx_h100, found = dgx_h100;
        real.efficiency.gemm = gemm, real.efficiency.half_depth = half, real.efficiency.grouped = 0.37;
        found.efficiency.gemm = 0.2;
        const std::vector<timed_product> products = products_of(real, 0.02);
        fit_products(products, found);
        CAPTURE(gemm);
        CAPTURE(half);
        CHECK(found.efficiency.gemm == doctest::Approx(gemm).epsilon(0.04));
        CHECK(found.efficiency.half_depth == doctest::Approx(half).epsilon(0.2));
        CHECK(found.efficiency.grouped == doctest::Approx(0.37).epsilon(0.04));
        CHECK(product_error(products, found) < 0.03);
      }
  }
  TEST_CASE("a link's curve goes through the mean of its operations, of the largest groups") {
    std::vector<timed_call> calls;
    for (const double bytes : {1024.0, 1048576.0}) {
      calls.push_back({operation::all_gather, 4, bytes, 1e-5 + bytes / 2e9});
      calls.push_back({operation::all_to_all_v, 4, bytes * 1.01, 4 * (1e-5 + bytes / 2e9)});
      calls.push_back({operation::all_gather, 2, bytes, 1e-9});
    }
    const time_curve curve = link_curve(calls);
    REQUIRE(curve.points == 2);
    CHECK(curve.bytes[0] == doctest::Approx(1024 * 1.005));
    CHECK(curve.seconds[0] == doctest::Approx(2 * (1e-5 + 1024 / 2e9)));
    CHECK(curve.seconds[1] == doctest::Approx(2 * (1e-5 + 1048576 / 2e9)));
  }
  TEST_CASE("what was measured takes the place of the priors, what was not stays") {
    measurements m;
    m.products = products_of(dgx_h100, 0);
    m.streams = {{"norm", 1e9, 1e-3}, {"swiglu", 1e9, 0.5e-3}, {"copy", 1e9, 0.6e-3}};
    m.copy_rate = 2e12;
    m.attention_flops = 1e12, m.forward_seconds = 1e-2, m.backward_seconds = 1e-1;
    m.launch_seconds = 3e-6;
    cluster_spec bare = dgx_h100;
    bare.gpu.bf16_flops = 0, bare.gpu.hbm_bytes = 0;
    const cluster_spec c = fitted(bare, m);
    double best = 0;
    for (const timed_product& p : m.products) best = std::max(best, p.shape.flops() / p.seconds);
    CHECK(c.gpu.bf16_flops == best);
    CHECK(c.gpu.hbm_bytes == 2e12);
    CHECK(c.efficiency.hbm == doctest::Approx(1e9 / 0.6e-3 / 2e12));
    CHECK(c.efficiency.attention_forward == doctest::Approx(1e14 / best));
    CHECK(c.efficiency.attention_backward == doctest::Approx(2.5e13 / best));
    CHECK(c.efficiency.launch == 3e-6);
    CHECK(!c.inside.curve.known());
    CHECK(c.inside.bandwidth == dgx_h100.inside.bandwidth);
    CHECK(fitted(dgx_h100, m).gpu.bf16_flops == dgx_h100.gpu.bf16_flops);  // a data sheet's peak is kept
  }
  TEST_CASE("a measured link times its calls by the curve") {
    measurements m;
    for (double bytes = 1024; bytes < 2e7; bytes *= 8) m.calls.push_back({operation::all_gather, 2, bytes, 2e-6 + bytes / 5e9});
    const cluster_spec c = fitted(laptop, m);
    CHECK(c.inside.latency == doctest::Approx(m.calls[0].seconds));
    for (const timed_call& call : m.calls) CHECK(c.inside.latency + c.inside.transfer(call.bytes) == doctest::Approx(call.seconds));
    CHECK(c.inside.faster(2).transfer(1e6) == doctest::Approx(c.inside.transfer(1e6) / 2).epsilon(0.01));
    CHECK(laptop.inside.faster(2).transfer(1e6) == doctest::Approx(laptop.inside.transfer(1e6) / 2));
    CHECK(c.inside.bandwidth < 5e9);
    CHECK(c.inside.bandwidth > 4.5e9);
  }
}
