#pragma once
// The readable twin of the grouped experts: one expert after the other, each an ordinary feed-forward layer over its own rows. The same numbers to
// rounding; choose it as `experts` of a MoE policy to look for a fault, or to read how an expert works.
//
// On a device the host waits for the offsets in every pass.
// Under a policy that quantises, a tensor without a past is scaled expert by expert here, and for all local experts at once there.
//
//   for every local expert e:   rows offsets[e] .. offsets[e + 1] - 1 of x   ->   y = W2 ( act(W1 x [, W3 x]) * p )
#include <moefold/layers/linear.hpp>
#include <moefold/moe/experts.hpp>
#include <moefold/tensor/copy.hpp>

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
    for_each_expert(e, s, [&](extent_t expert, auto own) {
      scratch local(e);
      of(this->up, this->inputs.up, expert).forward(e, own(x), own(s.up));
      if (this->gated()) of(this->gate, this->inputs.gate, expert).forward(e, own(x), own(s.gate));
      of(this->down, this->inputs.down, expert).forward(e, act_of_own(e, s, own, true, local), own(y));
    });
  }

  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, view<A> dweight, const saved& s) const {
    const extent_t width = this->up.value.extent(1);
    for_each_expert(e, s, [&](extent_t expert, auto own) {
      scratch local(e);
      const extent_t rows = own(dy).extent(0);
      const view<T> dact = local.template take<T>(rows, width), dup = local.template take<T>(rows, width);
      of(this->down, this->inputs.down, expert).backward(e, own(dy), act_of_own(e, s, own, false, local), dact);
      if (this->gated()) {
        const view<T> dgate = local.template take<T>(rows, width);
        swiglu_backward(e, view<const T>(dact), view<const T>(own(s.gate)), view<const T>(own(s.up)), own(s.weight), dgate, dup,
                        own(dweight));
        of(this->gate, this->inputs.gate, expert).backward(e, view<const T>(dgate), own(s.x), own(dx));
      } else {
        gelu_backward(e, view<const T>(dact), view<const T>(own(s.up)), own(s.weight), dup, own(dweight));
      }
      of(this->up, this->inputs.up, expert).backward(e, view<const T>(dup), own(s.x), own(dx), T(this->gated() ? 1 : 0));
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
  template <class Exec, class F>
  static void for_each_expert(Exec e, const saved& s, F&& f) {
    scratch known(e);
    const view<const std::int64_t> offsets = on_host(e, view<const std::int64_t>(s.offsets), known);
    for (extent_t expert = 0; expert + 1 < extent_t(offsets.size()); ++expert) {
      const extent_t first = offsets(expert), count = offsets(expert + 1) - first;
      if (count > 0) f(expert, [=](auto v) { return v.rows(first, count); });
    }
  }
  /// One expert's product.
  template <class Placement>
  static linear<Precision, Placement> of(const parameter<Precision, Placement>& all, const product_inputs<Precision>& inputs,
                                         extent_t expert) {
    return {{matrix(all.value, expert), matrix(all.gradient, expert)}, inputs};
  }
  template <class U>
  static view<U> matrix(view<U> all, extent_t expert) {
    return all.rows(expert, 1).as({all.extent(1), all.extent(2)});
  }
};

}  // namespace moefold
