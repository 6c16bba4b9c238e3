#pragma once
// One transformer block: RMSNorm, attention, residual; RMSNorm, MoE, residual. Rows come in and leave in the sequence-parallel layout.
//
//   h = x + attention(norm(x))       y = h + moe(norm(h))       x, h, y: [T/TP, H] of this rank
#include <moefold/attention/attention.hpp>
#include <moefold/layers/norm.hpp>
#include <moefold/moe/moe.hpp>
#include <moefold/ops/elementwise.hpp>

namespace moefold {

template <class Precision, class Comm, class Context, class MoePolicy>
class block_layer {
 public:
  using T = typename Precision::storage;
  using attention_type = attention_layer<Precision, Comm, Context>;
  using moe_type = moe_layer<Precision, Comm, MoePolicy>;

  struct saved {
    typename norm_layer<Precision>::saved attention_norm, moe_norm;
    typename attention_type::saved attention;
    typename moe_type::saved moe;
  };

  block_layer(norm_layer<Precision> attention_norm, attention_type attention, norm_layer<Precision> moe_norm, moe_type moe)
      : attention_norm_(attention_norm), attention_(std::move(attention)), moe_norm_(moe_norm), moe_(std::move(moe)) {}

  /// x [rows, H] -> y [rows, H], assigned. Collective over tp, cp, ep and etp, and what the MoE layer needs besides.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s, extent_t layer, const routing_context& where) const {
    const extent_t rows = x.extent(0), hidden = x.extent(1);
    view<T> normed = keep.template take<T>(rows, hidden), h = keep.template take<T>(rows, hidden);
    attention_norm_.forward(e, x, normed, keep, s.attention_norm);
    attention_.forward(e, view<const T>(normed), h, keep, s.attention);
    accumulate(e, x, h);
    normed = keep.template take<T>(rows, hidden);
    moe_norm_.forward(e, view<const T>(h), normed, keep, s.moe_norm);
    moe_.forward(e, view<const T>(normed), y, keep, s.moe, layer, where);
    accumulate(e, view<const T>(h), y);
  }

  /// dy [rows, H] -> dx [rows, H], assigned; parameter gradients are accumulated. Collective over tp, cp, ep and etp.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    const extent_t rows = dy.extent(0), hidden = dy.extent(1);
    scratch local(e);
    view<T> dnormed = local.template take<T>(rows, hidden), dh = local.template take<T>(rows, hidden);
    moe_.backward(e, dy, dnormed, s.moe);
    moe_norm_.backward(e, view<const T>(dnormed), dh, s.moe_norm);
    accumulate(e, dy, dh);
    attention_.backward(e, view<const T>(dh), dnormed, s.attention);
    attention_norm_.backward(e, view<const T>(dnormed), dx, s.attention_norm);
    accumulate(e, view<const T>(dh), dx);
  }

 private:
  norm_layer<Precision> attention_norm_;
  attention_type attention_;
  norm_layer<Precision> moe_norm_;
  moe_type moe_;
};

}  // namespace moefold
