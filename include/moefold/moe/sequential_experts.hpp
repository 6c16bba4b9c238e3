#pragma once
// The readable twin of the grouped experts: one expert after the other, each an ordinary feed-forward layer over its own rows. The same numbers to
// rounding; choose it as `experts` of a MoE policy to look for a fault, or to read how an expert works.
//
//   for every local expert e:   rows offsets[e] .. offsets[e + 1] - 1 of x   ->   y = W2 ( act(W1 x [, W3 x]) * p )
#include <moefold/moe/experts.hpp>

namespace moefold {

template <class Precision>
struct sequential_experts : grouped_experts<Precision> {
  using base = grouped_experts<Precision>;
  using typename base::A;
  using typename base::saved;
  using typename base::T;

  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<const A> weight, std::span<const std::int64_t> offsets, view<T> y, Arena& keep,
               saved& s) const {
    this->take(x, weight, offsets, keep, s);
    for_each_expert(s, [&](extent_t expert, auto own) {
      scratch local(e);
      gemm_nt(e, own(x), matrix(this->up.value, expert), own(s.up));
      if (this->gated()) gemm_nt(e, own(x), matrix(this->gate.value, expert), own(s.gate));
      gemm_nt(e, act_of_own(e, s, own, true, local), matrix(this->down.value, expert), own(y));
    });
  }

  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, view<A> dweight, const saved& s) const {
    const extent_t width = this->up.value.extent(1);
    for_each_expert(s, [&](extent_t expert, auto own) {
      scratch local(e);
      const extent_t rows = own(dy).extent(0);
      const view<T> dact = local.template take<T>(rows, width), dup = local.template take<T>(rows, width);
      gemm_nn(e, own(dy), matrix(this->down.value, expert), dact);
      weight_gradient(e, own(dy), act_of_own(e, s, own, false, local), matrix(this->down.gradient, expert));
      if (this->gated()) {
        const view<T> dgate = local.template take<T>(rows, width);
        swiglu_backward(e, view<const T>(dact), view<const T>(own(s.gate)), view<const T>(own(s.up)), own(s.weight), dgate, dup,
                        own(dweight));
        weight_gradient(e, view<const T>(dgate), own(s.x), matrix(this->gate.gradient, expert));
        gemm_nn(e, view<const T>(dgate), matrix(this->gate.value, expert), own(dx));
      } else {
        gelu_backward(e, view<const T>(dact), view<const T>(own(s.up)), own(s.weight), dup, own(dweight));
      }
      weight_gradient(e, view<const T>(dup), own(s.x), matrix(this->up.gradient, expert));
      gemm_nn(e, view<const T>(dup), matrix(this->up.value, expert), own(dx), T(this->gated() ? 1 : 0));
    });
  }

 private:
  /// act of one expert's rows.
  template <class Exec, class Own>
  view<const T> act_of_own(Exec e, const saved& s, const Own& own, bool forward, scratch<Exec>& local) const {
    saved part = s;
    part.weight = own(s.weight), part.up = own(s.up);
    if (this->gated()) part.gate = own(s.gate);
    if (this->keep_act) part.act = own(s.act);
    return this->act_of(e, part, forward, local);
  }
  /// f(expert, own) for every expert that has rows; own(v): its rows of v.
  template <class F>
  static void for_each_expert(const saved& s, F&& f) {
    for (extent_t expert = 0; expert + 1 < extent_t(s.offsets.size()); ++expert) {
      const extent_t first = s.offsets[std::size_t(expert)], count = s.offsets[std::size_t(expert) + 1] - first;
      if (count > 0) f(expert, [=](auto v) { return v.rows(first, count); });
    }
  }
  template <class U>
  static view<U> matrix(view<U> all, extent_t expert) {
    return all.rows(expert, 1).as({all.extent(1), all.extent(2)});
  }
};

}  // namespace moefold
