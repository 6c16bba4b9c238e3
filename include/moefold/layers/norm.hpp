#pragma once
// RMSNorm: y = x / sqrt(mean(x^2) + eps) * gain, over the last extent. Works on this rank's own rows, so its gain is replicated over tp, cp and dp.
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/ops/norm.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

template <class Precision>
struct norm_layer {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  parameter<Precision, replicated> gain;  // [width]
  double eps = 1e-5;

  struct saved {
    view<const T> x;  // [rows, width], the caller's
    view<A> rstd;     // [rows]
  };

  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s) const {
    s = {x, keep.template take<A>(x.extent(0))};
    rms_norm_forward(e, x, gain.value, eps, y, s.rstd);
  }
  /// y once more, from what the forward kept: the same bits.
  template <class Exec>
  void forward_again(Exec e, view<T> y, const saved& s) const {
    rms_norm_forward(e, s.x, gain.value, eps, y, s.rstd);
  }
  /// dx is assigned; the gain's gradient is accumulated.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    rms_norm_backward(e, dy, s.x, gain.value, view<const A>(s.rstd), dx, gain.gradient);
  }
};

}  // namespace moefold
