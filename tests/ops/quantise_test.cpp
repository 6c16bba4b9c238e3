#include <moefold/ops/quantise.hpp>

#include <doctest/doctest.h>

#include "../support/random.hpp"

#include <cmath>
#include <vector>

using namespace moefold;

namespace {

host_context context;
const host_exec e(context);

}  // namespace

TEST_SUITE("ops/quantise") {
  TEST_CASE("a scaled tensor is off by at most half a step of its format") {
    std::vector<float> x(1000);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 3e-4f * std::sin(float(i * i)) * (i % 7 == 0 ? 0.01f : 1.0f);
    const view<const float> in(x.data(), {1000});
    const float amax = amax_of(e, in), scale = scale_of(amax, fp8_e4m3::largest);
    CHECK(amax == 3e-4f * [&] {
      float most = 0;
      for (const float v : x) most = std::max(most, std::abs(v / 3e-4f));
      return most;
    }());
    std::vector<fp8_e4m3> q(x.size());
    std::vector<float> back(x.size()), once(x.size());
    quantise(e, in, scale, view<fp8_e4m3>(q.data(), {1000}));
    dequantise(e, view<const fp8_e4m3>(q.data(), {1000}), scale, view<float>(back.data(), {1000}));
    round_to<fp8_e4m3>(e, in, scale, view<float>(once.data(), {1000}));
    CHECK(once == back);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float step = std::max(std::abs(x[i]) / 8, std::ldexp(1.0f, -9) / scale);  // 3 bits of mantissa, or a subnormal
      CHECK(std::abs(back[i] - x[i]) <= step / 2);
    }
  }
  TEST_CASE("a product of what 8-bit values stand for is the scaled product of the values themselves") {
    const int m = 5, n = 7, k = 33;
    std::vector<float> a(m * k), b(n * k);
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = 40 * std::sin(float(3 * i + 1));
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = 2e-3f * std::cos(float(5 * i));
    const view<const float> va(a.data(), {m, k}), vb(b.data(), {n, k});
    const float sa = scale_of(amax_of(e, va), fp8_e4m3::largest), sb = scale_of(amax_of(e, vb), fp8_e5m2::largest);
    std::vector<fp8_e4m3> qa(a.size());
    std::vector<fp8_e5m2> qb(b.size());
    quantise(e, va, sa, view<fp8_e4m3>(qa.data(), {m, k}));
    quantise(e, vb, sb, view<fp8_e5m2>(qb.data(), {n, k}));
    round_to<fp8_e4m3>(e, va, sa, view<float>(a.data(), {m, k}));  // in place
    round_to<fp8_e5m2>(e, vb, sb, view<float>(b.data(), {n, k}));
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        float codes = 0, values = 0;
        for (int c = 0; c < k; ++c) {
          codes += float(qa[std::size_t(i * k + c)]) * float(qb[std::size_t(j * k + c)]);
          values += a[std::size_t(i * k + c)] * b[std::size_t(j * k + c)];
        }
        CHECK(values == codes / sa / sb);
      }
  }
  TEST_CASE("bf16 holds every quantised value exactly") {
    std::vector<bf16> x;
    for (int i = -2000; i < 2000; ++i) x.push_back(bf16(float(i) * 0.37f));
    std::vector<bf16> y(x.size());
    std::vector<float> wide(x.size()), rounded(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) wide[i] = float(x[i]);
    const extent_t n = extent_t(x.size());
    const float scale = scale_of(amax_of(e, view<const bf16>(x.data(), {n})), fp8_e4m3::largest);
    round_to<fp8_e4m3>(e, view<const bf16>(x.data(), {n}), scale, view<bf16>(y.data(), {n}));
    round_to<fp8_e4m3>(e, view<const float>(wide.data(), {n}), scale, view<float>(rounded.data(), {n}));
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(float(y[i]) == rounded[i]);
  }
  TEST_CASE("what exceeds the scale saturates, NaN stays NaN and does not set the scale") {
    const std::vector<float> x{1, -1000, std::nanf(""), 0};
    std::vector<float> y(4);
    CHECK(amax_of(e, view<const float>(x.data(), {4})) == 1000);
    CHECK(amax_of(e, view<const float>(x.data(), {0})) == 0);
    round_to<fp8_e4m3>(e, view<const float>(x.data(), {4}), 1, view<float>(y.data(), {4}));
    CHECK(y[0] == 1);
    CHECK(y[1] == -448);
    CHECK(std::isnan(y[2]));
    CHECK(y[3] == 0);
    CHECK_THROWS_AS(round_to<fp8_e4m3>(e, view<const float>(x.data(), {4}), 1, view<float>(y.data(), {3})), error);
  }
}
