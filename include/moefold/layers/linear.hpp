#pragma once
// A matrix product with this rank's slice of a weight: y = x W^T. Column-parallel: gather_rows_of_group, then a linear whose weight has its rows
// over tp. Row-parallel: a linear whose weight has its columns over tp, then sum_and_scatter_rows (layers/sequence.hpp).
#include <moefold/core/exec.hpp>
#include <moefold/layers/deferred.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/layers/scaled_product.hpp>
#include <moefold/ops/gemm.hpp>

namespace moefold {

template <class Precision, class Placement>
struct linear {
  using T = typename Precision::storage;
  parameter<Precision, Placement> weight;  // [out, in] of this rank
  [[no_unique_address]] product_inputs<Precision> inputs{};

  /// x [rows, in] -> y [rows, out] (y = x W^T + beta y): assigned, unless it is to be added to what is there, such as a bias.
  template <class Exec>
  void forward(Exec e, view<const T> x, view<T> y, T beta = T(0)) const {
    scratch local(e);
    gemm_nt(e, inputs.x(e, x, local), inputs.weight(e, weight.value, local), y, beta);
  }
  /// dy [rows, out], x [rows, in] -> dx [rows, in] (dx = dy W + beta dx); the weight's gradient is accumulated.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<const T> x, view<T> dx, T beta = T(0)) const {
    scratch local(e);
    const view<const T> seen = inputs.dy(e, dy, local);
    weight_gradient(e, seen, inputs.x(e, x, local), weight.gradient);
    gemm_nn(e, seen, inputs.weight(e, weight.value, local), dx, beta);
  }
};

}  // namespace moefold
