#pragma once
// Finite differences in fp64: the independent witness for every hand-written backward pass.
//
//   slope = (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12 h        error O(h^4): with h = 1e-3 about 1e-11
//   A test weighs the operation's output with random numbers w: loss = sum(w y), so dy = w, and compares dx with the slope along x.
#include <moefold/tensor/tensor.hpp>

namespace moefold::test {

/// d loss() / d x, element by element; x is restored. `loss` reads x through the caller's own view of it.
template <class Loss>
tensor<double> numerical_gradient(view<double> x, Loss loss, double h = 1e-3) {
  tensor<double> slope(x.shape());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    const auto f = [&](double step) {
      x[i] = at + step;
      return double(loss());
    };
    const double near = f(h) - f(-h), far = f(2 * h) - f(-2 * h);
    x[i] = at;
    slope[i] = (8 * near - far) / (12 * h);
  }
  return slope;
}

template <class A, class B>
double dot(const A& a, const B& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

}  // namespace moefold::test
