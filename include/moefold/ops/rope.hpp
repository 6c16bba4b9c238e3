#pragma once
// Rotary position embedding, in place: element pairs (i, i + d/2) of every head turn by an angle that grows with the token's true position.
//
//   x [S, B, heads, d]   position [S]     angle(s, i) = position[s] * theta^(-2 i / d),   0 <= i < d/2
//   x_i      <- x_i cos - x_{i+d/2} sin          backward turns the gradient by the opposite angle
//   x_{i+d/2} <- x_{i+d/2} cos + x_i sin
//
// Angles are computed in double from two small tables: position = 32 a + b turns by the angle of 32 a, then of b. So a position's angle
// is a pure function of the position (the same bits on every rank), at the price of one complex product instead of sin and cos.
// Source: Su et al. 2021, "RoFormer", arXiv 2104.09864; the pairing is that of the published Llama, Mixtral and Qwen weights.
#include <moefold/ops/rows.hpp>

namespace moefold {

/// By how much pair i of a head of `width` elements turns per position.
MOEFOLD_HD inline double rope_frequency(extent_t i, extent_t width, double theta) {
  return std::pow(theta, -2.0 * double(i) / double(width));
}

/// Elements i and i + d/2 of a head, turned.
template <class A>
struct rope_pair {
  A low, high;
};
template <class A>
MOEFOLD_HD inline rope_pair<A> rope_turned(A low, A high, A cosine, A sine) {
  return {low * cosine - high * sine, high * cosine + low * sine};
}

namespace detail {

template <class T>
void rope_turn(host_exec e, view<T> x, std::span<const std::int32_t> position, double theta, double direction) {
  using A = accumulate_t<T>;
  require(x.rank() == 4, "moefold: rope needs x [S, B, heads, d], given ", x.rank(), " extents");
  require_count("rope", "position", position.size(), x.extent(0));
  const extent_t width = x.extent(3), half = width / 2, copies = x.extent(1) * x.extent(2);
  require(width % 2 == 0, "moefold: rope turns pairs; head_dim must be even, given ", width);
  if (x.empty()) return;

  constexpr std::int32_t stride = 32;
  scratch<host_exec> local(e);
  double* const frequency = local.take<double>(half).data();
  double* const fine = local.take<double>(stride, 2, half).data();  // cos and sin of 0 .. 31 steps
  double* const base = local.take<double>(2, half).data();          // cos and sin of the last multiple of 32
  A* const c = local.take<A>(half).data();
  A* const s = local.take<A>(half).data();
  const auto table = [&](double steps, double* row) {
    for (extent_t i = 0; i < half; ++i) row[i] = std::cos(steps * frequency[i]), row[half + i] = std::sin(steps * frequency[i]);
  };
  const auto turn = [half](const double* a, const double* b, auto* cosine, auto* sine) {  // the angle of a plus the angle of b
    for (extent_t i = 0; i < half; ++i) {
      const double re = a[i] * b[i] - a[half + i] * b[half + i], im = a[half + i] * b[i] + a[i] * b[half + i];
      cosine[i] = std::remove_reference_t<decltype(*cosine)>(re), sine[i] = std::remove_reference_t<decltype(*sine)>(im);
    }
  };
  for (extent_t i = 0; i < half; ++i) frequency[i] = rope_frequency(i, width, theta);
  table(0, fine), table(1, fine + 2 * half);
  for (std::int32_t b = 2; b < stride; ++b)
    turn(fine + 2 * half * (b - 1), fine + 2 * half, fine + 2 * half * b, fine + 2 * half * b + half);

  std::int64_t at = -1;
  for (extent_t t = 0; t < x.extent(0); ++t) {
    const std::int32_t p = position[std::size_t(t)];
    require(p >= 0, "moefold: rope needs positions of at least 0, given ", p, " at index ", t);
    if (p / stride != at) table(double(p / stride * stride), base), at = p / stride;
    const double* const f = fine + 2 * half * (p % stride);
    turn(base, f, c, s);
    for (extent_t i = 0; i < half; ++i) s[i] *= A(direction);
    for (extent_t head = 0; head < copies; ++head) {
      T* MOEFOLD_RESTRICT const low = x.data() + (t * copies + head) * width;
      T* MOEFOLD_RESTRICT const high = low + half;
      for (extent_t i = 0; i < half; ++i) {
        const rope_pair<A> turned = rope_turned(A(low[i]), A(high[i]), c[i], s[i]);
        low[i] = T(turned.low), high[i] = T(turned.high);
      }
    }
  }
}

}  // namespace detail

template <class T>
void rope_forward(host_exec e, view<T> x, std::span<const std::int32_t> position, double theta) {
  detail::rope_turn(e, x, position, theta, 1.0);
}

template <class T>
void rope_backward(host_exec e, view<T> dx, std::span<const std::int32_t> position, double theta) {
  detail::rope_turn(e, dx, position, theta, -1.0);
}

}  // namespace moefold
