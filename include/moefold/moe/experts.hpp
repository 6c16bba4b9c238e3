#pragma once
// Grouped experts: the local experts of this rank, each a slice [F/ETP] of its ffn width, over rows grouped by expert.
//
//   swiglu   y = W2 ( silu(W1 x) * (W3 x) * p )      W1 gate, W3 up: [local experts, F/ETP, H]; W2 down: [local experts, H, F/ETP]
//   gelu     y = W2 ( gelu(W1 x) * p )               W1 up; there is no gate
//   p is applied before W2, so its gradient is a sum over F, not H. With ETP > 1, y, dx and dp are partial sums over etp.
#include <moefold/core/model_shape.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/deferred.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/layers/scaled_product.hpp>
#include <moefold/ops/activation.hpp>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/tensor/arena.hpp>

namespace moefold {

/// What the three products see of their inputs (layers/scaled_product.hpp).
template <class Precision>
struct expert_inputs {
  [[no_unique_address]] product_inputs<Precision> gate{};
  [[no_unique_address]] product_inputs<Precision> up{};
  [[no_unique_address]] product_inputs<Precision> down{};
};

template <class Precision>
struct grouped_experts {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  parameter<Precision, expert_rows> gate;     // [local experts, F/ETP, H]; none for gelu
  parameter<Precision, expert_rows> up;       // [local experts, F/ETP, H]
  parameter<Precision, expert_columns> down;  // [local experts, H, F/ETP]
  activation_function activation = activation_function::swiglu;
  bool keep_act = true;  // or compute it again in backward
  [[no_unique_address]] expert_inputs<Precision> inputs{};

  struct saved {
    view<const T> x;                        // [R, H], the ticket's
    view<const A> weight;                   // [R], the ticket's
    std::span<const std::int64_t> offsets;  // [local experts + 1], the ticket's, memory of the exec
    view<T> gate, up, act;                  // [R, F/ETP]; act only where it is kept
  };

  bool gated() const { return activation == activation_function::swiglu; }

  /// x [R, H], weight [R], offsets [local experts + 1] -> y [R, H], assigned. Local.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<const A> weight, std::span<const std::int64_t> offsets, view<T> y, Arena& keep,
               saved& s) const {
    scratch local(e);
    take(x, weight, offsets, keep, s);
    product(e, up, inputs.up, x, offsets, s.up);
    if (gated()) product(e, gate, inputs.gate, x, offsets, s.gate);
    product(e, down, inputs.down, act_of(e, s, true, local), offsets, y);
  }

  /// dy [R, H] -> dx [R, H] and dweight [R], assigned; weight gradients are accumulated, those of experts without rows untouched. Local.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, view<A> dweight, const saved& s) const {
    scratch local(e);
    const extent_t rows = dy.extent(0), width = up.value.extent(1);
    view<T> dact = local.template take<T>(rows, width), dup = local.template take<T>(rows, width);
    product_backward(e, down, inputs.down, dy, act_of(e, s, false, local), s.offsets, dact);
    if (!gated()) {
      gelu_backward(e, view<const T>(dact), view<const T>(s.up), s.weight, dup, dweight);
    } else {
      view<T> dgate = local.template take<T>(rows, width);
      swiglu_backward(e, view<const T>(dact), view<const T>(s.gate), view<const T>(s.up), s.weight, dgate, dup, dweight);
      product_backward(e, gate, inputs.gate, view<const T>(dgate), s.x, s.offsets, dx);
    }
    product_backward(e, up, inputs.up, view<const T>(dup), s.x, s.offsets, dx, T(gated() ? 1 : 0));
  }

 protected:
  /// x [R, in] -> y [R, out], assigned.
  template <class Exec, class Placement>
  static void product(Exec e, const parameter<Precision, Placement>& weight, const product_inputs<Precision>& seen, view<const T> x,
                      std::span<const std::int64_t> offsets, view<T> y) {
    scratch local(e);
    grouped_gemm_nt(e, seen.x(e, x, local), seen.weight(e, weight.value, local), offsets, y);
  }
  /// dy [R, out], x [R, in] -> dx [R, in] (dx = dy W + beta dx); the weight's gradient is accumulated.
  template <class Exec, class Placement>
  static void product_backward(Exec e, const parameter<Precision, Placement>& weight, const product_inputs<Precision>& seen,
                               view<const T> dy, view<const T> x, std::span<const std::int64_t> offsets, view<T> dx, T beta = T(0)) {
    scratch local(e);
    const view<const T> d = seen.dy(e, dy, local);
    grouped_weight_gradient(e, d, seen.x(e, x, local), offsets, weight.gradient);
    grouped_gemm_nn(e, d, seen.weight(e, weight.value, local), offsets, dx, beta);
  }
  /// Memory for what backward needs.
  template <class Arena>
  void take(view<const T> x, view<const A> weight, std::span<const std::int64_t> offsets, Arena& keep, saved& s) const {
    const extent_t rows = x.extent(0), width = up.value.extent(1);
    s = {x,
         weight,
         offsets,
         gated() ? keep.template take<T>(rows, width) : view<T>{},
         keep.template take<T>(rows, width),
         keep_act ? keep.template take<T>(rows, width) : view<T>{}};
  }
  /// act [R, F/ETP] from gate and up; in backward nothing is computed where it was kept.
  template <class Exec>
  view<const T> act_of(Exec e, const saved& s, bool forward, scratch<Exec>& local) const {
    if (!forward && keep_act) return s.act;
    const view<T> act = keep_act ? s.act : local.template take<T>(s.up.shape());
    if (gated())
      swiglu_forward(e, view<const T>(s.gate), view<const T>(s.up), s.weight, act);
    else
      gelu_forward(e, view<const T>(s.up), s.weight, act);
    return act;
  }
};

}  // namespace moefold
