#include <moefold/plan/curve.hpp>

#include <doctest/doctest.h>
#include <moefold/core/rng.hpp>

#include <vector>

using namespace moefold;

namespace {

constexpr std::array<double, 4> sizes = {1024, 8192, 65536, 1048576};
constexpr std::array<double, 4> times = {10e-6, 12e-6, 30e-6, 200e-6};
constexpr time_curve measured = curve_through(sizes, times);

constexpr bool near(double a, double b) { return a - b < 1e-12 * b && b - a < 1e-12 * b; }

/// Up to 16 points of random sizes, times that mostly grow.
time_curve random_curve(std::uint64_t seed) {
  const random_stream random(seed, "curve");
  std::vector<double> bytes, seconds;
  const auto points = std::size_t(1 + 15.99 * random.uniform(0));
  for (std::size_t i = 0; i < points; ++i) {
    bytes.push_back((i == 0 ? 1 : bytes.back()) * (1.01 + 8 * random.uniform(1 + 2 * i)));
    seconds.push_back((i == 0 ? 1e-6 : seconds.back()) * (0.8 + 3 * random.uniform(2 + 2 * i)));
  }
  return curve_through(bytes, seconds);
}

}  // namespace

TEST_SUITE("plan/curve") {
  static_assert(measured.at(1024) == 10e-6 && measured.at(65536) == 30e-6 && measured.at(1048576) == 200e-6);
  static_assert(measured.at(1) == 10e-6 && measured.latency() == 10e-6);
  static_assert(near(measured.at(10 * 1048576.0), 10 * 200e-6) && near(measured.bandwidth(), 1048576 / 200e-6));
  static_assert(near(curve_through(std::array{1.0, 100.0}, std::array{1.0, 100.0}).at(10), 10));
  static_assert(near(curve_through(std::array{1.0, 16.0}, std::array{1.0, 4.0}).at(9), 3));

  TEST_CASE("what is said in constant expressions is said at run time") {
    constexpr double between = measured.at(300'000), low = measured.at(5000);
    const time_curve c = measured;
    CHECK(c.at(300'000) == doctest::Approx(between).epsilon(1e-13));
    CHECK(c.at(5000) == doctest::Approx(low).epsilon(1e-13));
  }
  TEST_CASE("a curve is exact at its points, between its neighbours elsewhere, and never falls") {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      const time_curve c = random_curve(seed);
      const auto last = std::size_t(c.points) - 1;
      const random_stream random(seed, "sizes");
      bool exact = true, between = true;
      for (std::size_t i = 0; i <= last; ++i) exact = exact && c.at(c.bytes[i]) == c.seconds[i];
      double x = c.bytes[0] / 2, before = 0;
      for (std::uint64_t i = 0; x < 4 * c.bytes[last]; ++i, x *= 1 + 0.3 * random.uniform(i)) {
        const double t = c.at(x);
        between = between && t >= before;
        for (std::size_t p = 0; p < last; ++p)
          if (c.bytes[p] <= x && x <= c.bytes[p + 1]) between = between && t >= c.seconds[p] && t <= c.seconds[p + 1];
        before = t;
      }
      CAPTURE(seed);
      CHECK(exact);
      CHECK(between);
    }
  }
  TEST_CASE("below the smallest size a curve is its latency, and above the largest its bandwidth stays") {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
      const time_curve c = random_curve(seed);
      CHECK(c.at(0) == c.latency());
      CHECK(c.at(c.bytes[0] / 3) == c.latency());
      for (const double times_more : {1.5, 10.0, 1e6}) {
        const double x = times_more * c.bytes[std::size_t(c.points) - 1];
        CHECK(x / c.at(x) == doctest::Approx(c.bandwidth()).epsilon(1e-12));
      }
    }
  }
  TEST_CASE("a time that falls is raised to that of a smaller size") {
    CHECK(curve_through(std::array{1.0, 2.0, 4.0}, std::array{3.0, 2.0, 5.0}).seconds[1] == 3);
  }
  TEST_CASE("points out of order, of no size or no time, and too many of them are refused") {
    CHECK_THROWS_AS(curve_through(std::array{2.0, 1.0}, std::array{1.0, 2.0}), config_error);
    CHECK_THROWS_AS(curve_through(std::array{0.0}, std::array{1.0}), config_error);
    CHECK_THROWS_AS(curve_through(std::array{1.0}, std::array{0.0}), config_error);
    CHECK_THROWS_AS(curve_through(std::array{1.0, std::nan("")}, std::array{1.0, 2.0}), config_error);
    CHECK_THROWS_AS(curve_through(std::array{1.0}, std::array{std::nan("")}), config_error);
    CHECK_THROWS_AS(curve_through(std::array{1.0, 2.0}, std::array{1.0}), config_error);
    const std::vector<double> many(17, 1.0);
    CHECK_THROWS_AS(curve_through(many, many), config_error);
    CHECK(!time_curve{}.known());
  }
}
