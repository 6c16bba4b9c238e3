#pragma once
// A measured curve: how long an operation takes by its size, as a small table that a cluster carries as data. Between two points the time is a straight line
// in log-log, which a latency, a bandwidth and anything between them nearly are.
//
//   seconds |                 . '     behind the last point: its bandwidth, never more
//           |           o '
//           |      o '                between: t = t0 (x / x0)^p through both neighbours
//           |--o                      below the first: its time, a latency
//           +------------------ bytes
#include <moefold/core/error.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

namespace moefold {

namespace detail {

/// ln x for x > 0, also in constant expressions.
constexpr double natural_log(double x) {
  if (!std::is_constant_evaluated()) return std::log(x);
  constexpr double ln2 = 0.693147180559945309417;
  int twos = 0;
  for (; x >= 2; ++twos) x /= 2;
  for (; x < 1; --twos) x *= 2;
  const double z = (x - 1) / (x + 1);  // ln x = 2 artanh z, z <= 1/3
  double power = z, sum = 0;
  for (int i = 1; i < 40; i += 2, power *= z * z) sum += power / i;
  return twos * ln2 + 2 * sum;
}
/// e^x, also in constant expressions.
constexpr double natural_power(double x) {
  if (!std::is_constant_evaluated()) return std::exp(x);
  int halvings = 0;
  for (; x > 0.5 || x < -0.5; ++halvings) x /= 2;
  double term = 1, sum = 1;
  for (int i = 1; i < 20; ++i) sum += term *= x / i;
  for (; halvings > 0; --halvings) sum *= sum;
  return sum;
}

}  // namespace detail

struct time_curve {
  static constexpr int most = 16;
  int points = 0;                      // 0: nothing was measured
  std::array<double, most> bytes{};    // ascending
  std::array<double, most> seconds{};  // never falling

  constexpr bool known() const { return points > 0; }
  constexpr double latency() const { return points > 0 ? seconds[0] : 0; }
  /// Bytes per second of the largest size.
  constexpr double bandwidth() const { return points > 0 ? bytes[std::size_t(points) - 1] / seconds[std::size_t(points) - 1] : 0; }

  /// Seconds for x bytes; never less for more bytes. The curve is known.
  constexpr double at(double x) const {
    const auto last = std::size_t(points) - 1;
    if (x <= bytes[0]) return seconds[0];
    if (x >= bytes[last]) return seconds[last] * (x / bytes[last]);
    std::size_t high = 1;
    while (bytes[high] < x) ++high;
    const std::size_t low = high - 1;
    if (x == bytes[high]) return seconds[high];
    const double power = detail::natural_log(seconds[high] / seconds[low]) / detail::natural_log(bytes[high] / bytes[low]);
    const double between = seconds[low] * detail::natural_power(power * detail::natural_log(x / bytes[low]));
    return between < seconds[low] ? seconds[low] : between > seconds[high] ? seconds[high] : between;  // whatever was rounded
  }
  friend constexpr bool operator==(const time_curve&, const time_curve&) = default;
};

/// Throws config_error unless sizes ascend and times are positive and never fall: what a clock says of very small sizes has to be smoothed first.
constexpr void check(const time_curve& c) {
  require<config_error>(c.points >= 0 && c.points <= time_curve::most, "moefold: a curve has 0 to ", time_curve::most, " points (given ",
                        c.points, ")");
  constexpr double most = std::numeric_limits<double>::max();
  for (std::size_t i = 0; i < std::size_t(c.points); ++i) {
    require<config_error>(c.bytes[i] > (i == 0 ? 0.0 : c.bytes[i - 1]) && c.bytes[i] <= most, "moefold: point ", i,
                          " of a curve has the size ", c.bytes[i], ", which must be above the one before; sort the points");
    require<config_error>(c.seconds[i] >= (i == 0 ? std::numeric_limits<double>::min() : c.seconds[i - 1]) && c.seconds[i] <= most,
                          "moefold: point ", i, " of a curve takes ", c.seconds[i],
                          " seconds, which must be positive and no less than the one before; take the median of more runs");
  }
}

/// A curve through measured points of ascending sizes, each time raised to that of a smaller size where it fell.
constexpr time_curve curve_through(std::span<const double> bytes, std::span<const double> seconds) {
  require<config_error>(bytes.size() == seconds.size() && bytes.size() <= std::size_t(time_curve::most), "moefold: a curve of ",
                        bytes.size(), " sizes and ", seconds.size(), " times; it has as many of both, at most ", time_curve::most);
  time_curve c;
  c.points = int(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    c.bytes[i] = bytes[i];
    c.seconds[i] = i > 0 && seconds[i] < c.seconds[i - 1] ? c.seconds[i - 1] : seconds[i];
  }
  check(c);
  return c;
}

}  // namespace moefold
