#pragma once
// Weight gradients now or later. Layers hand their products dW += dy^T x to weight_gradient; where the rank's context holds a list of deferred
// products (a schedule that splits its backward), dy and x are copied into it and the product is made when the list is run.
//
//   backward_input   e.deferred() = list:   dx at once, (dy, x, dW) noted        backward_weight   list.run(e):   the noted products, in their order
#include <moefold/core/exec.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/tensor/arena.hpp>

#include <algorithm>
#include <vector>

namespace moefold {

/// The products of one (micro-batch, chunk) pair. Reused from step to step: after warm-up it allocates nothing.
template <class Exec>
class deferred_products_of {
 public:
  /// dy [rows, out], x [rows, in], gradient [out, in]; with offsets (ops/grouped_gemm.hpp) gradient [groups, out, in]. Copies dy, x and offsets.
  template <class D, class T, class G>
  void add(Exec e, view<const D> dy, view<const T> x, view<G> gradient, std::span<const std::int64_t> offsets = {}) {
    products_.push_back({&make<D, T, G>, copied(e, dy), copied(e, x), gradient.data(), dy.extent(0), dy.row_size(), x.row_size(),
                         copied(e, view<const std::int64_t>(offsets.data(), {extent_t(offsets.size())})), extent_t(offsets.size())});
  }
  /// Adds all products to their gradients and forgets them.
  void run(Exec e) {
    for (const product& p : products_) p.make(e, p);
    clear();
  }
  void clear() {
    products_.clear();
    keep_.clear();
  }
  void reserve(std::size_t bytes) { keep_.reserve(bytes); }
  std::size_t peak() const { return keep_.peak(); }  // bytes

 private:
  struct product {
    void (*make)(Exec, const product&);
    const void *dy, *x;
    void* gradient;
    extent_t rows, out, in;
    const void* offsets;
    extent_t offset_count;  // groups + 1; 0: one product
  };
  template <class T>
  const T* copied(Exec e, view<const T> from) {
    if (from.empty()) return nullptr;
    const view<T> to = keep_.template take<T>(from.shape());
    copy(e, from, to);
    return to.data();
  }
  template <class D, class T, class G>
  static void make(Exec e, const product& p) {
    const view<const D> dy(static_cast<const D*>(p.dy), {p.rows, p.out});
    const view<const T> x(static_cast<const T*>(p.x), {p.rows, p.in});
    G* const gradient = static_cast<G*>(p.gradient);
    if (p.offset_count == 0) return gemm_tn(e, dy, x, view<G>(gradient, {p.out, p.in}), accumulate_t<G>(1));
    grouped_gemm_tn(e, dy, x, {static_cast<const std::int64_t*>(p.offsets), std::size_t(p.offset_count)},
                    view<G>(gradient, {p.offset_count - 1, p.out, p.in}));
  }

  basic_arena<typename Exec::memory> keep_;
  std::vector<product> products_;
};
using deferred_products = deferred_products_of<host_exec>;

/// gradient [out, in] += dy [rows, out]^T x [rows, in], now or when the deferred products are run.
template <class Exec, class D, class T, class G>
void weight_gradient(Exec e, view<const D> dy, view<const T> x, view<G> gradient) {
  if (deferred_products_of<Exec>* later = e.deferred()) return later->add(e, dy, x, gradient);
  gemm_tn(e, dy, x, gradient, accumulate_t<G>(1));
}
/// The same for groups of rows: gradient [groups, out, in].
template <class Exec, class D, class T, class G>
void grouped_weight_gradient(Exec e, view<const D> dy, view<const T> x, std::span<const std::int64_t> offsets, view<G> gradient) {
  if (deferred_products_of<Exec>* later = e.deferred()) return later->add(e, dy, x, gradient, offsets);
  grouped_gemm_tn(e, dy, x, offsets, gradient);
}

/// While it lives, the weight gradients of this rank are noted in `list`.
template <class Exec>
class deferring {
 public:
  deferring(Exec e, deferred_products_of<Exec>& list) : e_(e), before_(std::exchange(e.deferred(), &list)) {}
  ~deferring() { e_.deferred() = before_; }
  deferring(const deferring&) = delete;
  deferring& operator=(const deferring&) = delete;

 private:
  Exec e_;
  deferred_products_of<Exec>* before_;
};

}  // namespace moefold
