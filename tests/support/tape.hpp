#pragma once
// Reverse-mode automatic differentiation in double: a formula written once with `var` yields every gradient, so that a test's reference
// needs no hand-written backward pass.
//
//   tape t;  const var x = t.leaf(2), y = x * exp(x);  t.backward(y);  t.gradient(x) == 3 * std::exp(2)
// A node names at most two earlier nodes and the derivatives along them; backward() walks all nodes once, last to first. Node 0 stands
// for every constant. A var is a value, a place and a pointer to its tape, which must outlive it. One tape belongs to one thread.
#include <cmath>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace moefold::test {

class var;

class tape {
 public:
  tape() = default;
  tape(const tape&) = delete;
  tape& operator=(const tape&) = delete;

  var leaf(double value);
  /// Afterwards gradient(x) = d root / d x for every x of this tape. May be called again, with another root.
  void backward(const var& root);
  double gradient(const var& x) const;
  std::size_t size() const { return nodes_.size(); }

 private:
  friend class var;
  struct node {
    std::int32_t a = 0, b = 0;
    double da = 0, db = 0;
  };
  std::vector<node> nodes_{1};
  std::vector<double> gradient_;
};

class var {
 public:
  var(double constant = 0) : value_(constant) {}
  double value() const { return value_; }

  friend var operator+(var a, var b) { return join(a, b, a.value_ + b.value_, 1, 1); }
  friend var operator-(var a, var b) { return join(a, b, a.value_ - b.value_, 1, -1); }
  friend var operator*(var a, var b) { return join(a, b, a.value_ * b.value_, b.value_, a.value_); }
  friend var operator/(var a, var b) { return join(a, b, a.value_ / b.value_, 1 / b.value_, -a.value_ / (b.value_ * b.value_)); }
  friend var operator-(var a) { return join(a, {}, -a.value_, -1, 0); }
  var& operator+=(var other) { return *this = *this + other; }

  friend var exp(var a) {
    const double e = std::exp(a.value_);
    return join(a, {}, e, e, 0);
  }
  friend var log(var a) { return join(a, {}, std::log(a.value_), 1 / a.value_, 0); }
  friend var erf(var a) { return join(a, {}, std::erf(a.value_), 1.1283791670955126 * std::exp(-a.value_ * a.value_), 0); }  // 2/sqrt(pi)
  /// 1 / (1 + e^-a), in the form whose exponential cannot overflow.
  friend var sigmoid(var a) {
    const double e = std::exp(-std::abs(a.value_)), s = (a.value_ < 0 ? e : 1) / (1 + e);
    return join(a, {}, s, e / ((1 + e) * (1 + e)), 0);
  }

  friend bool operator==(var a, var b) { return a.value_ == b.value_; }
  friend std::partial_ordering operator<=>(var a, var b) { return a.value_ <=> b.value_; }

 private:
  friend class tape;
  var(double value, tape* home) : value_(value), place_(std::int32_t(home->nodes_.size())), home_(home) {}
  static var join(var a, var b, double value, double da, double db) {
    tape* const home = a.home_ != nullptr ? a.home_ : b.home_;
    if (home == nullptr) return value;
    const var result(value, home);
    home->nodes_.push_back({a.place_, b.place_, da, db});
    return result;
  }

  double value_;
  std::int32_t place_ = 0;
  tape* home_ = nullptr;
};

inline var tape::leaf(double value) {
  const var x(value, this);
  nodes_.push_back({});
  return x;
}
inline void tape::backward(const var& root) {
  gradient_.assign(nodes_.size(), 0.0);
  gradient_[std::size_t(root.place_)] = 1;
  for (std::size_t i = nodes_.size(); i-- > 1;) {
    const node& n = nodes_[i];
    const double g = gradient_[i];
    if (g == 0) continue;  // also 0 * infinity: what the root does not see adds nothing
    gradient_[std::size_t(n.a)] += g * n.da;
    gradient_[std::size_t(n.b)] += g * n.db;
  }
}
inline double tape::gradient(const var& x) const { return x.home_ == this ? gradient_.at(std::size_t(x.place_)) : 0; }

}  // namespace moefold::test
