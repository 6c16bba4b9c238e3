#pragma once
// One transformer block: RMSNorm, attention, residual; RMSNorm, MoE or (a dense block) MLP, residual. Rows come in and leave in the sequence-parallel
// layout.
//
//   h = x + attention(norm(x))       y = h + moe(norm(h))       x, h, y: [T/TP, H] of this rank
// What it keeps for backward goes into one arena; what the rule of core/recompute.hpp recomputes goes into another, which is free again at the end of
// either pass.
#include <moefold/attention/attention.hpp>
#include <moefold/core/recompute.hpp>
#include <moefold/layers/norm.hpp>
#include <moefold/moe/moe.hpp>
#include <moefold/ops/elementwise.hpp>

#include <optional>

namespace moefold {

template <class Precision, class Comm, class Context, class MoePolicy>
class block_layer {
 public:
  using T = typename Precision::storage;
  using attention_type = attention_layer<Precision, Comm, Context>;
  using moe_type = moe_layer<Precision, Comm, MoePolicy>;
  using mlp_type = mlp_layer<Precision, Comm>;

  struct saved {
    view<const T> x;  // [rows, H], the caller's
    routing_context where{};
    std::span<const std::int32_t> first{};  // where documents begin (attention/sequence_map.hpp)
    extent_t layer = 0;
    typename norm_layer<Precision>::saved attention_norm, moe_norm;
    typename attention_type::saved attention;
    typename moe_type::saved moe;  // what was counted is kept whatever is recomputed
    typename mlp_type::saved mlp;  // of a dense block
  };

  block_layer(norm_layer<Precision> attention_norm, attention_type attention, norm_layer<Precision> moe_norm, moe_type moe,
              const recompute_rule& recompute = {})
      : attention_norm_(attention_norm), attention_(std::move(attention)), moe_norm_(moe_norm), moe_(std::move(moe)),
        recompute_(recompute) {}
  /// A dense block. What the rule says of MoE layers does not concern it.
  block_layer(norm_layer<Precision> attention_norm, attention_type attention, norm_layer<Precision> mlp_norm, const mlp_type& mlp,
              const recompute_rule& recompute = {})
      : attention_norm_(attention_norm), attention_(std::move(attention)), moe_norm_(mlp_norm), mlp_(mlp),
        recompute_(recompute.without(recompute_part::moe)) {}

  bool dense() const { return !moe_.has_value(); }

  /// x [rows, H] -> y [rows, H], assigned. Collective over tp, cp, ep and etp, and what the MoE layer needs besides. `again`: of the rank, for what is
  /// recomputed; untouched, and may be `keep` itself, where nothing is.
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, Arena& again, saved& s, extent_t layer, const routing_context& where,
               std::span<const std::int32_t> first = {}) const {
    s.first = first, s.x = x, s.where = where, s.layer = layer;
    if (!recompute_.any()) return compute(e, y, keep, keep, keep, s);
    const auto mark = again.mark();
    using enum recompute_part;
    compute(e, y, recompute_.full ? again : keep, recompute_.twice(norms) ? again : keep,
            recompute_.twice(recompute_part::moe) ? again : keep, s);
    if (recompute_.twice(recompute_part::moe) && !dense()) moe_type::keep_numbers(e, keep, s.moe);
    again.release(mark);
  }
  template <class Exec, class Arena>
  void forward(Exec e, view<const T> x, view<T> y, Arena& keep, saved& s, extent_t layer, const routing_context& where) const {
    require(!recompute_.any(), "moefold: a block that recomputes (", describe(recompute_), ") needs an arena for it beside the kept one");
    forward(e, x, y, keep, keep, s, layer, where);
  }

  /// dy [rows, H] -> dx [rows, H], assigned; parameter gradients are accumulated. Collective over tp, cp, ep and etp, and what is recomputed over
  /// what its forward needs.
  template <class Exec>
  void backward(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    require(!recompute_.any(), "moefold: a block that recomputes (", describe(recompute_), ") needs an arena for it in backward");
    backward_of(e, dy, dx, s);
  }
  template <class Exec, class Arena>
  void backward(Exec e, view<const T> dy, view<T> dx, Arena& again, const saved& kept) const {
    if (!recompute_.any()) return backward_of(e, dy, dx, kept);
    using enum recompute_part;
    const extent_t rows = dy.extent(0), hidden = dy.extent(1);
    const auto mark = again.mark();
    saved s = kept;
    {
      scratch local(e);
      if (recompute_.full) compute(e, local.template take<T>(rows, hidden), again, again, again, s);
      if (recompute_.has(norms)) {
        const view<T> first = again.template take<T>(rows, hidden), second = again.template take<T>(rows, hidden);
        attention_norm_.forward_again(e, first, s.attention_norm);
        moe_norm_.forward_again(e, second, s.moe_norm);
        s.attention.x = first, s.moe.router.x = second, s.moe.shared.x = second, s.mlp.x = second;
      }
      if (recompute_.has(recompute_part::moe)) {
        const view<const T> normed = s.moe.router.x;
        moe_->forward(e, normed, local.template take<T>(rows, hidden), again, s.moe, s.layer, s.where);
      }
    }
    backward_of(e, dy, dx, s);
    again.release(mark);
  }

 private:
  /// s.x -> y. What backward needs goes into three arenas: the normed inputs, the MoE layer's, all else.
  template <class Exec, class Arena>
  void compute(Exec e, view<T> y, Arena& keep, Arena& norms, Arena& moe, saved& s) const {
    const extent_t rows = y.extent(0), hidden = y.extent(1);
    view<T> normed = norms.template take<T>(rows, hidden), h = keep.template take<T>(rows, hidden);
    attention_norm_.forward(e, s.x, normed, keep, s.attention_norm);
    attention_.forward(e, view<const T>(normed), h, keep, s.attention, s.first);
    accumulate(e, s.x, h);
    normed = norms.template take<T>(rows, hidden);
    moe_norm_.forward(e, view<const T>(h), normed, keep, s.moe_norm);
    if (dense())
      mlp_.forward(e, view<const T>(normed), y, moe, s.mlp);
    else
      moe_->forward(e, view<const T>(normed), y, moe, s.moe, s.layer, s.where);
    accumulate(e, view<const T>(h), y);
  }
  template <class Exec>
  void backward_of(Exec e, view<const T> dy, view<T> dx, const saved& s) const {
    const extent_t rows = dy.extent(0), hidden = dy.extent(1);
    scratch local(e);
    view<T> dnormed = local.template take<T>(rows, hidden), dh = local.template take<T>(rows, hidden);
    if (dense())
      mlp_.backward(e, dy, dnormed, s.mlp);
    else
      moe_->backward(e, dy, dnormed, s.moe);
    moe_norm_.backward(e, view<const T>(dnormed), dh, s.moe_norm);
    accumulate(e, dy, dh);
    attention_.backward(e, view<const T>(dh), dnormed, s.attention);
    attention_norm_.backward(e, view<const T>(dnormed), dx, s.attention_norm);
    accumulate(e, view<const T>(dh), dx);
  }

  norm_layer<Precision> attention_norm_;
  attention_type attention_;
  norm_layer<Precision> moe_norm_;
  std::optional<moe_type> moe_;  // none: dense
  mlp_type mlp_{};
  recompute_rule recompute_;
};

}  // namespace moefold
