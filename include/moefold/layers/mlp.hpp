#pragma once
// A feed-forward layer on the attention mesh: its width is split over tp, rows come in and leave in the sequence-parallel layout. The shared expert
// of a MoE layer is one, where wished with a gate of its own: one learned number per token that scales the output.
//
//   x [n, H] -gather over tp-> [T, H] -W1, W3-> silu * up | gelu [T, F/TP] -W2-> sum, scatter over tp -> z [n, H]     y = z, or sigmoid(x . w) * z
//   Traffic over tp: forward 1 all-gather + 1 reduce-scatter; backward 2 all-gathers + 1 reduce-scatter.
#include <moefold/core/model_shape.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/layers/linear.hpp>
#include <moefold/layers/sequence.hpp>
#include <moefold/ops/activation.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/gate.hpp>

namespace moefold {

template <class Precision>
struct mlp_weights {
  linear<Precision, rows_over_tp> gate;     // [F/TP, H]; none for gelu
  linear<Precision, rows_over_tp> up;       // [F/TP, H]
  linear<Precision, columns_over_tp> down;  // [H, F/TP]
  parameter<Precision, replicated> output;  // [1, H] the gate of the output; none: {}
};

template <class Precision, class Comm>
struct mlp_layer {
  using T = typename Precision::storage;
  using A = typename Precision::accumulate;
  mlp_weights<Precision> weights;
  activation_function activation = activation_function::swiglu;
  Comm* tp = nullptr;
  bool keep_act = true;  // or compute it again in backward

  struct saved {
    view<const T> x;        // [n, H], the caller's
    view<T> gate, up, act;  // [T, F/TP]; act only where it is kept
    view<T> z;              // [n, H], with an output gate
    view<A> opening;        // [n] sigmoid(x . w), with an output gate
  };

  bool gated() const { return activation == activation_function::swiglu; }
  bool scaled() const { return !weights.output.value.empty(); }

  /// x [n, H] -> y [n, H], assigned. Collective over tp.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s) const {
    const extent_t n = x.extent(0), hidden = x.extent(1), tokens = n * tp->size(), width = weights.up.weight.value.extent(0);
    s = {x,
         gated() ? keep.template take<T>(tokens, width) : view<T>{},
         keep.template take<T>(tokens, width),
         keep_act ? keep.template take<T>(tokens, width) : view<T>{},
         scaled() ? keep.template take<T>(n, hidden) : view<T>{},
         scaled() ? keep.template take<A>(n) : view<A>{}};
    scratch local(e);
    const view<const T> all = gather_rows_of_group<T>(e, *tp, x, local);
    const view<A> ones = local.template take<A>(tokens);
    fill(e, ones, A(1));
    weights.up.forward(e, all, s.up);
    if (gated()) weights.gate.forward(e, all, s.gate);
    const view<const T> act = act_of(e, s, ones, true, local);
    const view<T> z = scaled() ? s.z : y;
    const view<T> partial = partial_rows<T, Exec>(*tp, z, local);
    weights.down.forward(e, act, partial);
    sum_and_scatter_rows<T>(e, *tp, partial, z);
    if (scaled()) row_gate_forward(e, x, weights.output.value, view<const T>(z), s.opening, y);
  }

  /// dy [n, H] -> dx [n, H], assigned; weight gradients are accumulated. Collective over tp.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    const extent_t n = dy.extent(0), hidden = dy.extent(1), tokens = n * tp->size(), width = weights.up.weight.value.extent(0);
    scratch local(e);
    view<const T> dz = dy;
    view<A> slope;  // of the gate
    if (scaled()) {
      const view<T> scaled_dy = local.template take<T>(n, hidden);
      slope = local.template take<A>(n);
      row_gate_backward(e, dy, s.z, s.opening, scaled_dy, slope);
      dz = scaled_dy;
    }
    const view<const T> dall = gather_rows_of_group<T>(e, *tp, dz, local), all = gather_rows_of_group<T>(e, *tp, s.x, local);
    const view<T> dact = local.template take<T>(tokens, width), dup = local.template take<T>(tokens, width);
    const view<A> ones = local.template take<A>(tokens), unused = local.template take<A>(tokens);
    fill(e, ones, A(1));
    weights.down.backward(e, dall, act_of(e, s, ones, false, local), dact);
    const view<T> partial = partial_rows<T, Exec>(*tp, dx, local);
    if (gated()) {
      const view<T> dgate = local.template take<T>(tokens, width);
      swiglu_backward(e, view<const T>(dact), view<const T>(s.gate), view<const T>(s.up), view<const A>(ones), dgate, dup, unused);
      weights.gate.backward(e, view<const T>(dgate), all, partial);
    } else {
      gelu_backward(e, view<const T>(dact), view<const T>(s.up), view<const A>(ones), dup, unused);
    }
    weights.up.backward(e, view<const T>(dup), all, partial, T(gated() ? 1 : 0));
    sum_and_scatter_rows<T>(e, *tp, partial, dx);
    if (scaled()) row_gate_accumulate(e, slope, s.x, weights.output.value, dx, weights.output.gradient);
  }

 private:
  /// act [T, F/TP] from gate and up; in backward nothing is computed where it was kept.
  template <class Exec>
  view<const T> act_of(Exec e, const saved& s, view<const A> ones, bool forward, scratch<Exec>& local) const {
    if (!forward && keep_act) return s.act;
    const view<T> act = keep_act ? s.act : local.template take<T>(s.up.shape());
    if (gated())
      swiglu_forward(e, view<const T>(s.gate), view<const T>(s.up), ones, act);
    else
      gelu_forward(e, view<const T>(s.up), ones, act);
    return act;
  }
};

}  // namespace moefold
