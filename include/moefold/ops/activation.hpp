#pragma once
// The gated activation of an expert, with the router's probability applied before the second linear layer (so that one factor serves
// forward, backward and the router's gradient). The mathematics of one element is shared with the CUDA twin (activation.cuh).
//
//   gate, up [R, F]   p [R]   ->   out [R, F] = silu(gate) * up * p            and without a gate: gelu(up) * p
//   backward: dgate = dout up p silu'(gate)     dup = dout silu(gate) p     dp [R] = sum over F of dout silu(gate) up
//
//   gelu(x) = x * Phi(x), Phi the normal distribution function (by erf, not by tanh)
//
// Sources: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202; Hendrycks and Gimpel 2016, arXiv 1606.08415.
#include <moefold/ops/exp.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

template <class A>
MOEFOLD_HD inline A swiglu_value(A gate, A up, A p) {
  return gate * logistic(gate) * up * p;
}

template <class A>
struct swiglu_gradient {
  A gate, up, p;  // d loss / d each; p: this element's term of the row's sum
};

template <class A>
MOEFOLD_HD inline swiglu_gradient<A> swiglu_gradient_of(A dout, A gate, A up, A p) {
  const A sigma = logistic(gate), silu = gate * sigma;
  return {dout * up * p * (sigma + silu * (A(1) - sigma)), dout * silu * p, dout * silu * up};
}

template <class A>
MOEFOLD_HD inline A gelu_value(A up, A p) {
  return up * A(0.5) * (A(1) + std::erf(up * A(0.70710678118654752440))) * p;
}

template <class A>
struct gelu_gradient {
  A up, p;  // d loss / d each; p: this element's term of the row's sum
};

template <class A>
MOEFOLD_HD inline gelu_gradient<A> gelu_gradient_of(A dout, A up, A p) {
  const A below = A(0.5) * (A(1) + std::erf(up * A(0.70710678118654752440))), density = A(0.39894228040143267794) * exp_of(-up * up / A(2));
  return {dout * p * (below + up * density), dout * up * below};
}

template <class T>
void swiglu_forward(host_exec, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("swiglu_forward", "gate", gate, rows, width);
  require_matrix("swiglu_forward", "up", up, rows, width);
  require_count("swiglu_forward", "p", p.size(), rows);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const g = gate.data() + r * width;
    const T* const u = up.data() + r * width;
    T* const y = out.data() + r * width;
    const A weight = p.data()[r];
    for (extent_t c = 0; c < width; ++c) y[c] = T(swiglu_value(A(g[c]), A(u[c]), weight));
  }
}

/// dgate and dup may be the memory of gate and up.
template <class T>
void swiglu_backward(host_exec, input<T> dout, input<T> gate, input<T> up, input<accumulate_t<T>> p, view<T> dgate, output<T> dup,
                     view<accumulate_t<T>> dp) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dgate), width = cols_of(dgate);
  require_matrix("swiglu_backward", "dout", dout, rows, width);
  require_matrix("swiglu_backward", "gate", gate, rows, width);
  require_matrix("swiglu_backward", "up", up, rows, width);
  require_matrix("swiglu_backward", "dup", dup, rows, width);
  require_count("swiglu_backward", "p", p.size(), rows);
  require_count("swiglu_backward", "dp", dp.size(), rows);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const d = dout.data() + r * width;
    const T* const g = gate.data() + r * width;
    const T* const u = up.data() + r * width;
    T* const dg = dgate.data() + r * width;
    T* const du = dup.data() + r * width;
    const A weight = p.data()[r];
    dp.data()[r] = lane_sum<A>(width, [=](extent_t c) {
      const auto grad = swiglu_gradient_of(A(d[c]), A(g[c]), A(u[c]), weight);
      dg[c] = T(grad.gate);
      du[c] = T(grad.up);
      return grad.p;
    });
  }
}

template <class T>
void gelu_forward(host_exec, input<T> up, input<accumulate_t<T>> p, view<T> out) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(out), width = cols_of(out);
  require_matrix("gelu_forward", "up", up, rows, width);
  require_count("gelu_forward", "p", p.size(), rows);
  for (extent_t r = 0; r < rows; ++r)
    for (extent_t c = r * width; c < (r + 1) * width; ++c) out.data()[c] = T(gelu_value(A(up.data()[c]), p.data()[r]));
}

/// dup may be the memory of up.
template <class T>
void gelu_backward(host_exec, input<T> dout, input<T> up, input<accumulate_t<T>> p, view<T> dup, view<accumulate_t<T>> dp) {
  using A = accumulate_t<T>;
  const extent_t rows = rows_of(dup), width = cols_of(dup);
  require_matrix("gelu_backward", "dout", dout, rows, width);
  require_matrix("gelu_backward", "up", up, rows, width);
  require_count("gelu_backward", "p", p.size(), rows);
  require_count("gelu_backward", "dp", dp.size(), rows);
  for (extent_t r = 0; r < rows; ++r) {
    const T* const d = dout.data() + r * width;
    const T* const u = up.data() + r * width;
    T* const du = dup.data() + r * width;
    const A weight = p.data()[r];
    dp.data()[r] = lane_sum<A>(width, [=](extent_t c) {
      const auto grad = gelu_gradient_of(A(d[c]), A(u[c]), weight);
      du[c] = T(grad.up);
      return grad.p;
    });
  }
}

}  // namespace moefold
